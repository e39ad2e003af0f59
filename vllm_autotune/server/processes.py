"""Processes: which of them carry a trial's marker, and how to end them all."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil

MARKER = "AUTOTUNE_TRIAL"
KILL_SECONDS = 10.0


def processes_of(trial: str, session: int | None = None) -> Iterator[psutil.Process]:
    """Yield the processes that carry the trial's marker or are of the session, but no zombies."""
    marker = f"{MARKER}={trial}".encode()
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):  # it ended meanwhile, or is not ours to read
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            variables = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
            if marker in variables or os.getsid(process.pid) == session:
                yield process


def end_all(find: Callable[[], Iterator[psutil.Process]]) -> bool:
    """Kill what `find` yields until it yields nothing, for 10 s at most; tell whether it does."""
    deadline = time.monotonic() + KILL_SECONDS
    while (left := list(find())) and time.monotonic() < deadline:
        for process in left:
            with suppress(psutil.Error):
                process.kill()  # psutil compares its start: no other with its number is killed
        time.sleep(0.05)
    return not left
