"""One layer of what is around the lines of a log."""

from collections.abc import Iterable, Sequence
from typing import Protocol

Piece = tuple[str, str]  # the source, such as a service of compose, and its text


class Layer(Protocol):
    """One layer of an envelope."""

    def opened(self, text: str) -> Iterable[Piece]:
        """Yield what is inside, by source; `text` is whole lines."""
        ...

    def share(self, sample: Sequence[str]) -> float:
        """Return the share of these lines that this layer is around."""
        ...
