"""What the walk knows: the facts before it, what became of each launch, what to expect."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from .checkpoint import Checkpoint
from .config import AUTO, LaunchConfig, Value, Workload
from .device import Device
from .engine import Engine
from .ladder import Ladder
from .memory import (
    ROUNDING,
    Cache,
    Calibration,
    Footprint,
    Interval,
    Measurement,
    Pool,
    batch_defaults,
    footprint,
)
from .outcome import Outcome, OutOfMemory, Readings

MEASURED_BYTES = 64 * 2**20
UNKNOWN = Interval.unknown()
# The ways to use several devices, each by so many as its flag says.
PARALLEL = ("tensor", "pipeline", "data", "prefill-context")
# From one start to the next of the same server: 7 MiB of 1.4 GiB on an H200, 10 MiB of 0.67 GiB
# on a CPU in seven boots.
POOL_VARIES = {"cuda": 0.01, "cpu": 0.02}


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything known before the first launch.

    `fixed` are the user's own vLLM arguments, never changed, and `env` the variables of vLLM that
    were set already. `checkpoints` maps what vLLM may be given as a model (the user's, and
    quantized siblings) to what it is. `headroom_bytes` must stay free on each device,
    `host_free_bytes` is what weights may be offloaded into. `measured` is what earlier walks
    measured on devices of this kind with this vLLM, `withheld` are those of the user's arguments
    that must not be written down.
    """

    model: str
    checkpoints: Mapping[str, Checkpoint]
    devices: tuple[Device, ...]
    engine: Engine
    workload: Workload
    ladder: Ladder
    fixed: Mapping[str, Value]
    headroom_bytes: int
    host_free_bytes: int = 0
    env: Mapping[str, str] = field(default_factory=dict)
    measured: tuple[Measurement, ...] = ()
    withheld: Mapping[str, Value] = field(default_factory=dict)

    @property
    def checkpoint(self) -> Checkpoint:
        """Return what the user's model is."""
        return self.checkpoints[self.model]

    @property
    def context(self) -> int:
        """Return the context wanted, in tokens: the user's, the fixed one, or the model's own."""
        fixed = LaunchConfig(self.model, self.fixed).number("max-model-len")
        return int(fixed or self.workload.context or self.checkpoint.default_context)

    def base(self) -> LaunchConfig:
        """Return the model as it is, with the user's arguments and wanted context."""
        config = LaunchConfig(self.model, self.fixed, self.env)
        if self.workload.context and "max-model-len" not in self.fixed:
            config = config.replace({"max-model-len": self.workload.context})
        at_once = self.workload.concurrency
        if "max-num-seqs" not in self.fixed and at_once > self._batch_defaults(config)[1]:
            config = config.replace({"max-num-seqs": at_once})
        return config

    def length(self, config: LaunchConfig) -> int:
        """Return the context a configuration must serve at least, in tokens."""
        if config.text("max-model-len") == AUTO:
            return min(self.workload.min_context, self.context)
        return config.integer("max-model-len", self.checkpoint.default_context)

    def sequences(self, config: LaunchConfig) -> int:
        """Return how many sequences a configuration runs at once."""
        default = self._batch_defaults(config)[1]
        return min(config.integer("max-num-seqs", default), self.batch_tokens(config))

    def batch_tokens(self, config: LaunchConfig) -> int:
        """Return the tokens a configuration computes in one step at most."""
        return config.integer("max-num-batched-tokens", self._batch_defaults(config)[0])

    def _batch_defaults(self, config: LaunchConfig) -> tuple[int, int]:
        return batch_defaults(self.devices[0], config, self.engine.release)

    def budget(self, device: Device) -> int:
        """Return the bytes of `device` that may be used at most."""
        free = device.free_bytes - self.headroom_bytes
        return max(0, min(free, device.limit_bytes or device.utilization_base))

    def limit(self, config: LaunchConfig) -> float:
        """Return the most bytes that a configuration may reserve on each device.

        A share that the user fixed is held to the user's own limit only.
        """
        if "kv-cache-memory-bytes" in config.args:
            return math.inf  # then vLLM reserves no share
        if "gpu-memory-utilization" in self.fixed:
            return min(d.limit_bytes or math.inf for d in self.used(config))
        return min(self.budget(d) for d in self.used(config))

    def used(self, config: LaunchConfig) -> tuple[Device, ...]:
        """Return the devices a configuration runs on."""
        return self.devices[: max(1, self.world(config))]

    def world(self, config: LaunchConfig) -> int:
        """Return how many devices a configuration asks for, be they here or not."""
        return math.prod(config.integer(f"{way}-parallel-size", 1) for way in PARALLEL)

    def reserved(self, config: LaunchConfig) -> int:
        """Return the bytes vLLM takes for itself on each device, by its utilization."""
        share = config.number("gpu-memory-utilization")
        share = self.engine.default_utilization if share is None else share
        return math.ceil(min(d.utilization_base for d in self.used(config)) * share)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """The arithmetic's expectation for one device, in bytes.

    `overhead` is what vLLM sets aside beside the weights and the KV cache. `graphs` are in it
    only where this vLLM charges them to its budget.
    """

    reserved_bytes: int
    weights: Interval
    kv_needed: Interval
    kv_available: Interval
    overhead: Interval = UNKNOWN
    graphs: Interval = UNKNOWN

    @property
    def needed(self) -> Interval:
        """Return what it takes of the bytes reserved, the KV cache included."""
        return self.weights + self.overhead + self.kv_needed

    @property
    def measured(self) -> bool:
        """Tell whether a launch measured what is left for the KV cache (to 64 MiB)."""
        return self.kv_available.high - self.kv_available.low <= MEASURED_BYTES

    @property
    def fits(self) -> Literal["yes", "no", "perhaps", "unknown"]:
        """Return whether the KV cache that is needed fits: `no` only where it is certain."""
        if self.kv_available.high < self.kv_needed.low:
            return "no"
        if math.isinf(self.kv_needed.high) or math.isinf(self.weights.high):
            return "unknown"
        return "yes" if self.kv_available.low >= self.kv_needed.high else "perhaps"

    @property
    def likely(self) -> bool:
        """Tell whether the KV cache fits, unless the estimate errs to one side by half."""
        return self.fits == "unknown" or self.kv_available.middle >= self.kv_needed.high


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """A rung in a candidate, with the values it was given."""

    name: str
    gives_up: str
    args: dict[str, Value]
    env: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A configuration worth a launch."""

    config: LaunchConfig
    rungs: tuple[Applied, ...]
    predicted: Prediction


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One launch: what was tried, what became of it, and the numbers vLLM printed."""

    candidate: Candidate
    outcome: Outcome
    readings: Readings


def expect(facts: Facts, calibration: Calibration, config: LaunchConfig) -> Footprint:
    """Return a configuration's footprint, measured where a launch measured it."""
    device = facts.used(config)[0]
    checkpoint = facts.checkpoints[config.model]
    estimate = footprint(
        checkpoint,
        config,
        device,
        vllm=facts.engine.release,
        prompt_logprobs=facts.workload.probe.logprobs,
    )
    return calibration.apply(estimate, config)


def predict(facts: Facts, calibration: Calibration, config: LaunchConfig) -> Prediction:
    """Return what the arithmetic expects of a configuration."""
    expected = expect(facts, calibration, config)
    reserved = facts.reserved(config)
    return Prediction(
        reserved_bytes=reserved,
        weights=expected.weights,
        kv_needed=expected.kv_bytes(facts.length(config), facts.workload.concurrency),
        kv_available=expected.kv_available(reserved),
        overhead=expected.beside,
        graphs=expected.graphs,
    )


def calibrated(facts: Facts, history: Sequence[Attempt]) -> Calibration:
    """Return what the launches so far measured, and earlier walks before them."""
    names = {checkpoint.digest: name for name, checkpoint in facts.checkpoints.items()}
    varies = POOL_VARIES[facts.devices[0].kind]
    calibration = Calibration(pool=Pool(facts.measured, names, varies))
    for attempt in history:
        calibration = learned(facts, calibration, attempt)
    return calibration


def learned(facts: Facts, calibration: Calibration, attempt: Attempt) -> Calibration:
    """Return the calibration with what one launch measured."""
    candidate, outcome, readings = attempt.candidate, attempt.outcome, attempt.readings
    config = candidate.config
    estimate = expect(facts, Calibration(), config)
    limit = outcome.limit if isinstance(outcome, OutOfMemory) else None
    length = limit or readings.max_model_len or facts.length(config)
    cache = placed(estimate.cache, readings, length, exactly=bool(limit))
    estimate = replace(estimate, cache=cache)
    needed = estimate.kv_bytes(length)
    readings = precise(readings, needed, estimate.weights, exactly=bool(limit))
    reserved = reserved_then(facts, candidate, readings)
    return calibration.learned(config, readings, reserved, estimate)


def placed(cache: Cache, readings: Readings, length: int, *, exactly: bool) -> Cache:
    """Return the cache with a sequence as a launch showed it.

    A sequence of this length fits `exactly`, or as often as the concurrency says.
    """
    kv_bytes, concurrency = readings.kv_bytes, readings.concurrency
    if not kv_bytes or kv_bytes < 0:
        return cache
    # Both are printed with two decimals.
    low, high = kv_bytes - ROUNDING, kv_bytes + ROUNDING
    if exactly:
        return cache.placed(length, Interval(low, high))
    if concurrency:
        each = Interval(low / (concurrency + 0.005), high / max(0.01, concurrency - 0.005))
        return cache.placed(length, each)
    return cache


def reserved_then(facts: Facts, candidate: Candidate, readings: Readings) -> int:
    """Return the bytes vLLM had on each device in an earlier launch.

    On a GPU that is what we computed for it: the driver's total is 0.4 % above the one that
    vLLM sees (H200), and the same error in both makes it cancel out. A CPU's total is one
    number, but may have grown since.
    """
    total, share = readings.total_bytes, readings.utilization
    if facts.devices[0].kind == "cpu" and total and share:
        return int(total * share)
    return candidate.predicted.reserved_bytes


def precise(readings: Readings, needed: Interval, weights: Interval, *, exactly: bool) -> Readings:
    """Return the readings with what vLLM left out, or printed with two decimals only.

    `needed` is the KV cache of a sequence that fits `exactly`, or as often as the concurrency
    says: it is exact to a block, and so is what it tells of the whole. The CPU backend prints
    no weights: there their size on disk stands in, so that weights and the rest still add up to
    what was measured.
    """
    if needed.known and exactly:
        readings = replace(readings, kv_bytes=int(needed.middle))
    elif needed.known and readings.concurrency:
        exact = int(needed.middle * readings.concurrency)
        near = readings.kv_bytes is None or abs(exact - readings.kv_bytes) <= ROUNDING
        readings = replace(readings, kv_bytes=exact) if near else readings
    if readings.weights_bytes is None and readings.kv_bytes and weights.known:
        readings = replace(readings, weights_bytes=int(weights.low))
    return readings


def command(facts: Facts, config: LaunchConfig) -> list[str]:
    """Return the words that start a configuration, without host, port, name or keys."""
    engine = facts.engine
    model = [config.model] if engine.takes_model_as_argument else ["--model", config.model]
    return [*engine.command, *model, *config.flags()]
