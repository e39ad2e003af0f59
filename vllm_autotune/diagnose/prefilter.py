"""Which lines are worth reading, and which patterns can match in them.

The lines of a long log differ in little but digits. So the costly part, a hundred strings to look
for, is done once for each shape of line; only the few patterns that are left read the line itself.
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

Event = Literal[
    "start", "eager", "start failed", "shutdown", "parallel", "quantized", "method", "traceback",
    "interrupt", "ours", "failing",
]  # fmt: skip
# What dies after somebody asked the server to stop is not a failure.
_EVENTS: tuple[tuple[Event, str, str], ...] = (
    ("start failed", "Error: Engine ", r"core initialization failed|process failed to start"),
    ("shutdown", "[shutdown] ", r"API server: shutdown triggered|EngineCore: (?:trigger|start)"),
    ("shutdown", "Shutdown initiated (timeout", ""),
    ("shutdown", "Shutting down FastAPI HTTP server", ""),
    ("start", " version ", r"(?:█|API server) +version +v?\d"),
    ("eager", "nforce", r"Enforce eager set|(?<!set ')enforce_eager'?[=:] ?True"),
    ("eager", "Cudagraph is disabled", ""),
    ("parallel", "ensor_parallel_size", r"tensor_parallel_size'?[=:] ?(?:[2-9]|[1-9]\d)"),
    ("quantized", "BitsAndBytes quantization", ""),
    ("quantized", "uantization=", r"\bquantization=(?!None)'?\w"),
    ("method", " method ", r"processing method |Error executing method "),
    ("traceback", "Traceback (most recent call", ""),
    ("interrupt", "KeyboardInterrupt", r"KeyboardInterrupt\s*$"),
    ("interrupt", "^C", r"\^C"),
    ("failing", " failed to start", r"(?:EngineCore|WorkerProc) failed to start"),
    ("failing", "Traceback (most recent call", r"\bERROR\b.*Traceback"),
    ("ours", "vllm", r"\bvllm\b"),
    ("ours", "vLLM", ""),
    ("ours", "EngineCore", ""),
    ("ours", "LLMEngine", ""),
)

# A line worth reading has one of these in it. They are few, because each costs a pass.
WORTH_READING = (
    *("rror", "ERROR", "xception", "unexpectedly", "ut of memory", "nccl", "[shutdown] "),
    *("Shutting down FastAPI", "Shutdown initiated", " version ", "timed out", "CRITICAL"),
    *('File "', "File /", "Traceback (most", "KeyboardInterrupt", "broadcast block", "has died"),
    *("Watchdog caught", "terminate called", "fault by GPU", "SIG", "egmentation fault"),
    *(
        "core dumped",
        "Killed",
        "exited with code ",
        "process exited, ",
        "terminated with exit code ",
    ),
    *("NCCL WARN", "ptxas fatal", "nvcc fatal", "cannot find -l", "creating a placement group"),
)
WORTH_READING_AT_START = (
    *WORTH_READING,
    *("RESOURCE_EXHAUSTED", "exceeds the total number of"),
    *("nforce", "Cudagraph is disabled", "ensor_parallel_size", "uantization"),
    *(milestone.needle for milestone in MILESTONES),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What is common to all lines that differ in digits only.

    `message_at` is where the prefixes end; `milestones` and `signatures` are those that can match.
    `of_request`: what serves one request wrote it.
    """

    message_at: int
    is_source: bool
    is_error: bool
    of_request: bool
    is_exception: bool
    events: frozenset[Event]
    milestones: tuple[Milestone, ...]
    signatures: tuple[Signature, ...]


def shape_of(line: str) -> Shape:
    return _shape(line.encode(errors="surrogatepass").translate(_DIGITS))


@lru_cache(REMEMBERED)
def _shape(zeroed: bytes) -> Shape:
    line = zeroed.decode(errors="surrogatepass")
    message = lines.message(line)
    return Shape(
        message_at=len(line) - len(message),
        is_source=message.startswith("    "),  # of a traceback
        is_error=lines.is_error(line),
        of_request=lines.is_of_request(line),
        is_exception=lines.is_exception(line),
        events=frozenset(
            event
            for event, needle, pattern in _EVENTS
            if needle in line and re.search(pattern, line) and not lines.quotes_request(line)
        ),
        milestones=tuple(m for m, needle in _MILESTONES if needle in line),
        signatures=tuple(s for s, needle in _SIGNATURES if needle in line),
    )


def _zeroed(needle: str) -> str:
    return needle.encode().translate(_DIGITS).decode()


_MILESTONES = tuple((milestone, _zeroed(milestone.needle)) for milestone in MILESTONES)
_SIGNATURES = tuple((signature, _zeroed(signature.needle)) for signature in SIGNATURES)


def unlike(text: str) -> list[str]:
    """Return a line of each shape, with zeros for its digits; in a long log they are few."""
    zeroed = text.encode(errors="surrogatepass").translate(_DIGITS)
    shapes = b"\n".join(set(zeroed.split(b"\n")))
    return shapes.decode(errors="surrogatepass").split("\n")


def line_starts(needles: Iterable[str], text: str, shapes: Iterable[str]) -> set[int]:
    """Return where the lines begin that have one of the needles in them.

    `shapes` are those of the text's lines: a needle that none of them has is not looked for.
    """
    starts: set[int] = set()
    among = "\n".join(shapes)
    for needle in (each for each in needles if _zeroed(each) in among):
        at = text.find(needle)
        while at >= 0:
            starts.add(text.rfind("\n", 0, at) + 1)
            end = text.find("\n", at)
            at = text.find(needle, end) if end >= 0 else -1
    return starts
