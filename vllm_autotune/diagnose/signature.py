"""A signature: one failure, and how to recognise it in a log."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..outcome import Phase

Kind = Literal["out_of_memory", "rejected", "environment", "crashed", "hung"]
# What the log must have said of the configuration for a line to mean this.
Given = Literal["parallel", "single", "quantized"]

# How much a line says about the cause: a stronger signature replaces a weaker one found before.
ROOT_CAUSE = 5
GENERIC = 4  # the cause, but another line may name it more exactly
CONSEQUENCE = 3  # may follow from another failure, or vLLM may go on in spite of it
ANNOUNCEMENT = 2  # the lines below say what is wrong
PROCESS_DIED = 1  # only that a process is gone
WAIT = 0  # only that something waits, perhaps for a process that is gone

# Needle and pattern of a failure that no line of a log names.
NO_LINE = ("\0", r"(?!)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """Name one failure and how to recognise it.

    `needle` is in every line that `pattern` matches. Groups named like a field of `Readings` are
    numbers (bytes in GiB unless a unit is captured); `argument` is a flag; `reason` may quote any
    group. `phase` None means the last milestone, or what the traceback shows; where neither is
    there it is `usual`. `fatal`: a start cannot survive this line. `serving`: it can also happen
    after the server was ready. `survivable`: vLLM may do without, and reach the next phase.
    `lasting`: another launch would end the same way. `at_any_level`: vLLM prints it as information
    or a warning, too. `versions`: the vLLM that prints it.
    `cures` stand at the first signature of that name, for all of them.
    """

    name: str
    kind: Kind
    needle: str
    pattern: re.Pattern[str]
    reason: str
    cures: tuple[str, ...]
    phase: Phase | None = None
    usual: Phase = "spawn"
    strength: int = ROOT_CAUSE
    fatal: bool = True
    serving: bool = False
    survivable: bool = False
    lasting: bool = False
    at_any_level: bool = False
    given: Given | None = None
    where: Literal["gpu", "host"] = "gpu"
    argument: str | None = None
    versions: str = "0.6.6 to 0.33"


def signature(
    name: str, kind: Kind, needle: str, pattern: str, reason: str, *cures: str, **more: Any
) -> Signature:
    """Make a signature; an empty pattern means the needle itself."""
    compiled = re.compile(pattern or re.escape(needle))
    more.setdefault("survivable", more.get("phase") == "config" and not more.get("fatal", True))
    return Signature(
        name=name, kind=kind, needle=needle, pattern=compiled, reason=reason, cures=cures, **more
    )


def spellings(
    name: str, kind: Kind, known: Mapping[str, str], reason: str, *cures: str, **more: Any
) -> tuple[Signature, ...]:
    """Make one signature for each spelling of a failure: needle to pattern."""
    return tuple(
        signature(name, kind, needle, pattern, reason, *cures, **more)
        for needle, pattern in known.items()
    )
