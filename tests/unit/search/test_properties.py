"""The walk over a simulated vLLM: it ends, keeps its promises, and gives away nothing."""

from collections import Counter
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.bench.simulated import (
    ENOUGH,
    ended_late,
    grid,
    longest_deployable,
    needless,
    wrongly_ruled_out,
)
from tests.support.memory_model import (
    CARDS,
    GIB,
    WORKLOADS,
    Machine,
    Measured,
    cards,
    checkpoints,
    default_ladder,
    engine,
    gather,
    install,
    measured,
)
from tests.support.paths import SHAPES
from vllm_autotune.checkpoint import Checkpoint
from vllm_autotune.machine.device import Device
from vllm_autotune.outcome import (
    Crashed,
    Environment,
    Hung,
    OutOfMemory,
    Readings,
    Rejected,
    Stable,
)
from vllm_autotune.search.auto_length import deployed
from vllm_autotune.search.build import inapplicable
from vllm_autotune.search.facts import Facts
from vllm_autotune.search.step import next_step
from vllm_autotune.search.trial import Trial
from vllm_autotune.vllm.config import Value
from vllm_autotune.vllm.engine import Engine
from vllm_autotune.workload import Workload

MOST_LAUNCHES = 12
LADDERS = ("default", "long-context", "low-latency", "all-gpus")
CELLS = 560


@dataclass(frozen=True)
class World:
    """What every cell shares: the shapes and an installed vLLM."""

    checkpoints: dict[str, Checkpoint]
    engine: Engine
    ratios: Measured

    def machine(self, facts: Facts, seed: int) -> Machine:
        return Machine(facts, seed, self.ratios)

    def facts(
        self,
        shape: str,
        card: tuple[str, float, tuple[int, int], int],
        workload: Workload,
        ladder: str = "default",
        skip: Sequence[str] = (),
        fixed: dict[str, Value] = {},
    ) -> Facts:
        rungs = default_ladder(ladder).without(skip)
        checkpoint = self.checkpoints[shape]
        return gather(checkpoint, cards(*card), workload, self.engine, ladder=rungs, fixed=fixed)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    found = checkpoints(tmp_path_factory.mktemp("shapes"))

    return World(found, engine(install(tmp_path_factory.mktemp("site"))), measured(found))


SHAPE_NAMES = sorted(path.stem for path in SHAPES.glob("*.json"))
cells = st.fixed_dictionaries(
    {
        "shape": st.sampled_from(SHAPE_NAMES),
        "card": st.sampled_from(CARDS),
        "workload": st.sampled_from(WORKLOADS),
        "ladder": st.sampled_from(LADDERS),
        "skip": st.sampled_from(((), ("utilization",), ("shorter-context", "fp8-weights"))),
        "fixed": st.sampled_from(
            (
                {},
                {"max-num-seqs": "32"},
                {"gpu-memory-utilization": "0.85"},
                {"enforce-eager": True, "max-num-batched-tokens": "1024"},
                {"max-model-len": "2048"},
            )
        ),
    }
)
many = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)


def cell(world: World, options: dict[str, object]) -> Facts:
    if options["ladder"] == "low-latency" and options["skip"]:
        options = {**options, "skip": ("utilization",)}
    facts = world.facts(**options)  # type: ignore[arg-type]
    given = facts.base().number("max-model-len")
    if given and facts.workload.min_context > given:
        workload = replace(facts.workload, min_context=int(given), context=None)
        facts = replace(facts, workload=workload)
    return facts


@many
@given(options=cells, seed=st.integers(0, 10_000))
def test_every_walk_ends_soon_and_never_repeats_itself(
    world: World, options: dict[str, object], seed: int
) -> None:
    facts = cell(world, options)
    history, step = world.machine(facts, seed).walk()
    prints = [attempt.candidate.config.fingerprint() for attempt in history]
    assert step.candidate is None
    assert step.reason
    assert len(history) <= MOST_LAUNCHES
    assert len(set(prints)) == len(prints)


@many
@given(options=cells, seed=st.integers(0, 10_000))
def test_what_the_user_fixed_and_skipped_stays_so(
    world: World, options: dict[str, object], seed: int
) -> None:
    facts = cell(world, options)
    history, _ = world.machine(facts, seed).walk()
    skipped = {str(name) for name in options["skip"]}  # type: ignore[attr-defined]
    rungs = {rung.name: rung for rung in facts.ladder.rungs}
    for attempt in history:
        config = attempt.candidate.config
        assert {name: config.args[name] for name in facts.fixed} == dict(facts.fixed)
        assert facts.length(config) >= facts.workload.min_context
        for applied in attempt.candidate.rungs:
            assert applied.name not in skipped
            # A rung that quantizes makes itself inapplicable: ask without what it set.
            before = config.replace(dict.fromkeys(applied.args))
            assert inapplicable(rungs[applied.name], before, facts) is None


@many
@given(options=cells, seed=st.integers(0, 10_000))
def test_any_prefix_of_a_history_gives_the_same_next_candidate(
    world: World, options: dict[str, object], seed: int
) -> None:
    facts = cell(world, options)
    history, _ = world.machine(facts, seed).walk()
    for length, attempt in enumerate(history):
        assert next_step(facts, history[:length]).candidate == attempt.candidate
        assert next_step(facts, tuple(history[:length])).candidate == attempt.candidate


failures = st.one_of(
    st.builds(
        OutOfMemory,
        cause=st.just("oom"),
        phase=st.sampled_from(("load", "profile", "kv_cache", "graphs", "warmup", "serving")),
        reason=st.just("it"),
        limit=st.none() | st.integers(1, 200_000),
        shortfall_bytes=st.none() | st.integers(0, 40 * GIB),
    ),
    st.builds(
        Rejected,
        cause=st.just("rejected"),
        phase=st.just("config"),
        reason=st.sampled_from(("this", "that", "other")),
        argument=st.sampled_from((None, "quantization", "max-model-len")),
    ),
    st.builds(
        Hung,
        cause=st.just("hung"),
        phase=st.sampled_from(("load", "serving")),
        reason=st.just("it"),
        seconds=st.just(1.0),
    ),
    st.builds(Crashed, cause=st.just("unknown"), phase=st.just("load"), reason=st.text(max_size=2)),
    st.builds(Environment, cause=st.just("busy"), phase=st.just("spawn"), reason=st.just("it")),
)
nonsense = st.builds(
    Readings,
    weights_bytes=st.none() | st.integers(0, 200 * GIB),
    kv_bytes=st.none() | st.integers(-100 * GIB, 200 * GIB),
    graph_bytes=st.none() | st.integers(0, 20 * GIB),
    concurrency=st.none() | st.floats(0, 1000),
    max_num_seqs=st.none() | st.integers(1, 300),
    tried_bytes=st.none() | st.integers(0, 20 * GIB),
    model_runner=st.sampled_from((None, "v1", "v2")),
)


@many
@given(options=cells, replies=st.lists(st.tuples(failures, nonsense), min_size=40, max_size=40))
def test_a_server_that_makes_no_sense_at_all_ends_the_walk_too(
    world: World, options: dict[str, object], replies: list[tuple[OutOfMemory, Readings]]
) -> None:
    facts = cell(world, options)
    history: list[Trial] = []
    tried: Counter[str] = Counter()
    for outcome, readings in replies:
        step = next_step(facts, history)
        if step.candidate is None:
            break
        fingerprint = step.candidate.config.fingerprint()
        again = history and isinstance(history[-1].outcome, Environment)
        assert not tried[fingerprint] or again
        tried[fingerprint] += 1
        history.append(Trial.of(step.candidate, outcome, readings))
    else:
        pytest.fail("40 launches and no end")


Grid = list[tuple[str, Machine, list[Trial]]]


@pytest.fixture(scope="session")
def walked() -> Grid:
    """Every fifth cell of the grid that `make bench` walks."""
    return [(name, machine, machine.walk()[0]) for name, machine in grid(CELLS)]


def won(history: Sequence[Trial]) -> bool:
    return bool(history) and isinstance(history[-1].outcome, Stable)


@pytest.mark.slow
def test_the_grid_takes_one_launch_in_the_median_two_mostly_and_three_at_most(
    walked: Grid,
) -> None:
    launches = sorted(len(history) for _, _, history in walked if history)
    assert len(launches) > 400
    assert launches[len(launches) // 2] == 1
    assert launches[int(len(launches) * 0.95)] <= 2
    assert launches[-1] <= 3
    assert sum(won(history) for _, _, history in walked if history) / len(launches) > 0.98


@pytest.mark.slow
def test_no_winner_gives_up_what_was_known_not_to_be_needed(walked: Grid) -> None:
    """And what could not be known before the launch are bets that few winners would have won."""
    unneeded = [
        one
        for name, machine, history in walked
        if won(history)
        for one in needless(
            name,
            machine,
            history,
            deployed(machine.facts, history[-1].candidate, history[-1].readings),
        )
    ]
    assert not [one for one in unneeded if one.known]
    assert len({one.cell for one in unneeded}) <= len(walked) * 0.01, unneeded


def replace_noise(machine: Machine) -> Machine:
    quiet = copy(machine)
    quiet.noise = None
    return quiet


@pytest.mark.slow
def test_a_winner_is_really_stable(walked: Grid) -> None:
    for name, machine, history in walked:
        if won(history):
            quiet = replace_noise(machine)
            assert quiet.stable(
                deployed(machine.facts, history[-1].candidate, history[-1].readings).config
            ), name


@pytest.mark.slow
def test_nothing_that_runs_is_called_impossible(walked: Grid) -> None:
    for name, machine, _ in walked:
        assert not wrongly_ruled_out(machine), name


@pytest.mark.slow
def test_nothing_is_lost_for_which_a_rung_would_have_been_enough(walked: Grid) -> None:
    """The winner's dearest rung is the first that can be stable, found by trying them all.

    A rung counts as possible with its values at their extremes, which the walk does not always
    try: a few cells may end one or two rungs later, fewer give up.
    """
    later = [
        name
        for name, machine, history in walked
        if won(history)
        and ended_late(
            machine, deployed(machine.facts, history[-1].candidate, history[-1].readings)
        )
    ]
    given_up = [
        name
        for name, machine, history in walked
        if not won(history) and machine.can_do_with(machine.facts.ladder.rungs)
    ]
    assert len(given_up) <= len(walked) * 0.01, given_up
    assert len(later) <= len(walked) * 0.05, later


@pytest.mark.slow
def test_a_shortened_context_is_the_longest_that_fits(walked: Grid) -> None:
    """Within 2 %, beside the margin for what a KV cache varies by from start to start."""
    shortened, short = 0, []
    for name, machine, history in walked:
        if not won(history):
            continue
        config = deployed(machine.facts, history[-1].candidate, history[-1].readings).config
        context = machine.facts.length(config)
        if context >= machine.facts.context:
            continue
        shortened += 1
        longest = longest_deployable(machine, config)
        if context < ENOUGH * longest:
            short.append(f"{name}: {context} of {longest}")
    assert shortened > 20
    assert not short


@pytest.mark.slow
def test_cards_of_one_host_are_never_asked_for_more_than_they_have(walked: Grid) -> None:
    for name, machine, history in walked:
        devices: tuple[Device, ...] = machine.facts.devices
        for attempt in history:
            config = attempt.candidate.config
            tensor = config.integer("tensor-parallel-size", 1)
            pipeline = config.integer("pipeline-parallel-size", 1)
            assert tensor * pipeline <= len(devices), name
            assert machine.facts.checkpoint.heads % tensor == 0, name
            assert machine.facts.reserved(config) <= devices[0].free_bytes, name
