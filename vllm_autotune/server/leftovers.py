"""What a trial leaves if nobody cleans up: processes, shared memory, a scratch folder.

We remove it; if we die, our guardian does; if both are killed, the next run does.
"""

import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ..files import write_whole
from ..owner import Owner, owned, read_owned
from .processes import end_all, processes_of
from .shared_memory import remove_segments, segments_of

GUARDIAN_CODE = "import sys; from vllm_autotune.server.leftovers import guard; guard(*sys.argv[1:])"
PREFIX = "autotune-"
OWNER = "owner.json"
# A scratch folder as old as this and still without an owner was never given one.
STALE_SECONDS = 3600.0
# The longest path of a socket, and what vLLM puts behind a folder's: a slash and a UUID.
SOCKET_CHARACTERS = 107
SOCKET_NAME = 37
SHORT = "/tmp"  # noqa: S108  only a folder with a random name is made in it


def make_scratch(trial: str) -> Path:
    """Make the folder for a trial's temporary files, with a file in it that names its owner.

    Sockets live in it, and their paths are limited: a long TMPDIR is not used.
    """
    scratch = Path(tempfile.mkdtemp(prefix=PREFIX, dir=_parents()[-1]))
    write_whole(scratch / OWNER, owned(trial=trial))
    return scratch


def end_trial(trial: str, scratch: Path) -> bool:
    """End every process that carries the trial's marker; remove its shared memory and folder.

    The folder stays as long as a process does, so that the next run finds both.
    """
    segments = segments_of(processes_of(trial))
    ended = end_all(lambda: processes_of(trial))
    if ended:
        remove_segments(segments)
        shutil.rmtree(scratch, ignore_errors=True)
    return ended


def guard(trial: str, scratch: str) -> None:
    """Wait for our parent's end, which closes our stdin even after SIGKILL; end its trial."""
    sys.stdin.buffer.read()
    end_trial(trial, Path(scratch))


def start_guardian(trial: str, scratch: Path) -> subprocess.Popen[bytes]:
    """Start a small process that outlives us and ends our server; closing its stdin ends it."""
    return subprocess.Popen(
        [sys.executable, "-c", GUARDIAN_CODE, trial, str(scratch)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # a Ctrl-C at the terminal must not reach it
    )


def remove_leftovers() -> Iterator[str]:
    """Remove what each autotune left that was killed together with its guardian; yield what it was.

    Another user's folder is not touched: it could name any trial, even our own.
    """
    found = [scratch for parent in _parents() for scratch in Path(parent).glob(f"{PREFIX}*")]
    for scratch in sorted(found):
        with suppress(OSError):
            status = scratch.lstat()
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
                continue
            owner, document = read_owned(scratch / OWNER)
            if owner is None and time.time() - status.st_mtime > STALE_SECONDS:
                scratch.rmdir()  # only if it is empty
            if owner and owner.is_dead:
                yield _remove(owner, str(document.get("trial")), scratch)


def _remove(owner: Owner, trial: str, scratch: Path) -> str:
    """Remove what a dead autotune left of a trial; return what was done, as a sentence."""
    count = sum(1 for _ in processes_of(trial))
    ended = end_trial(trial, scratch)
    what = f"an autotune that was killed (pid {owner.pid}) left {scratch}"
    if not count:
        return f"{what}: removed"
    servers = f"{count} process{'es' if count > 1 else ''} of its server"
    return f"{what} and {servers}: {'ended and removed' if ended else 'they cannot be killed'}"


def _parents() -> list[str]:
    """Return the folders that scratch folders may be in; new ones are made in the last."""
    usual = tempfile.gettempdir()
    longest = len(os.fsencode(usual)) + len(f"/{PREFIX}12345678") + SOCKET_NAME
    too_long = longest > SOCKET_CHARACTERS and os.access(SHORT, os.W_OK | os.X_OK)
    return [usual, SHORT] if too_long else [usual]
