"""What a launch needs on each device, and what is left of a budget for the KV cache."""

from dataclasses import dataclass

from .interval import Interval
from .kv import Cache


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """What a launch needs on each device, in bytes.

    `graphs_charged` says whether vLLM takes the CUDA graphs out of the budget before it sizes
    the KV cache; None where that depends on what is not known here. `kv_fixed` is the KV cache
    asked for in bytes, whatever the rest takes. `beyond_share` is what it takes in the end on top
    of the budget.
    """

    weights: Interval
    activations: Interval
    graphs: Interval
    non_torch: Interval
    cache: Cache
    context: int
    graphs_charged: bool | None = None
    kv_fixed: int | None = None
    beyond_share: float = 0.0

    @property
    def beside(self) -> Interval:
        """Return what vLLM sets aside beside the weights and the KV cache."""
        low = 0.0 if not self.graphs_charged else self.graphs.low
        high = 0.0 if self.graphs_charged is False else self.graphs.high
        return self.activations + self.non_torch + Interval(low, high)

    @property
    def overhead(self) -> Interval:
        """Return what vLLM takes out of the budget before it sizes the KV cache."""
        return self.weights + self.beside

    def kv_available(self, budget_bytes: float) -> Interval:
        """Return what is left for the KV cache of what vLLM may use; negative where it lacks."""
        if self.kv_fixed is not None:
            return Interval.exactly(self.kv_fixed)
        return budget_bytes - self.overhead

    def kv_bytes(self, length: int, sequences: int = 1) -> Interval:
        """Return the KV cache that this many sequences of this length need."""
        return self.cache.bytes(length, sequences)

    def longest(
        self, available: Interval | float, sequences: int = 1, block: int = 16
    ) -> tuple[int, int]:
        """Return the tokens per sequence that surely fit in this KV cache, and that perhaps do.

        Whole blocks, and never more than the model's context.
        """
        budget = available if isinstance(available, Interval) else Interval.exactly(available)
        found = self.cache.longest(budget, sequences, block, self.context)
        return int(found.low), int(found.high)
