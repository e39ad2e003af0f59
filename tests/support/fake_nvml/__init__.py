"""The stand-in for NVIDIA's library, as a test holds it: cards to take memory of."""

import os
from dataclasses import dataclass
from pathlib import Path

from . import pynvml as pynvml

LIBRARY = Path(__file__).parent


@dataclass(frozen=True)
class Cards:
    """The GPUs that a folder stands for: H200s, unless `kinds` says otherwise."""

    folder: Path

    @classmethod
    def make(cls, folder: Path, count: int = 1) -> "Cards":
        """Return cards that nobody uses."""
        folder.mkdir()
        (folder / "count").write_text(str(count))
        return cls(folder)

    @classmethod
    def of(cls, folder: Path, *kinds: str) -> "Cards":
        """Return one card of each kind: `NVIDIA L40S 44.4 8 9`."""
        cards = cls.make(folder, len(kinds))
        (folder / "kinds").write_text("\n".join(kinds))
        return cards

    @property
    def environment(self) -> dict[str, str]:
        """Return what makes a process see them, given the library on its path."""
        return {"FAKE_NVML": str(self.folder)}

    def take(self, size: int) -> None:
        """Hold so many bytes of the first card, in the place of any held before."""
        (self.folder / f"0-{os.getpid()}").write_text(str(size))
