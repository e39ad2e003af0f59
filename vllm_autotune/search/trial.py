"""A candidate, what is expected of it, and what became of it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from ..memory import Interval
from ..outcome import Outcome, Readings
from ..vllm.config import LaunchConfig, Value

# A KV cache that a launch measured is known to less than this.
MEASURED_BYTES = 64 * 2**20
UNKNOWN = Interval.unknown()

Fits = Literal["yes", "no", "perhaps", "unknown"]
SURER: tuple[Fits, ...] = ("no", "unknown", "perhaps", "yes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """The arithmetic's expectation for one device, in bytes.

    `overhead` is what vLLM sets aside beside the weights and the KV cache. `graphs` are in it
    only where this vLLM charges them to its budget. Where devices differ, this is the one with the
    least room, and `stages` are all, each with its `layers`.
    """

    reserved_bytes: int
    weights: Interval
    kv_needed: Interval
    kv_available: Interval
    overhead: Interval = UNKNOWN
    graphs: Interval = UNKNOWN
    layers: int | None = None
    stages: tuple["Prediction", ...] = ()

    @property
    def needed(self) -> Interval:
        """What it takes of the bytes reserved, the KV cache included."""
        return self.weights + self.overhead + self.kv_needed

    @property
    def measured(self) -> bool:
        """Whether a launch measured what is left for the KV cache (to 64 MiB)."""
        return self.kv_available.high - self.kv_available.low <= MEASURED_BYTES

    @property
    def fits(self) -> Fits:
        """Whether the KV cache that is needed fits: `no` only where it is certain."""
        if self.stages:
            return min((stage.fits for stage in self.stages), key=SURER.index)
        if self.kv_available.high < self.kv_needed.low:
            return "no"
        if math.isinf(self.kv_needed.high) or math.isinf(self.weights.high):
            return "unknown"
        return "yes" if self.kv_available.low >= self.kv_needed.high else "perhaps"

    @property
    def chance(self) -> float:
        """The part of what may be left over, or lacking, in which nothing lacks: 0 to 1."""
        if self.stages:
            return min(stage.chance for stage in self.stages)
        if self.fits in ("unknown", "yes"):
            return 1.0
        least = self.kv_available.low - self.kv_needed.high
        most = self.kv_available.high - self.kv_needed.low
        return max(0.0, most / (most - least)) if most > least else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """A rung in a candidate, with the values it was given."""

    name: str
    gives_up: str
    args: dict[str, Value]
    env: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Skip:
    """A rung that was skipped, and why."""

    rung: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A configuration to try: the rungs that shaped it, and why others did not (`skipped`)."""

    config: LaunchConfig
    rungs: tuple[Applied, ...]
    predicted: Prediction
    skipped: Mapping[str, str] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One quantity in bytes: what was predicted before the launch, and what was measured."""

    predicted: Interval
    measured: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Predicted against measured bytes of one device; None where vLLM printed too little.

    `overhead` is what vLLM set aside beside weights and KV cache.
    """

    weights: Compared | None = None
    kv_available: Compared | None = None
    overhead: Compared | None = None
    graphs: Compared | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A candidate and what became of it. `argv` is what was started, `log` a file by the report.

    `accuracy` is None where the server printed no numbers. `free_bytes` is what was free on each
    device when it was chosen; `log_cut_bytes` is how much was left out in the middle of the log.
    `model` and `args` are missing in reports of 0.1.0.
    """

    number: int
    fingerprint: str
    argv: tuple[str, ...]
    model: str = ""
    args: dict[str, Value] = field(default_factory=dict)
    env: dict[str, str]
    rungs: tuple[Applied, ...]
    predicted: Prediction
    outcome: Outcome
    readings: Readings
    accuracy: Accuracy | None = None
    startup_seconds: float | None = None
    probe_seconds: float | None = None
    stop_seconds: float | None = None
    memory_returned: bool = True
    free_bytes: tuple[int, ...] = ()
    log: str
    log_cut_bytes: int = 0

    @classmethod
    def of(cls, candidate: Candidate, outcome: Outcome, readings: Readings, **more: Any) -> Self:
        """Return the trial of a candidate; `more` are the other fields."""
        config = candidate.config
        return cls(
            fingerprint=config.fingerprint(),
            model=config.model,
            args=dict(config.args),
            env=dict(config.env),
            rungs=candidate.rungs,
            predicted=candidate.predicted,
            outcome=outcome,
            readings=readings,
            **{"number": 1, "argv": (), "log": "", **more},
        )

    @property
    def config(self) -> LaunchConfig:
        return LaunchConfig(self.model, self.args, self.env)

    @property
    def candidate(self) -> Candidate:
        return Candidate(config=self.config, rungs=self.rungs, predicted=self.predicted)
