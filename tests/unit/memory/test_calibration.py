"""What boots measured stands in for what was estimated, and never shuts out what was seen."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.memory import device, estimated, gib, setup
from vllm_autotune.checkpoint import Checkpoint
from vllm_autotune.memory import Boot, Calibration, Footprint, Interval, Setup
from vllm_autotune.memory.kv import KVCache
from vllm_autotune.outcome import Readings
from vllm_autotune.units import GIB
from vllm_autotune.vllm.config import LaunchConfig, Value

BUDGET = int(11.04 * GIB)
SHORT = Readings(weights_bytes=int(14.29 * GIB), kv_bytes=int(-4.59 * GIB))


def booted(
    checkpoint: Checkpoint,
    readings: Readings,
    args: dict[str, Value] | None = None,
    budget: int = BUDGET,
) -> Calibration:
    boot = Boot.of(setup(checkpoint, args), readings, budget, 32768, exactly=False)
    return Calibration(boots=(boot,))


def test_measured_numbers_replace_the_estimate(shapes: dict[str, Checkpoint]) -> None:
    seven = shapes["qwen2.5-7b"]
    shorter: dict[str, Value] = {"max-model-len": 4096, "gpu-memory-utilization": 0.079}
    found = booted(seven, SHORT).footprint(setup(seven, shorter))
    assert found.kv_available(BUDGET).low == pytest.approx(-4.59 * GIB)
    assert found.kv_available(BUDGET).high < 0


def test_other_weights_keep_the_overhead_but_not_exactly(shapes: dict[str, Checkpoint]) -> None:
    seven = shapes["qwen2.5-7b"]
    fp8 = setup(seven, {"quantization": "fp8"})
    found = booted(seven, SHORT).footprint(fp8)
    assert found.weights == estimated(seven, {"quantization": "fp8"}).weights
    assert gib(1.45) in found.activations
    assert gib(1.42) in found.kv_available(BUDGET)


def test_a_smaller_step_takes_no_more_than_the_larger_did(shapes: dict[str, Checkpoint]) -> None:
    seven = shapes["qwen2.5-7b"]
    found = booted(seven, SHORT).footprint(setup(seven, {"max-num-seqs": 16}))
    measured = BUDGET - 14.29 * GIB + 4.59 * GIB
    assert found.activations.high < 1.1 * measured
    assert found.activations.low < measured


def test_a_cache_set_by_hand_teaches_nothing_about_the_rest(
    shapes: dict[str, Checkpoint],
) -> None:
    seven = shapes["qwen2.5-7b"]
    args: dict[str, Value] = {"kv-cache-memory-bytes": "1G"}
    found = booted(seven, replace(SHORT, kv_bytes=GIB), args).footprint(setup(seven, args))
    assert found.weights.high - found.weights.low < 0.02 * GIB
    assert found.activations == estimated(seven, args).activations
    assert found.kv_available(BUDGET) == Interval.exactly(GIB)


def test_measured_graphs_replace_the_estimate(shapes: dict[str, Checkpoint]) -> None:
    seven = shapes["qwen2.5-7b"]
    found = booted(seven, Readings(graph_bytes=int(gib(0.89))), budget=0).footprint(setup(seven))
    assert found.graphs.high < gib(1)


def test_a_boot_without_adapters_says_nothing_of_one_with(shapes: dict[str, Checkpoint]) -> None:
    seven = shapes["qwen2.5-7b"]
    others: tuple[dict[str, Value], ...] = ({"enable-lora": True}, {"spec-model": "some/draft"})
    for args in others:
        found = booted(seven, SHORT).footprint(setup(seven, args))
        assert found.weights == estimated(seven, args).weights


MODELS = ("digest-a", "digest-b")
COLD = Footprint(
    weights=Interval(13 * GIB, 15 * GIB),
    activations=Interval(0.5 * GIB, 3.5 * GIB),
    graphs=Interval(0.1 * GIB, 2 * GIB),
    non_torch=Interval(0, 0.6 * GIB),
    cache=KVCache(
        groups=None,
        block=Interval.exactly(16),
        in_flight=Interval.exactly(2048),
        null=Interval.exactly(1),
    ),
    graphs_charged=True,
)
PARTS = ("activations", "graphs", "non_torch")

some_bytes = st.floats(0.01, 8).map(lambda number: number * GIB)
some_boot = st.builds(
    Boot,
    model=st.sampled_from([*MODELS, "digest-of-a-model-that-is-gone"]),
    architecture=st.just("X"),
    args=st.sampled_from(
        [{}, {"max-num-seqs": 64}, {"enforce-eager": True}, {"tensor-parallel-size": 2}]
    ),
    env=st.just({}),
    weights=st.none() | some_bytes,
    overhead=st.none() | some_bytes,
    activations=st.none() | some_bytes,
    non_torch=st.none() | some_bytes,
    graphs=st.none() | some_bytes,
    runner=st.just("v2"),
    # What was expected of the model that stands in the tests for each of them.
    expected_activations=st.just(2 * GIB),
    expected_graphs=st.just(1.05 * GIB),
)
some_boots = st.lists(some_boot, max_size=6).map(tuple)


@pytest.fixture(scope="module")
def seven(shapes: dict[str, Checkpoint]) -> Checkpoint:
    return shapes["qwen2.5-7b"]


def launch(seven: Checkpoint, model: str, args: dict[str, Value] | None = None) -> Setup:
    """Return a launch of weights with this digest."""
    checkpoint = replace(seven, digest=model)
    return Setup(checkpoint, LaunchConfig("m", args or {}), device(), (0, 26))


def narrowed(boots: tuple[Boot, ...], asked: Setup) -> Footprint:
    return Calibration(earlier=boots).apply(COLD, asked)


def one(model: str = "digest-a", **numbers: Any) -> Boot:
    nothing = Boot(
        model=model,
        architecture="X",
        args={},
        env={},
        expected_activations=2 * GIB,
        expected_graphs=1.05 * GIB,
        runner="v2",
    )
    return replace(nothing, **numbers)


def test_what_one_model_runner_took_says_nothing_of_another(seven: Checkpoint) -> None:
    """Runner V1 samples with 14 bytes for each word of the vocabulary, V2 with two."""
    boots = (one(activations=1.0 * GIB, graphs=0.5 * GIB, runner="v1"),)
    asked = launch(seven, "digest-b")
    assert asked.model_runner == "v2"
    found = narrowed(boots, asked)
    assert (found.activations, found.graphs) == (COLD.activations, COLD.graphs)
    learned = narrowed((replace(boots[0], runner="v2"),), asked)
    assert learned.activations.high < found.activations.high


@given(some_boots, st.data())
def test_nothing_measured_is_ever_shut_out(
    seven: Checkpoint, boots: tuple[Boot, ...], data: st.DataObject
) -> None:
    """However many others there are, before or after it."""
    seen = data.draw(some_boot)
    at = data.draw(st.integers(0, len(boots)))
    footprint = narrowed((*boots[:at], seen, *boots[at:]), launch(seven, seen.model, seen.args))
    assert seen.weights is None or seen.weights in footprint.weights
    if footprint.non_torch == Interval(0, 0):  # all of it in one number
        assert seen.overhead is None or seen.overhead in footprint.beside
        return
    for part in PARTS:
        measured, interval = getattr(seen, part), getattr(footprint, part)
        assert measured is None or interval.low * (1 - 1e-9) <= measured <= interval.high * (
            1 + 1e-9
        )


@given(some_boots, some_boot, some_boot)
def test_earlier_boots_only_narrow_unless_the_estimate_was_wrong(
    seven: Checkpoint, boots: tuple[Boot, ...], seen: Boot, other: Boot
) -> None:
    unknown = launch(seven, "digest-of-another-model", other.args)
    footprint = narrowed((*boots, seen), unknown)
    for part in PARTS:
        cold, now = getattr(COLD, part), getattr(footprint, part)
        numbers = [getattr(b, part) for b in (*boots, seen) if getattr(b, part) is not None]
        assert cold.low <= now.low or min(numbers) <= cold.low
        assert now.high <= cold.high or max(numbers) >= cold.high
        assert now.low <= now.high


@given(some_boots)
def test_an_interval_is_at_least_as_wide_as_what_was_observed(
    seven: Checkpoint, boots: tuple[Boot, ...]
) -> None:
    footprint = narrowed(boots, launch(seven, "digest-of-another-model"))
    numbers = [boot.activations for boot in boots if boot.activations]
    if numbers:
        width = footprint.activations.high - footprint.activations.low
        assert width >= (max(numbers) - min(numbers)) * (1 - 1e-9)


def test_the_same_boot_is_known_but_for_what_starts_differ_by(seven: Checkpoint) -> None:
    boots = (one(weights=14.29 * GIB, overhead=1.35 * GIB, graphs=0.89 * GIB),)
    footprint = narrowed(boots, launch(seven, "digest-a"))
    assert footprint.weights.high - footprint.weights.low < 0.02 * GIB
    assert 16 * 2**20 <= footprint.beside.high - footprint.beside.low < 64 * 2**20
    longer = narrowed(boots, launch(seven, "digest-a", {"max-model-len": 1024}))
    assert longer.beside == footprint.beside


def test_two_boots_that_differ_leave_both_possible(seven: Checkpoint) -> None:
    boots = (one(weights=14 * GIB, overhead=1.3 * GIB), one(weights=14 * GIB, overhead=1.6 * GIB))
    beside = narrowed(boots, launch(seven, "digest-a")).beside
    assert beside.low < 1.3 * GIB
    assert beside.high > 1.6 * GIB


def test_another_model_learns_the_ratio_and_keeps_a_margin(seven: Checkpoint) -> None:
    unknown = launch(seven, "digest-of-another-model")
    few = narrowed((one(activations=1.1 * GIB),), unknown).activations
    assert COLD.activations.low < few.low < 1.1 * GIB < few.high < COLD.activations.high
    models = tuple(one(f"digest-{n}", activations=1.1 * GIB) for n in range(4))
    many = narrowed(models, unknown).activations
    assert few.low < many.low < 1.1 * GIB < many.high < few.high


def test_what_several_gpus_take_says_nothing_about_one(seven: Checkpoint) -> None:
    boots = (replace(one(non_torch=1.4 * GIB), args={"tensor-parallel-size": 2}),)
    alone = narrowed(boots, launch(seven, "digest-of-another-model"))
    assert alone.non_torch == COLD.non_torch
    two = launch(seven, "digest-of-another-model", {"tensor-parallel-size": 2})
    assert 1.4 * GIB in narrowed(boots, two).non_torch


def test_other_weights_of_the_same_name_are_not_recognised(seven: Checkpoint) -> None:
    boots = (one("digest-of-yesterday", weights=1 * GIB, overhead=1 * GIB),)
    footprint = narrowed(boots, launch(seven, "digest-a"))
    assert (footprint.weights, footprint.beside) == (COLD.weights, COLD.beside)


def test_a_boot_of_this_walk_is_believed_before_those_of_others(seven: Checkpoint) -> None:
    earlier = (one(weights=14 * GIB, overhead=1.3 * GIB),)
    asked = launch(seven, "digest-a")
    printed = Readings(weights_bytes=int(14.1 * GIB), kv_bytes=60 * GIB)
    own = Boot.of(asked, printed, int(76 * GIB), 32768, exactly=False)
    found = Calibration(boots=(own,), earlier=earlier).apply(COLD, asked)
    assert found.overhead.low == pytest.approx(16 * GIB)
