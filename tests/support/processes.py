"""The processes that tests start: how they are known, found and described."""

import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil

OWNER = str(os.getpid())


def mark_children() -> None:
    """Let every process started from now on be known as ours, whoever adopts it later.

    vLLM's children rename themselves, which wipes their environment as others see it, unless
    SPT_NOENV is set. Whatever started the tests (nohup), what they start heeds a closed terminal.
    """
    os.environ["AUTOTUNE_OWNER"] = OWNER
    os.environ["SPT_NOENV"] = "1"
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def ours_but(before: set[int]) -> set[psutil.Process]:
    """Return the living processes that this one started, without those numbers."""
    found = set()
    for pid in set(psutil.pids()) - before:
        with suppress(psutil.Error, OSError):
            process = psutil.Process(pid)
            if process.status() != psutil.STATUS_ZOMBIE and is_ours(process):
                found.add(process)
    return found


def is_ours(process: psutil.Process) -> bool:
    if any(parent.pid == os.getpid() for parent in process.parents()):
        return True
    return process.environ().get("AUTOTUNE_OWNER") == OWNER


def words_of(process: psutil.Process) -> list[str]:
    """Return its command line, nothing where it has ended meanwhile."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def described(processes: Iterable[psutil.Process]) -> str:
    return "\n".join(f"{p.pid} {' '.join(words_of(p))[:200]}" for p in processes)


def open_files() -> list[str]:
    """Return what our file descriptors stand for."""
    names = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the one that listed the folder
            names.append(str(descriptor.readlink()))
    return sorted(name for name in names if not name.startswith("/proc/"))
