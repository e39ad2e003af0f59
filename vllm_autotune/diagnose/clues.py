"""What a line may say, found once for all lines that differ from it in digits only.

The lines of a long log differ in little else. So the costly part, a hundred strings to look for,
is done once per shape of line; only the few patterns that remain read the line itself.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from . import lines
from .milestones import MILESTONES, Milestone
from .signature import Signature
from .signatures import SIGNATURES

REMEMBERED = 512  # shapes
_DIGITS = bytes.maketrans(b"123456789", b"000000000")

_LAST_WORD = re.compile(r"Error: Engine (?:core initialization failed|process failed to start)")
# Somebody asked the server to stop; what dies afterwards dies on purpose.
_STOPPING = re.compile(
    r"\[shutdown\] API server: shutdown triggered|\[shutdown\] EngineCore: trigger received|"
    r"\[shutdown\] EngineCore: start mode|Shutdown initiated \(timeout|"
    r"Shutting down FastAPI HTTP server"
)
_STARTED_AGAIN = re.compile(r"(?:█|API server) +version v?\d")
_EAGER = re.compile(r"Enforce eager set|enforce_eager'?[=:] ?True|Cudagraph is disabled")

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
    eager: bool
    stopping: bool
    started_again: bool
    last_word: bool
    is_exception: bool
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
        eager=bool(_EAGER.search(line)),
        stopping=bool(_STOPPING.search(line)),
        started_again=bool(_STARTED_AGAIN.search(line)) and not lines.quotes(line),
        last_word=bool(_LAST_WORD.search(line)),
        is_exception=lines.is_exception(line),
        milestones=tuple(m for m, needle in _MILESTONES if needle in shape),
        signatures=tuple(s for s, needle in _SIGNATURES if needle in shape),
    )


def _shape_of(needle: str) -> bytes:
    return needle.encode().translate(_DIGITS)


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
