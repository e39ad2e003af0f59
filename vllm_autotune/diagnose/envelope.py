"""The envelope of a log: what a collector, a terminal or a quoting mail put around its lines.

It is recognised for the file as a whole, layer by layer from the outside, and taken off before
anything else looks.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from . import lines
from .json_lines import JsonLines
from .layer import Layer, Piece
from .prefix import KNOWN, constant, indentation, learned
from .terminal import Framed, wrapped

SAMPLED = 1 << 14  # characters, three times
MAX_LAYERS = 5
MAX_TRIED = 8  # texts without an envelope before a file is taken to have none
MOST = 0.8  # of the lines of a file have a format that is its own
FEW = 0.05  # ... where nothing else looks like it
SOME = 0.6  # ... where what stands before a line of vLLM's tells it
ALL = 0.97  # ... and no line is the rest of one that a terminal wrapped


@dataclass(slots=True)
class Envelope:
    """What is around the lines of one file: a layer, and what is inside, for each source."""

    depth: int = 0
    layer: Layer | None = None
    inner: dict[str, "Envelope"] = field(default_factory=dict)
    _tried: int = 0  # texts

    def opened(self, text: str) -> Iterator[Piece]:
        """Yield the bare text of each source; `text` is whole lines."""
        if not self.depth:
            text = _without_noise(text)
        sample = _sample(text)
        if sample and not self._fits(sample):
            self.layer, self.inner = _outermost(sample), {}
        if self.layer is None:
            yield "", text
            return
        for source, inside in self.layer.opened(text):
            inner = self.inner.setdefault(source, Envelope(self.depth + 1))
            for name, bare in inner.opened(inside):
                yield f"{source} {name}".strip(), bare

    def _fits(self, sample: Sequence[str]) -> bool:
        """Tell whether what was recognised before is true of this text, too."""
        if self.layer is not None:
            return self.layer.share(sample) > MOST / 2
        self._tried += 1
        return self.depth >= MAX_LAYERS or self._tried > MAX_TRIED


def _outermost(sample: Sequence[str]) -> Layer | None:
    """Return the layer around most of these lines, None where nothing is around them."""
    if not sample:
        return None
    known, new = max(KNOWN, key=lambda layer: layer.share(sample)), learned(sample)
    candidates: tuple[tuple[Layer | None, float], ...] = (
        (indentation(sample), ALL),
        (JsonLines(), FEW),
        (Framed(), MOST),
        (known, ALL),
        (new, ALL),
        (wrapped(sample), ALL),
        (known, MOST),
        (new, SOME),
        (constant(sample), ALL),
    )
    for layer, enough in candidates:
        if layer is not None and layer.share(sample) >= enough:
            return layer
    return None


def _sample(text: str) -> list[str]:
    """Return lines that are not blank, from the beginning, the middle and the end of a text."""
    if len(text) > 3 * SAMPLED:
        middle = text.find("\n", len(text) // 2) + 1
        text = "\n".join(
            part.rpartition("\n")[0]
            for part in (text[:SAMPLED], text[middle : middle + SAMPLED], text[-SAMPLED:])
        )
    return [line for line in text.split("\n") if line.strip()]


def _without_noise(text: str) -> str:
    if "\r\n" in text or text.endswith("\r"):  # the end of the last line may be cut in two
        text = text.replace("\r\n", "\n").removesuffix("\r")
    return lines.without_ansi(text)
