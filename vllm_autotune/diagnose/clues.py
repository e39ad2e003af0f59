"""What a line may say, found once for all lines that differ from it in digits only.

The lines of a long log differ in little else. So the costly part, a hundred strings to look for,
is done once per shape of line; only the few patterns that remain read the line itself.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from . import lines
from .milestones import MILESTONES, Milestone
from .signature import Signature
from .signatures import SIGNATURES

REMEMBERED = 512  # shapes
_DIGITS = bytes.maketrans(b"123456789", b"000000000")

Mark = Literal["last word", "stopping", "started again", "eager"]
# Where somebody asked the server to stop, what dies afterwards dies on purpose.
_MARKS: tuple[tuple[Mark, str, str], ...] = (
    ("last word", "Error: Engine ", r"core initialization failed|process failed to start"),
    ("stopping", "[shutdown] ", r"API server: shutdown triggered|EngineCore: (?:trigger|start)"),
    ("stopping", "Shutdown initiated (timeout", ""),
    ("stopping", "Shutting down FastAPI HTTP server", ""),
    ("started again", " version ", r"(?:█|API server) +version v?\d"),
    ("eager", "nforce", r"Enforce eager set|enforce_eager'?[=:] ?True"),
    ("eager", "Cudagraph is disabled", ""),
)

# A line that says anything has one of these in it. They are few, because each costs a pass.
TELLING = (
    *("rror", "ERROR", "xception", "unexpectedly", "ut of memory", "nccl", "[shutdown] "),
    *("Shutting down FastAPI", "Shutdown initiated", " version ", "timed out", "rpc"),
)
TELLING_BEFORE_READY = (
    *TELLING,
    *("nforce", "Cudagraph is disabled"),
    *(milestone.needle for milestone in MILESTONES),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clues:
    """What is worth a closer look in a line; `said_at` is where its prefixes end."""

    said_at: int
    is_source: bool
    is_exception: bool
    marks: frozenset[Mark]
    milestones: tuple[Milestone, ...]
    signatures: tuple[Signature, ...]


def clues_of(line: str) -> Clues:
    """Return what may be in the line."""
    return _clues_of_shape(line.encode(errors="surrogatepass").translate(_DIGITS))


@lru_cache(REMEMBERED)
def _clues_of_shape(shape: bytes) -> Clues:
    line = shape.decode(errors="surrogatepass")
    said = lines.body(line)
    return Clues(
        said_at=len(line) - len(said),
        is_source=said.startswith("    "),
        is_exception=lines.is_exception(line),
        marks=frozenset(
            mark
            for mark, needle, pattern in _MARKS
            if needle in line and re.search(pattern, line) and not lines.quotes(line)
        ),
        milestones=tuple(m for m, needle in _MILESTONES if needle in line),
        signatures=tuple(s for s, needle in _SIGNATURES if needle in line),
    )


def _shape_of(needle: str) -> str:
    return needle.encode().translate(_DIGITS).decode()


_MILESTONES = tuple((milestone, _shape_of(milestone.needle)) for milestone in MILESTONES)
_SIGNATURES = tuple((signature, _shape_of(signature.needle)) for signature in SIGNATURES)


def lines_with(needles: Iterable[str], text: str) -> list[int]:
    """Return where the lines begin that have one of the needles in them, ascending."""
    starts: set[int] = set()
    for needle in needles:
        at = text.find(needle)
        while at >= 0:
            starts.add(text.rfind("\n", 0, at) + 1)
            end = text.find("\n", at)
            at = text.find(needle, end) if end >= 0 else -1
    return sorted(starts)
