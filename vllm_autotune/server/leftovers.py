"""What a trial leaves if nobody cleans up: processes, shared memory, a scratch folder."""

import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..owner import Owner, owned, read_owned
from .processes import end_all, living
from .shared_memory import remove_segments, segments_of

PREFIX = "autotune-"
OWNER = "owner.json"
# A scratch folder without an owner was left in the moment it was made, if it is as old as this.
UNOWNED_SECONDS = 3600.0
# The longest path of a socket, and what vLLM puts behind a folder's: a slash and a UUID.
SOCKET_CHARACTERS = 107
SOCKET_NAME = 37
SHORT = "/tmp"  # noqa: S108  only a folder with a random name is made in it


def make_scratch(trial: str) -> Path:
    """Make the folder for a trial's temporary files; whose it is stands in it.

    Sockets live in it, and their paths are limited: a long TMPDIR is not used.
    """
    scratch = Path(tempfile.mkdtemp(prefix=PREFIX, dir=_places()[-1]))
    (scratch / OWNER).write_text(owned(trial=trial), encoding="utf-8")
    return scratch


def end_trial(trial: str, scratch: Path) -> bool:
    """End what carries the trial's marker, remove its shared memory and folder.

    The folder stays while a process does, so that the next run finds both.
    """
    segments = segments_of(living(trial))
    ended = end_all(lambda: living(trial))
    if ended:
        remove_segments(segments)
        shutil.rmtree(scratch, ignore_errors=True)
    return ended


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """What an autotune that is dead left of one trial."""

    owner: Owner
    trial: str
    scratch: Path
    processes: int

    def remove(self) -> str:
        """Clean it up, and nothing else; return in a sentence what was done."""
        ended = end_trial(self.trial, self.scratch)
        what = f"an autotune that was killed (pid {self.owner.pid}) left {self.scratch}"
        if not self.processes:
            return f"{what}: removed"
        servers = f"{self.processes} process{'es' if self.processes > 1 else ''} of its server"
        return f"{what} and {servers}: {'ended and removed' if ended else 'they cannot be killed'}"


def leftovers() -> Iterator[Leftover]:
    """Yield what autotunes of ours left that died of SIGKILL and whose guardian did as well.

    Another user's folder is none of our business: it could name any trial, even our own.
    """
    found = [scratch for place in _places() for scratch in Path(place).glob(f"{PREFIX}*")]
    for scratch in sorted(found):
        with suppress(OSError):
            status = scratch.lstat()
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
                continue
            owner, document = read_owned(scratch / OWNER)
            if owner is None:
                if time.time() - status.st_mtime > UNOWNED_SECONDS:
                    scratch.rmdir()  # only if it is empty
            elif owner.is_dead:
                trial = str(document.get("trial"))
                count = sum(1 for _ in living(trial))
                yield Leftover(owner=owner, trial=trial, scratch=scratch, processes=count)


def _places() -> list[str]:
    """Return the folders that a scratch folder may be in; new ones are made in the last."""
    usual = tempfile.gettempdir()
    longest = len(os.fsencode(usual)) + len(f"/{PREFIX}12345678") + SOCKET_NAME
    too_long = longest > SOCKET_CHARACTERS and os.access(SHORT, os.W_OK | os.X_OK)
    return [usual, SHORT] if too_long else [usual]
