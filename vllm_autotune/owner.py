"""Which process something belongs to, told apart from any later one with the same number."""

import os
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self


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
        """Return this process."""
        return cls(pid=os.getpid(), started=_started(os.getpid()) or 0, machine=_machine())

    @classmethod
    def read(cls, document: Any) -> Self | None:
        """Return the owner that a JSON document names, None if it names none."""
        try:
            pid, started = int(document["pid"]), int(document["started"])
            return cls(pid=pid, started=started, machine=str(document["machine"]))
        except (KeyError, TypeError, ValueError):
            return None

    def document(self) -> dict[str, Any]:
        """Return what `read` reads."""
        return asdict(self)

    @property
    def is_alive(self) -> bool:
        """Tell whether it surely still runs."""
        return self.machine == _machine() and _started(self.pid) == self.started

    @property
    def is_dead(self) -> bool:
        """Tell whether it is surely gone: of another machine or container, nobody can say."""
        return self.machine == _machine() and _started(self.pid) != self.started


def _started(pid: int) -> int | None:
    """Return when a process started, None if there is none, or only its exit code is left."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = status.rpartition(")")[2].split()  # the name before may hold spaces
    return None if fields[0] in "ZX" else int(fields[19])


@cache
def _machine() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
