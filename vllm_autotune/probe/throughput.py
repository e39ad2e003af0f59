"""How fast a server reads and writes, as measured so far."""

from dataclasses import dataclass


@dataclass
class Throughput:
    """Seconds per token; `reading` is None until something was answered."""

    reading: float | None = None
    writing: float = 0.0

    def learn(self, reading: float, writing: float | None) -> None:
        """Keep the fastest reading and the slowest writing."""
        self.reading = min(reading, self.reading or reading)
        self.writing = max(writing or 0.0, self.writing)

    def seconds(self, read: int, written: int) -> float | None:
        """Return how long so many tokens should take, None before anything was measured."""
        return None if self.reading is None else read * self.reading + written * self.writing
