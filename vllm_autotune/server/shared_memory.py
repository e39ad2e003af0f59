"""Segments in /dev/shm: they outlive the processes that made them, and take the host's memory."""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil

from ..files import text_of

FOLDER = Path("/dev/shm")  # noqa: S108
# What Python's multiprocessing, torch, NCCL and vLLM (its offloading buffer) call theirs.
NAMES = ("psm_", "sem.mp-", "torch_", "nccl-", "vllm_")


def all_segments() -> set[Path]:
    """Return every segment with such a name, whoever made it."""
    try:
        return {path for path in FOLDER.iterdir() if path.name.startswith(NAMES)}
    except OSError:
        return set()


def segments_of(processes: Iterable[psutil.Process]) -> set[Path]:
    """Return the segments that these processes have mapped."""
    prefix, found = f"{FOLDER}/", set()
    for process in processes:
        for line in text_of(Path(f"/proc/{process.pid}/maps")).splitlines():
            name = line.partition(prefix)[2]
            if name and "/" not in name and "(deleted)" not in line:
                found.add(FOLDER / name)
    return found


def remove_segments(segments: Iterable[Path]) -> None:
    """Remove those that belong to our user and that no process has mapped."""
    left = all_segments().intersection(segments)
    in_use = segments_of(psutil.process_iter()) if left else set()
    for path in left - in_use:
        with suppress(OSError):
            if path.lstat().st_uid == os.geteuid():
                path.unlink()
