"""What one start of a server measured, and where it holds for another configuration."""

from dataclasses import dataclass
from typing import Literal, Self

from ..outcome import Readings
from ..units import GIB
from ..vllm.config import LaunchConfig, Value
from ..vllm.flags import CHANGES_CACHE, CHANGES_STEP, CHANGES_WEIGHTS, STEP_SIZE, VARIABLES
from .footprint import estimate
from .interval import Interval
from .kv import ANYWHERE, KVCache
from .setup import Setup

ROUNDING = 0.005 * GIB  # vLLM prints GiB with two decimals


@dataclass(frozen=True, slots=True, kw_only=True)
class Boot:
    """The bytes that one start took of each device; None where vLLM printed nothing.

    `model` is the digest of the weights. `overhead` is what vLLM took out of its budget beside
    them: activations, memory outside of torch, and what it set aside for graphs. The `expected`
    numbers are the middles of what was estimated without any measurement. `position` is where
    between the formulas a sequence's KV cache lies (KVCache.position). `runner` is the model runner
    that took them, None where that is not known.
    """

    model: str
    architecture: str
    args: dict[str, Value]
    env: dict[str, str]
    weights: float | None = None
    overhead: float | None = None
    activations: float | None = None
    non_torch: float | None = None
    graphs: float | None = None
    kv_bytes: float | None = None
    expected_activations: float = 0.0
    expected_graphs: float = 0.0
    expected_overhead: float = 0.0
    position: Interval = ANYWHERE
    runner: Literal["v1", "v2"] | None = None

    @classmethod
    def of(
        cls, setup: Setup, readings: Readings, budget_bytes: int, length: int, *, exactly: bool
    ) -> Self:
        """Take what a server printed.

        `budget_bytes` is what vLLM could use of the device (`requested_bytes`). A sequence of
        `length` tokens fits the KV cache `exactly`, or as often as the concurrency says.
        """
        checkpoint, config = setup.checkpoint, setup.config
        cold = estimate(setup)
        cache = cache_as_seen(cold.cache, readings, length, exactly=exactly)
        kv = _kv_bytes(cache.bytes(length), readings, exactly=exactly)
        # The CPU backend prints no weights: there their size on disk stands in, so that weights
        # and the rest still add up to what was measured.
        weights: float | None = readings.weights_bytes
        if weights is None and kv and cold.weights.known:
            weights = int(cold.weights.low)
        overhead = None
        # A KV cache set by hand says nothing about what the rest took.
        if weights is not None and kv is not None and "kv-cache-memory-bytes" not in config.args:
            overhead = max(0.0, float(budget_bytes - weights - kv))
        return cls(
            model=checkpoint.digest,
            architecture=checkpoint.architecture,
            args=dict(config.args),
            env=dict(config.env),
            weights=weights,
            overhead=overhead,
            activations=readings.activation_bytes,
            non_torch=readings.non_torch_bytes,
            graphs=readings.graph_bytes,
            kv_bytes=kv,
            expected_activations=cold.activations.middle,
            expected_graphs=cold.graphs.middle,
            expected_overhead=cold.beside.middle,
            position=cache.position,
            runner=readings.model_runner or setup.model_runner,
        )

    @property
    def config(self) -> LaunchConfig:
        """What was launched, whatever the model is called now."""
        return LaunchConfig("", self.args, self.env)

    def same_devices(self, setup: Setup) -> bool:
        own, other = self.config, setup.config
        devices = other.tensor_parallel * other.pipeline_parallel
        return own.tensor_parallel * own.pipeline_parallel == devices

    def same_weights(self, setup: Setup) -> bool:
        return self.model == setup.checkpoint.digest and self._same(setup, CHANGES_WEIGHTS)

    def same_step(self, setup: Setup) -> bool:
        args = setup.config.args
        return self.same_kind(setup) and all(self.args.get(n) == args.get(n) for n in STEP_SIZE)

    def same_kind(self, setup: Setup) -> bool:
        """Tell whether a step of a setup differs in its size alone."""
        return self._same(setup, CHANGES_STEP)

    def same_cache(self, setup: Setup) -> bool:
        """Tell whether a sequence takes as much of a setup's KV cache.

        How large a batch is matters only to layers with a window, which keep what is in flight.
        """
        windows = any(layers.window for layers in setup.checkpoint.layer_groups or ())
        batch = ("max-num-batched-tokens",) if windows else ()
        return self._same(setup, (*CHANGES_CACHE, *batch))

    def _same(self, setup: Setup, flags: tuple[str, ...]) -> bool:
        args, env = setup.config.args, setup.config.env
        same = all(str(self.args.get(flag)) == str(args.get(flag)) for flag in flags)
        return same and all(self.env.get(name) == env.get(name) for name in VARIABLES)


def cache_as_seen(cache: KVCache, readings: Readings, length: int, *, exactly: bool) -> KVCache:
    """Return the cache with a sequence as a launch showed it.

    A sequence of this length fits `exactly`, or as often as the concurrency says.
    """
    kv_bytes, times = readings.kv_bytes, concurrency_of(readings, length)
    if not kv_bytes or kv_bytes < 0:
        return cache
    low, high = kv_bytes - ROUNDING, kv_bytes + ROUNDING
    if times:  # a length that fits exactly may leave a part of a block
        ends = (max(1.0, times.low), max(1.0, times.high)) if exactly else (times.low, times.high)
        least, most = ends
        return cache.seen(length, Interval(low / most, high / least))
    return cache.seen(length, Interval(low, high)) if exactly else cache


def concurrency_of(readings: Readings, length: int) -> Interval | None:
    """Return how often a sequence of this length fits: printed with two decimals.

    The tokens of the whole cache are this many times the length since 0.20, and exact.
    """
    printed, tokens = readings.concurrency, readings.kv_tokens
    if not printed:
        return None
    if tokens and abs(tokens / length - printed) < 0.006:
        return Interval(tokens / length, (tokens + 1) / length)
    return Interval(max(0.01, printed - 0.005), printed + 0.005)


def _kv_bytes(needed: Interval, readings: Readings, *, exactly: bool) -> float | None:
    """Return the KV cache to a block, where vLLM printed it with two decimals, or not at all.

    `needed` is that of a sequence that fits `exactly`, or as often as the concurrency says: it
    is exact to a block, and so is what it tells of the whole.
    """
    printed = readings.kv_bytes
    if needed.known and exactly:
        return int(needed.middle)
    if needed.known and readings.concurrency:
        exact = int(needed.middle * readings.concurrency)
        return exact if printed is None or abs(exact - printed) <= ROUNDING else printed
    return printed
