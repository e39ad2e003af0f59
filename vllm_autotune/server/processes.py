"""Processes: who carries a trial's marker, who is alive, and how to end them all."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil

MARKER = "AUTOTUNE_TRIAL"
KILL_SECONDS = 10.0


def living(trial: str, session: int | None = None) -> Iterator[psutil.Process]:
    """Yield the living processes that carry the trial's marker, and those of a session."""
    marker = f"{MARKER}={trial}".encode()
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):  # it ended meanwhile, or is not ours to read
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            variables = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
            if marker in variables or os.getsid(process.pid) == session:
                yield process


def end_all(those: Callable[[], Iterator[psutil.Process]]) -> bool:
    """Kill until none is left, 10 s at most; tell whether none is.

    psutil knows a process by its start as well, and kills no other that has its number now.
    """
    deadline = time.monotonic() + KILL_SECONDS
    while (left := list(those())) and time.monotonic() < deadline:
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        time.sleep(0.05)
    return not left
