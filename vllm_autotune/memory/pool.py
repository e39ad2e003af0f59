"""What earlier walks measured on the same kind of device and vLLM: it narrows what is estimated.

A pooled number never narrows an interval to less than what was observed, widened by a margin.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from ..vllm.config import LaunchConfig, Value
from .calibration import ROUNDING, Boot, beside
from .footprint import Footprint
from .interval import Interval

# One start of the same server differs from the next: 7 MiB on an H200 (vLLM 0.26), 4 on a CPU.
START_BYTES = 8 * 2**20
# How far another model may lie from those measured, for each model the share of one half.
ACROSS_MODELS = 0.5
LEAST_MARGIN = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """The bytes one boot took of each device; None where vLLM printed nothing.

    `model` is the digest of the weights. `overhead` is all that vLLM set aside beside them and
    the KV cache. The `expected` numbers are the middles of what was estimated without any
    measurement.
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
    expected_activations: float = 0.0
    expected_graphs: float = 0.0

    def config(self, model: str) -> LaunchConfig:
        """Return what was launched, of a model that vLLM now knows by this name."""
        return LaunchConfig(model, self.args, self.env)

    @property
    def devices(self) -> int:
        """Return on how many devices it ran."""
        return _devices(self.config(""))


@dataclass(frozen=True, slots=True)
class Pool:
    """All measurements of this kind of device and vLLM; `names` maps digests to models.

    `varies` is the share by which one start of the same server may differ from the next.
    """

    measurements: tuple[Measurement, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    varies: float = 0.01

    def narrowed(self, cold: Footprint, config: LaunchConfig) -> Footprint:
        """Return the estimate, narrowed to what was measured."""
        if not self.measurements:
            return cold
        alike = [m for m in self.measurements if m.devices == _devices(config)]
        outside = [m.non_torch for m in alike if m.non_torch is not None]
        footprint = replace(
            cold,
            activations=self._scaled(cold.activations, "activations"),
            graphs=self._scaled(cold.graphs, "graphs"),
            non_torch=_narrowed(cold.non_torch, outside, _margin(alike)),
        )
        return self._booted(footprint, config)

    def _scaled(self, cold: Interval, part: str) -> Interval:
        """Narrow to the ratios of measured to expected, whatever the model."""
        found = []
        for measurement in self.measurements:
            measured = getattr(measurement, part)
            expected = getattr(measurement, f"expected_{part}")
            if measured and expected:
                found.append((measurement, measured / expected))
        if not cold.known or cold.high == 0:
            return cold
        models = [measurement for measurement, _ in found]
        return _narrowed(cold, [ratio * cold.middle for _, ratio in found], _margin(models))

    def _booted(self, footprint: Footprint, config: LaunchConfig) -> Footprint:
        """Narrow to boots of the same weights, and of the same step as well."""
        boots = [
            Boot(
                config=measurement.config(self.names[measurement.model]),
                weights=measurement.weights,
                overhead=measurement.overhead,
                graphs=measurement.graphs,
            )
            for measurement in self.measurements
            if measurement.model in self.names
        ]
        same = [boot for boot in boots if boot.same_weights(config)]
        weights = [boot.weights for boot in same if boot.weights is not None]
        overheads = [
            boot.overhead for boot in same if boot.overhead is not None and boot.same_step(config)
        ]
        if weights:
            # Beside its overhead the rounding cancels out: the sum is what was left of the budget.
            rounding = 0.0 if overheads else ROUNDING
            footprint = replace(footprint, weights=_around(weights, rounding))
        if overheads:
            spread = START_BYTES + self.varies * max(overheads)
            footprint = beside(footprint, _around(overheads, spread))
        return footprint


def _devices(config: LaunchConfig) -> int:
    return config.integer("tensor-parallel-size", 1) * config.integer("pipeline-parallel-size", 1)


def _margin(measurements: Iterable[Measurement]) -> float:
    models = {measurement.model for measurement in measurements}
    return max(LEAST_MARGIN, ACROSS_MODELS / max(1, len(models)))


def _narrowed(cold: Interval, measured: list[float], margin: float) -> Interval:
    """Narrow to what was measured and a margin; what the estimate excluded is let in."""
    if not measured:
        return cold
    least, most = min(measured), max(measured)
    return Interval(
        min(max(cold.low, least * (1 - margin)), least),
        max(min(cold.high, most * (1 + margin)), most),
    )


def _around(values: list[float], spread: float) -> Interval:
    return Interval(max(0.0, min(values) - spread), max(values) + spread)
