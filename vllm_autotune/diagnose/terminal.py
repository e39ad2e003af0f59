"""What a terminal does to the lines of a log: it wraps them, and a window may frame them."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from . import lines
from .layer import Piece

NARROWEST, WIDEST = 40, 400  # columns


@dataclass(frozen=True, slots=True)
class Framed:
    """A frame of bars around the lines, padded with blanks."""

    pattern: re.Pattern[str] = re.compile(r"[ \t]*[│┃║|] ?(.*?)[ \t]*[│┃║|][ \t]*")

    def share(self, sample: Sequence[str]) -> float:
        return sum(1 for line in sample if self.pattern.fullmatch(line)) / len(sample)

    def opened(self, text: str) -> Iterable[Piece]:
        found = ((self.pattern.fullmatch(line), line) for line in text.split("\n"))
        yield "", "\n".join(framed[1] if framed else line for framed, line in found)


@dataclass(frozen=True, slots=True)
class Wrapped:
    """Lines that a terminal of this many columns cut into several."""

    width: int

    def share(self, sample: Sequence[str]) -> float:
        return float(max(map(len, sample)) <= self.width)

    def opened(self, text: str) -> Iterable[Piece]:
        whole: list[str] = []
        last = 0  # the length of the line above
        for line in text.split("\n"):
            if last in (self.width, self.width - 1) and line and not lines.begins(line):
                whole[-1] += line if last == self.width else f" {line}"
            else:
                whole.append(line)
            last = len(line)
        yield "", "\n".join(whole)


def wrapped(sample: Sequence[str]) -> Wrapped | None:
    width = max(map(len, sample))
    if not NARROWEST <= width <= WIDEST:
        return None
    below = [after for line, after in pairwise(sample) if len(line) >= width - 1]
    rests = sum(1 for line in below if not lines.begins(line))
    if rests < 2 or rests < 0.7 * len(below) or rests < 0.02 * len(sample):
        return None
    return Wrapped(width)
