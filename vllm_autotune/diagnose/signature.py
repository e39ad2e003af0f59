"""A signature: one failure, and how to know it in a log."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..outcome import Phase

Kind = Literal["out_of_memory", "rejected", "environment", "crashed"]

# How much a signature says about the cause: a stronger one replaces a weaker one seen before.
ROOT, GENERIC, CONSEQUENCE, HEADING, DEATH = 5, 4, 3, 2, 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """Name one failure and how to know it.

    `needle` is in every line that `pattern` matches. Groups named like a field of `Readings` are
    numbers (bytes in GiB unless a unit is captured); `argument` is a flag, `detail` goes to the
    reason. `phase` None means the last milestone. `fatal`: a start cannot survive this line.
    `serving`: it can also happen after the server was ready. `versions` is where vLLM prints it.
    """

    name: str
    kind: Kind
    needle: str
    pattern: re.Pattern[str]
    reason: str
    cures: tuple[str, ...]
    phase: Phase | None = None
    strength: int = ROOT
    fatal: bool = True
    serving: bool = False
    where: Literal["gpu", "host"] = "gpu"
    argument: str | None = None
    versions: str = "0.6.6 to 0.33"

    @property
    def survivable(self) -> bool:
        """Whether vLLM may try again, or do without: then it reaches the next phase."""
        return self.phase == "config" and not self.fatal


def signature(
    name: str, kind: Kind, needle: str, pattern: str, reason: str, *cures: str, **more: Any
) -> Signature:
    """Make a signature; an empty pattern means the needle itself."""
    return Signature(
        name=name,
        kind=kind,
        needle=needle,
        pattern=re.compile(pattern or re.escape(needle)),
        reason=reason,
        cures=cures,
        **more,
    )


def spellings(
    name: str, kind: Kind, known: Mapping[str, str], reason: str, *cures: str, **more: Any
) -> tuple[Signature, ...]:
    """Make one signature for each spelling of a failure: needle to pattern."""
    return tuple(
        signature(name, kind, needle, pattern, reason, *cures, **more)
        for needle, pattern in known.items()
    )
