"""How much of the host's memory we may use in a container, a Slurm job or a systemd unit."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ..files import text_of

MOUNT = Path("/sys/fs/cgroup")
OURS = Path("/proc/self/cgroup")
UNLIMITED = 1 << 62  # cgroup v1 spells "none" as a huge number
# The files of limit and use, and which part of the use the kernel can drop: cgroup v2, v1.
DROPPED_BY_V1 = ("total_active_file", "total_inactive_file")
VERSIONS = (
    ("memory.max", "memory.current", ("active_file", "inactive_file", "slab_reclaimable")),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", DROPPED_BY_V1),
)


def limit_bytes(total: int) -> int:
    """Return how much of `total` our cgroup and those around it may use."""
    return min([total, *(limit for limit, _ in _memory())])


def free_bytes(available: int) -> int:
    """Return how much of `available` they may still use; files that can be dropped are free."""
    return min([available, *(max(0, limit - used) for limit, used in _memory())])


def oom_kills() -> int:
    """Return how many processes the kernel has killed for memory in our cgroup so far."""
    names = ("memory.events", "memory.oom_control")  # cgroup v2, v1
    counted = (_fields(folder / name) for folder in _groups() for name in names)
    return next((fields["oom_kill"] for fields in counted if "oom_kill" in fields), 0)


def _memory() -> Iterator[tuple[int, int]]:
    """Yield limit and use of each group that has a limit, in bytes."""
    for folder in _groups():
        for limit, use, droppable in VERSIONS:
            with suppress(OSError, ValueError):  # absent, or `max`
                bound = int((folder / limit).read_text())
                if bound < UNLIMITED:
                    fields = _fields(folder / "memory.stat")
                    dropped = sum(fields.get(name, 0) for name in droppable)
                    yield bound, max(0, int((folder / use).read_text()) - dropped)


def _groups() -> Iterator[Path]:
    """Yield the folders of our group and of those around it, the innermost first."""
    # A container shows its own group as the root, whatever the kernel calls it.
    for line in text_of(OURS).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            mount, inside = MOUNT / controllers, Path(path.lstrip("/"))
            for folder in (inside, *inside.parents):
                if ".." not in folder.parts and (mount / folder).is_dir():
                    yield mount / folder


def _fields(file: Path) -> dict[str, int]:
    pairs = (line.split() for line in text_of(file).splitlines())
    return {name: int(value) for name, value in pairs}
