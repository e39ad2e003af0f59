"""What boots measured, in the place of what was estimated."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from .boot import ROUNDING, Boot
from .footprint import Footprint, estimate
from .interval import Interval
from .setup import Setup

# The part of a difference between two steps that the formula may get wrong.
SCALING = 0.1
# One start of the same server differs from the next: 7 MiB on an H200 (vLLM 0.26), 4 on a CPU.
START_BYTES = 8 * 2**20
# How far another model may lie from those measured, for each model the share of one half.
ACROSS_MODELS = 0.5
LEAST_MARGIN = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What boots measured: `boots` of this walk, the oldest first, and `earlier` of other walks.

    All are of one kind of device and vLLM. `varies` is the share by which one start of the same
    server may differ from the next. A boot of an earlier walk never narrows an interval to less
    than what was observed, widened by a margin.
    """

    boots: tuple[Boot, ...] = ()
    earlier: tuple[Boot, ...] = ()
    varies: float = 0.01

    def footprint(self, setup: Setup) -> Footprint:
        return self.apply(estimate(setup), setup)

    def apply(self, cold: Footprint, setup: Setup) -> Footprint:
        """Return the estimate with what was measured in its place, where it still holds.

        Exact where one boot measured both parts, because their sum is what it left of the budget.
        """
        footprint = self._narrowed(cold, setup)
        newest = self.boots[::-1]
        position = next((b.position for b in newest if b.same_cache(setup)), None)
        if position is not None:
            footprint = replace(footprint, cache=replace(footprint.cache, position=position))
        stepped = (b.graphs for b in newest if b.graphs is not None and b.same_step(setup))
        if (graphs := next(stepped, None)) is not None:
            footprint = replace(footprint, graphs=_around([graphs], 0.1 * graphs + ROUNDING))
        for boot in newest:
            if boot.overhead is not None and boot.same_weights(setup) and boot.same_step(setup):
                footprint = replace(footprint, weights=Interval.exactly(boot.weights or 0.0))
                return _with_beside(footprint, Interval.exactly(boot.overhead))
        loaded = (b.weights for b in newest if b.weights is not None and b.same_weights(setup))
        if (weights := next(loaded, None)) is not None:
            footprint = replace(footprint, weights=_around([weights], ROUNDING))
        return self._scaled(footprint, cold, setup)

    def _scaled(self, footprint: Footprint, cold: Footprint, setup: Setup) -> Footprint:
        """Take the overhead of a boot with other weights or another step, in proportion.

        The estimate errs the same way for one model: its ratio to what was measured differs by
        0.05 between steps, mostly (7B and 30B-A3B, vLLM 0.26 on an H200).
        """
        for boot in self.boots[::-1]:
            if boot.overhead is None or not boot.same_kind(setup):
                continue
            value = cold.beside.middle * boot.overhead / boot.expected_overhead
            spread = SCALING * abs(value - boot.overhead) + 0.03 * value
            if not boot.same_weights(setup):
                # Other weights bring other kernels: 1.20 GB became 1.32 with fp8 (7B, 0.26).
                spread += 0.1 * boot.overhead
            if not boot.same_step(setup):
                spread += 0.05 * value + ROUNDING
            return _with_beside(footprint, _around([value], spread))
        return footprint

    def _narrowed(self, cold: Footprint, setup: Setup) -> Footprint:
        """Return the estimate, narrowed to what earlier walks measured."""
        if not self.earlier:
            return cold
        alike = [boot for boot in self.earlier if boot.same_devices(setup)]
        outside = [boot.non_torch for boot in alike if boot.non_torch is not None]
        footprint = replace(
            cold,
            activations=self._by_ratio(cold.activations, "activations", setup.model_runner),
            graphs=self._by_ratio(cold.graphs, "graphs", setup.model_runner),
            non_torch=_narrow(cold.non_torch, outside, _margin(alike)),
        )
        same = [boot for boot in self.earlier if boot.same_weights(setup)]
        weights = [boot.weights for boot in same if boot.weights is not None]
        overheads = [b.overhead for b in same if b.overhead is not None and b.same_step(setup)]
        if weights:
            # Beside its overhead the rounding cancels out: the sum is what was left of the budget.
            rounding = 0.0 if overheads else ROUNDING
            footprint = replace(footprint, weights=_around(weights, rounding))
        if overheads:
            spread = START_BYTES + self.varies * max(overheads)
            footprint = _with_beside(footprint, _around(overheads, spread))
        return footprint

    def _by_ratio(self, cold: Interval, part: str, runner: str | None) -> Interval:
        """Narrow to the ratios of measured to expected with this runner, whatever the model."""
        if not cold.known or cold.high == 0 or runner is None:
            return cold
        alike = [boot for boot in self.earlier if boot.runner == runner]
        numbers = [(b, getattr(b, part), getattr(b, f"expected_{part}")) for b in alike]
        found = [(boot, seen / expected) for boot, seen, expected in numbers if seen and expected]
        margin = _margin(boot for boot, _ in found)
        return _narrow(cold, [ratio * cold.middle for _, ratio in found], margin)


def _with_beside(footprint: Footprint, beside: Interval) -> Footprint:
    """Return the footprint with all that vLLM sets aside beside the weights in one number."""
    return replace(footprint, activations=beside, non_torch=Interval(0, 0), graphs_charged=False)


def _margin(boots: Iterable[Boot]) -> float:
    models = {boot.model for boot in boots}
    return max(LEAST_MARGIN, ACROSS_MODELS / max(1, len(models)))


def _narrow(cold: Interval, measured: Sequence[float], margin: float) -> Interval:
    """Narrow to what was measured and a margin; what the estimate excluded is let in."""
    if not measured:
        return cold
    least, most = min(measured), max(measured)
    return Interval(
        min(max(cold.low, least * (1 - margin)), least),
        max(min(cold.high, most * (1 + margin)), most),
    )


def _around(values: Sequence[float], spread: float) -> Interval:
    return Interval(max(0.0, min(values) - spread), max(values) + spread)
