"""What earlier boots of a walk measured, in the place of what was estimated."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from ..outcome import Readings
from ..units import GIB
from ..vllm.config import LaunchConfig
from .footprint import Footprint
from .interval import Interval
from .kv import ANYWHERE

if TYPE_CHECKING:
    from .pool import Pool

# Flags that put something beside the model.
ADDED = (
    *("enable-lora", "max-loras", "max-lora-rank", "speculative-config"),
    *("spec-method", "spec-model", "spec-tokens"),
)
# Flags and variables that change what the weights take.
WEIGHT_FLAGS = (
    *("quantization", "quantization-config", "dtype", "tensor-parallel-size", "load-format"),
    *("pipeline-parallel-size", "data-parallel-size", "enable-expert-parallel", "hf-overrides"),
    *("cpu-offload-gb", "cpu-offload-params", "offload-backend", "offload-group-size"),
    *("offload-num-in-group", "offload-prefetch-step", "offload-params", "language-model-only"),
    *("prefill-context-parallel-size", *ADDED),
)
# Flags and variables that change what the rest takes, without what makes it only smaller.
STEP_FLAGS = (
    *("compilation-config", "optimization-level", "cudagraph-capture-sizes", "dtype"),
    *("max-cudagraph-capture-size", "limit-mm-per-prompt", "language-model-only"),
    *("tensor-parallel-size", "pipeline-parallel-size", "data-parallel-size", *ADDED),
)
# Flags that change what a sequence takes of the KV cache.
CACHE_FLAGS = (
    *("kv-cache-dtype", "block-size", "disable-hybrid-kv-cache-manager", "dtype"),
    *("tensor-parallel-size", "pipeline-parallel-size", "max-num-batched-tokens"),
    *("decode-context-parallel-size", "prefill-context-parallel-size", "speculative-config"),
    *("spec-method", "spec-model"),
)
SIZES = ("max-num-seqs", "max-num-batched-tokens")
VARIABLES = ("VLLM_USE_V2_MODEL_RUNNER", "VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS")

ROUNDING = 0.005 * GIB  # vLLM prints GiB with two decimals
# The part of a difference between two steps that the formula may get wrong.
SCALING = 0.1


def _key(config: LaunchConfig, flags: tuple[str, ...]) -> tuple[str, ...]:
    chosen = [f"{name}={config.args[name]}" for name in flags if name in config.args]
    return (*chosen, *(f"{name}={config.env[name]}" for name in VARIABLES if name in config.env))


@dataclass(frozen=True, slots=True, kw_only=True)
class Boot:
    """One launch's numbers, in bytes per device.

    `overhead` is what vLLM took out of its budget beside the weights: activations, memory outside
    of torch, and what it set aside for graphs; `estimated` is what was expected of it. `position`
    is where between the formulas a sequence's KV cache lies (Cache.position).
    """

    config: LaunchConfig
    weights: float | None
    overhead: float | None
    graphs: float | None
    kv_bytes: float | None = None
    estimated: float = 0.0
    position: Interval = ANYWHERE

    def same_weights(self, config: LaunchConfig) -> bool:
        """Return whether this configuration loads the same weights in the same way."""
        same = _key(self.config, WEIGHT_FLAGS) == _key(config, WEIGHT_FLAGS)
        return same and self.config.model == config.model

    def same_step(self, config: LaunchConfig) -> bool:
        """Return whether a step of this configuration is of the same size."""
        return self.same_kind(config) and all(
            self.config.args.get(name) == config.args.get(name)
            for name in (*SIZES, "enforce-eager")
        )

    def same_kind(self, config: LaunchConfig) -> bool:
        """Return whether a step of this configuration differs in its size alone."""
        return _key(self.config, STEP_FLAGS) == _key(config, STEP_FLAGS)


@dataclass(frozen=True, slots=True)
class Calibration:
    """What earlier boots of this walk measured, the oldest first, and `pool` other walks."""

    boots: tuple[Boot, ...] = ()
    pool: "Pool | None" = None

    def learned(
        self, config: LaunchConfig, readings: Readings, budget_bytes: int, estimate: Footprint
    ) -> Self:
        """Return this calibration with one boot's numbers added.

        `budget_bytes` is what vLLM could use of the device (`requested_bytes`), `estimate` what
        was expected before any boot, its cache as it turned out.
        """
        weights, kv = readings.weights_bytes, readings.kv_bytes
        overhead = None
        # A KV cache set by hand says nothing about what the rest took.
        if weights is not None and kv is not None and "kv-cache-memory-bytes" not in config.args:
            overhead = max(0.0, float(budget_bytes - weights - kv))
        boot = Boot(
            config=config,
            weights=weights,
            overhead=overhead,
            graphs=readings.graph_bytes,
            kv_bytes=kv,
            estimated=estimate.beside.middle,
            position=estimate.cache.position,
        )
        return replace(self, boots=(*self.boots, boot))

    def apply(self, footprint: Footprint, config: LaunchConfig) -> Footprint:
        """Return the estimate with what was measured in its place, where it still holds.

        Exact where one boot measured both parts, because their sum is what it left of the budget.
        """
        cold = footprint
        if self.pool is not None:
            footprint = self.pool.narrowed(footprint, config)
        newest = self.boots[::-1]
        for boot in newest:
            if _key(boot.config, CACHE_FLAGS) == _key(config, CACHE_FLAGS):
                cache = replace(footprint.cache, position=boot.position)
                footprint = replace(footprint, cache=cache)
                break
        for boot in newest:
            if boot.graphs is not None and boot.same_step(config):
                spread = 0.1 * boot.graphs + ROUNDING
                footprint = replace(footprint, graphs=_around(boot.graphs, spread))
                break
        covering = self._covering(config)
        if covering is not None:
            weights, overhead = covering.weights or 0.0, covering.overhead or 0.0
            footprint = replace(footprint, weights=Interval.exactly(weights))
            return beside(footprint, Interval.exactly(overhead))
        for boot in newest:
            if boot.weights is not None and boot.same_weights(config):
                footprint = replace(footprint, weights=_around(boot.weights, ROUNDING))
                break
        return self._scaled(footprint, config, cold)

    def _covering(self, config: LaunchConfig) -> Boot | None:
        for boot in self.boots[::-1]:
            if boot.overhead is not None and boot.same_weights(config) and boot.same_step(config):
                return boot
        return None

    def _scaled(self, footprint: Footprint, config: LaunchConfig, cold: Footprint) -> Footprint:
        """Take the overhead of a boot with other weights or another step, in proportion.

        The estimate errs the same way for one model: its ratio to what was measured differs by
        0.05 between steps, mostly (7B and 30B-A3B, vLLM 0.26 on an H200).
        """
        for boot in self.boots[::-1]:
            if boot.overhead is None or not boot.same_kind(config):
                continue
            value = cold.beside.middle * boot.overhead / boot.estimated
            spread = SCALING * abs(value - boot.overhead) + 0.03 * value
            if not boot.same_weights(config):
                # Other weights bring other kernels: 1.20 GB became 1.32 with fp8 (7B, 0.26).
                spread += 0.1 * boot.overhead
            if not boot.same_step(config):
                spread += 0.05 * value + ROUNDING
            return beside(footprint, _around(value, spread))
        return footprint


def beside(footprint: Footprint, overhead: Interval) -> Footprint:
    """Return the footprint with all that vLLM sets aside beside the weights in one number."""
    return replace(footprint, activations=overhead, non_torch=Interval(0, 0), graphs_charged=False)


def _around(value: float, spread: float) -> Interval:
    return Interval(max(0.0, value - spread), value + spread)
