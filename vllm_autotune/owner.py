"""The process that something belongs to, told apart from a later one with the same number."""

import json
import os
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self

from .files import text_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """A process: its number, and when it started, in clock ticks since the machine booted.

    `machine` is the boot and the PID namespace in which the number means something.
    """

    pid: int
    started: int
    machine: str

    @classmethod
    def this(cls) -> Self:
        return cls(pid=os.getpid(), started=_started(os.getpid()) or 0, machine=_machine())

    @property
    def is_alive(self) -> bool:
        return self.machine == _machine() and _started(self.pid) == self.started

    @property
    def is_dead(self) -> bool:
        """Tell whether it surely ended, which cannot be known of another machine or container."""
        return self.machine == _machine() and _started(self.pid) != self.started


def owned(**fields: Any) -> str:
    """Return a JSON document with these fields that names this process as its owner."""
    return json.dumps({**asdict(Owner.this()), **fields}, indent=2)


def read_owned(path: Path) -> tuple[Owner | None, dict[str, Any]]:
    """Return the owner that a JSON file names, and the file's document, empty if unreadable."""
    document: dict[str, Any] = {}
    try:
        document = dict(json.loads(text_of(path)))
        pid, started = int(document["pid"]), int(document["started"])
        return Owner(pid=pid, started=started, machine=str(document["machine"])), document
    except (KeyError, TypeError, ValueError):
        return None, document


def _started(pid: int) -> int | None:
    """Return when a process started, None if there is none or it has ended and is a zombie."""
    fields = text_of(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()  # names hold spaces
    return int(fields[19]) if fields and fields[0] not in "ZX" else None


@cache
def _machine() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
