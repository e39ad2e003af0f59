"""What was measured once narrows what is estimated later, and never shuts out what was seen."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_autotune.memory import Calibration, Footprint, Interval, Measurement, Pool
from vllm_autotune.memory.kv import Cache
from vllm_autotune.outcome import Readings
from vllm_autotune.units import GIB
from vllm_autotune.vllm.config import LaunchConfig

MODELS = {"digest-a": "a", "digest-b": "b"}
COLD = Footprint(
    weights=Interval(13 * GIB, 15 * GIB),
    activations=Interval(0.5 * GIB, 3.5 * GIB),
    graphs=Interval(0.1 * GIB, 2 * GIB),
    non_torch=Interval(0, 0.6 * GIB),
    cache=Cache(
        groups=None,
        block=Interval.exactly(16),
        in_flight=Interval.exactly(2048),
        null=Interval.exactly(1),
    ),
    context=32768,
    graphs_charged=True,
)
PARTS = ("activations", "graphs", "non_torch")

gib = st.floats(0.01, 8).map(lambda number: number * GIB)
measurements = st.builds(
    Measurement,
    model=st.sampled_from([*MODELS, "digest-of-a-model-that-is-gone"]),
    architecture=st.just("X"),
    args=st.sampled_from(
        [{}, {"max-num-seqs": 64}, {"enforce-eager": True}, {"tensor-parallel-size": 2}]
    ),
    env=st.just({}),
    weights=st.none() | gib,
    overhead=st.none() | gib,
    activations=st.none() | gib,
    non_torch=st.none() | gib,
    graphs=st.none() | gib,
    # What was expected of the model that stands in the tests for each of them.
    expected_activations=st.just(2 * GIB),
    expected_graphs=st.just(1.05 * GIB),
)
pools = st.lists(measurements, max_size=6).map(tuple)


def narrowed(measured: tuple[Measurement, ...], config: LaunchConfig) -> Footprint:
    return Calibration(pool=Pool(measured, MODELS)).apply(COLD, config)


def own(measurement: Measurement) -> LaunchConfig:
    return measurement.config(MODELS.get(measurement.model, "gone"))


def one(model: str = "digest-a", **numbers: Any) -> Measurement:
    nothing = Measurement(
        model=model,
        architecture="X",
        args={},
        env={},
        expected_activations=2 * GIB,
        expected_graphs=1.05 * GIB,
    )
    return replace(nothing, **numbers)


@given(pools, st.data())
def test_no_measurement_is_ever_shut_out(
    pool: tuple[Measurement, ...], data: st.DataObject
) -> None:
    """However many others there are, before or after it."""
    seen = data.draw(measurements)
    at = data.draw(st.integers(0, len(pool)))
    both = (*pool[:at], seen, *pool[at:])
    footprint = narrowed(both, own(seen))
    if seen.model in MODELS:
        assert seen.weights is None or seen.weights in footprint.weights
    booted = seen.model in MODELS and footprint.non_torch == Interval(0, 0)
    if booted:  # all of it in one number
        assert seen.overhead is None or seen.overhead in footprint.beside
        return
    for part in PARTS:
        measured = getattr(seen, part)
        interval = getattr(footprint, part)
        assert measured is None or interval.low * (1 - 1e-9) <= measured <= interval.high * (
            1 + 1e-9
        )


@given(pools, measurements, measurements)
def test_a_pool_only_narrows_unless_the_estimate_was_wrong(
    pool: tuple[Measurement, ...], seen: Measurement, other: Measurement
) -> None:
    footprint = Pool((*pool, seen)).narrowed(COLD, own(other))
    for part in PARTS:
        cold, now = getattr(COLD, part), getattr(footprint, part)
        numbers = [getattr(m, part) for m in (*pool, seen) if getattr(m, part) is not None]
        assert cold.low <= now.low or min(numbers) <= cold.low
        assert now.high <= cold.high or max(numbers) >= cold.high
        assert now.low <= now.high


@given(pools)
def test_an_interval_is_at_least_as_wide_as_what_was_observed(
    pool: tuple[Measurement, ...],
) -> None:
    footprint = Pool(pool).narrowed(COLD, LaunchConfig("new"))
    numbers = [m.activations for m in pool if m.activations]
    if numbers:
        width = footprint.activations.high - footprint.activations.low
        assert width >= (max(numbers) - min(numbers)) * (1 - 1e-9)


def test_the_same_boot_is_known_but_for_what_starts_differ_by() -> None:
    pool = (one(weights=14.29 * GIB, overhead=1.35 * GIB, graphs=0.89 * GIB),)
    footprint = narrowed(pool, LaunchConfig("a"))
    assert footprint.weights.high - footprint.weights.low < 0.02 * GIB
    assert 16 * 2**20 <= footprint.beside.high - footprint.beside.low < 64 * 2**20
    longer = narrowed(pool, LaunchConfig("a", {"max-model-len": 1024}))
    assert longer.beside == footprint.beside


def test_two_boots_that_differ_leave_both_possible() -> None:
    pool = (one(weights=14 * GIB, overhead=1.3 * GIB), one(weights=14 * GIB, overhead=1.6 * GIB))
    beside = narrowed(pool, LaunchConfig("a")).beside
    assert beside.low < 1.3 * GIB
    assert beside.high > 1.6 * GIB


def test_another_model_learns_the_ratio_and_keeps_a_margin() -> None:
    few = narrowed((one(activations=1.1 * GIB),), LaunchConfig("new")).activations
    assert COLD.activations.low < few.low < 1.1 * GIB < few.high < COLD.activations.high
    models = tuple(one(f"digest-{n}", activations=1.1 * GIB) for n in range(4))
    many = narrowed(models, LaunchConfig("new")).activations
    assert few.low < many.low < 1.1 * GIB < many.high < few.high


def test_what_several_gpus_take_says_nothing_about_one() -> None:
    pool = (replace(one(non_torch=1.4 * GIB), args={"tensor-parallel-size": 2}),)
    assert narrowed(pool, LaunchConfig("new")).non_torch == COLD.non_torch
    two = narrowed(pool, LaunchConfig("new", {"tensor-parallel-size": 2}))
    assert 1.4 * GIB in two.non_torch


def test_other_weights_of_the_same_name_are_not_recognised() -> None:
    pool = (one("digest-of-yesterday", weights=1 * GIB, overhead=1 * GIB),)
    footprint = narrowed(pool, LaunchConfig("a"))
    assert (footprint.weights, footprint.beside) == (COLD.weights, COLD.beside)


def test_a_boot_of_this_walk_is_believed_before_those_of_others() -> None:
    pool = Pool((one(weights=14 * GIB, overhead=1.3 * GIB),), MODELS)
    config = LaunchConfig("a")
    printed = Readings(weights_bytes=int(14.1 * GIB), kv_bytes=60 * GIB)
    learned = Calibration(pool=pool).learned(config, printed, int(76 * GIB), COLD)
    assert learned.apply(COLD, config).overhead.low == pytest.approx(16 * GIB)
