"""A number known only to lie between two others."""

import math
from dataclasses import dataclass
from typing import Annotated, Self

from pydantic import BeforeValidator, WithJsonSchema

# JSON has no infinity: an end that is unbounded is written as null.
_NULLABLE = WithJsonSchema({"type": ["number", "null"]})
_Low = Annotated[float, BeforeValidator(lambda end: -math.inf if end is None else end), _NULLABLE]
_High = Annotated[float, BeforeValidator(lambda end: math.inf if end is None else end), _NULLABLE]


@dataclass(frozen=True, slots=True)
class Interval:
    """A quantity between `low` and `high`, both included; in bytes unless said otherwise."""

    low: _Low
    high: _High

    @classmethod
    def exactly(cls, value: float) -> Self:
        return cls(value, value)

    @classmethod
    def unknown(cls) -> Self:
        return cls(0.0, math.inf)

    @property
    def known(self) -> bool:
        """Whether there is an upper end."""
        return math.isfinite(self.high)

    @property
    def middle(self) -> float:
        return (self.low + self.high) / 2

    def __add__(self, other: "Interval | float") -> "Interval":
        more = other if isinstance(other, Interval) else Interval.exactly(other)
        return Interval(self.low + more.low, self.high + more.high)

    __radd__ = __add__

    def __neg__(self) -> "Interval":
        return Interval(-self.high, -self.low)

    def __sub__(self, other: "Interval | float") -> "Interval":
        return self + (-other)

    def __rsub__(self, other: float) -> "Interval":
        return -self + other

    def __mul__(self, factor: float) -> "Interval":
        """Scale by a factor that is not negative."""
        return Interval(self.low * factor, self.high * factor)

    __rmul__ = __mul__

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high
