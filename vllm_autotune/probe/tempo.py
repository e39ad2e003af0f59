"""How fast a server reads and writes, as measured so far."""

from dataclasses import dataclass


@dataclass
class Tempo:
    """Seconds per token; `reading` is None until something was answered."""

    reading: float | None = None
    writing: float = 0.0

    def learn(self, reading: float, writing: float | None) -> None:
        """Take the measure of what was just answered: the fastest reading, the slowest writing."""
        self.reading = min(reading, self.reading or reading)
        self.writing = max(writing or 0.0, self.writing)

    def expected(self, read: int, written: int) -> float | None:
        """Return the seconds that so many tokens should take, None before anything is known."""
        if self.reading is None:
            return None
        return read * self.reading + written * self.writing
