"""GPUs of several kinds: each is a stage of a pipeline, with as many layers as it has room for."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from math import ceil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.memory_model import GIB, cards, default_ladder, engine, gather, install
from tests.support.paths import SHAPES
from tests.support.reports import answer_for
from tests.support.tiny_model import make_tiny_model
from vllm_autotune.checkpoint import read_checkpoint
from vllm_autotune.deploy import FORMATS, ModelVolume, Service
from vllm_autotune.errors import BadReport
from vllm_autotune.machine.device import Device
from vllm_autotune.machine.selection import Selection, select
from vllm_autotune.memory import estimate, even_stages
from vllm_autotune.outcome import OutOfMemory, Readings
from vllm_autotune.report.codec import dump
from vllm_autotune.report.plan import make_plan
from vllm_autotune.report.read import parse_report
from vllm_autotune.report.report import Report
from vllm_autotune.report.trust import refused_setting
from vllm_autotune.search.facts import Facts
from vllm_autotune.search.fit.parallel import apportion
from vllm_autotune.search.prediction import calibrate, predict
from vllm_autotune.search.step import next_step, prospects
from vllm_autotune.search.trial import Candidate, Trial
from vllm_autotune.tuning.cache import cache_key
from vllm_autotune.tuning.recall import still_valid
from vllm_autotune.vllm.config import LaunchConfig
from vllm_autotune.vllm.flags import PARTITION
from vllm_autotune.workload import Workload

KINDS = (
    ("NVIDIA GeForce RTX 3090", 23.6, (8, 6)),
    ("NVIDIA L40S", 44.4, (8, 9)),
    ("NVIDIA A100-SXM4-40GB", 39.4, (8, 0)),
    ("NVIDIA H100 80GB HBM3", 79.2, (9, 0)),
)
QUANTIZING = ("quantized-checkpoint", "fp8-weights", "4bit-weights")
rooms = st.lists(st.floats(0.1, 100), min_size=1, max_size=4)


def gpus(*kinds: int) -> tuple[Device, ...]:
    """Return one GPU of each of these kinds, in the order of the PCI bus."""
    return tuple(
        replace(cards(*KINDS[kind], 1)[0], index=index, uuid=f"GPU-{index}")
        for index, kind in enumerate(kinds)
    )


@pytest.fixture(scope="module")
def facts_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Facts]:
    vllm = engine(install(tmp_path_factory.mktemp("site")))

    def facts(
        devices: tuple[Device, ...], shape: str = "qwen2.5-32b", env: dict[str, str] = {}
    ) -> Facts:
        folder = tmp_path_factory.mktemp("model")
        (folder / "config.json").write_text((SHAPES / f"{shape}.json").read_text())
        checkpoint = read_checkpoint(str(folder), weights_required=False)
        ladder = default_ladder().without(QUANTIZING)
        made = gather(checkpoint, devices, Workload(min_context=4096), vllm, ladder=ladder)
        return replace(made, env=env)

    return facts


def first(facts: Facts) -> Candidate:
    candidate = next_step(facts, ()).candidate
    assert candidate
    return candidate


def chosen(facts: Facts, *found: Device) -> Selection:
    """Return what a tuning of the same would use of these GPUs."""

    def fits(choice: Selection) -> str:
        candidate = next_step(replace(facts, devices=choice.devices), ()).candidate
        offloads = candidate is None or candidate.config.cpu_offload_gib
        return "no" if candidate is None or offloads else candidate.predicted.fits

    return select(found, keep_busy=False, least=1, fits=fits)


@given(st.integers(1, 12), rooms)
def test_no_other_way_to_deal_leaves_the_tightest_more(layers: int, room: list[float]) -> None:
    layers = max(layers, len(room))
    dealt = apportion(layers, room)
    assert sum(dealt) == layers
    assert min(dealt) >= 1

    def tightest(counts: tuple[int, ...]) -> float:
        return min(have / count for have, count in zip(room, counts, strict=True))

    ways = itertools.product(range(1, layers + 1), repeat=len(room))
    best = max(tightest(way) for way in ways if sum(way) == layers)
    assert tightest(dealt) == pytest.approx(best)


@given(st.integers(1, 200), st.integers(1, 8))
def test_vllm_deals_alike_where_it_is_not_told(layers: int, stages: int) -> None:
    """What is over goes to the stages before the last one (`get_pp_indices`, 0.32)."""
    stages = min(stages, layers)
    dealt = even_stages(layers, stages)
    assert (sum(dealt), len(dealt)) == (layers, stages)
    assert max(dealt) - min(dealt) <= 1
    assert dealt[-1] == layers // stages
    if layers % stages and stages - layers % stages > 1:
        assert dealt[0] == layers // stages
    assert max(dealt) == ceil(layers / stages)


@given(st.lists(st.integers(0, 3), min_size=2, max_size=4).filter(lambda k: len(set(k)) > 1))
@settings(deadline=None, max_examples=25)
def test_the_stages_are_the_whole_model(facts_of: Callable[..., Facts], kinds: list[int]) -> None:
    facts = facts_of(gpus(*kinds))
    config = LaunchConfig(facts.model, {"pipeline-parallel-size": len(kinds)})
    setups = facts.setups(config)
    assert sum(setup.stage.layers for setup in setups if setup.stage) == facts.checkpoint.layers
    whole = estimate(replace(facts.setup(LaunchConfig(facts.model)), device=gpus(3)[0])).weights
    parts = [estimate(setup).weights for setup in setups]
    assert sum(part.middle for part in parts) == pytest.approx(whole.middle, rel=0.02)
    assert [setup.leader for setup in setups] == [facts.devices[0]] * len(kinds)


def test_each_gpu_has_the_layers_that_it_has_room_for(facts_of: Callable[..., Facts]) -> None:
    """61 GiB of weights: no card, nor the two equal ones, holds them."""
    facts = facts_of(gpus(1, 0, 0))
    candidate = first(facts)
    dealt = candidate.config.partition
    assert dealt
    assert sum(dealt) == facts.checkpoint.layers
    assert dealt[0] > 1.7 * dealt[1] > 1.7
    assert candidate.config.env["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert candidate.predicted.fits == "yes"
    assert [stage.fits for stage in candidate.predicted.stages] == ["yes"] * 3
    assert tuple(stage.layers for stage in candidate.predicted.stages) == dealt
    assert [rung.name for rung in candidate.rungs if PARTITION in rung.env] == ["pipeline-parallel"]
    even = candidate.config.replace(env={PARTITION: "22,21,21"})
    assert predict(facts, calibrate(facts), even).fits == "no"


def test_no_layer_is_split_over_several_kinds(facts_of: Callable[..., Facts]) -> None:
    facts = facts_of(gpus(1, 0, 0, 2))
    for rung, candidate, why in prospects(facts):
        assert candidate is None or candidate.config.tensor_parallel == 1
        assert rung.name != "tensor-parallel" or "of several kinds" in why


def test_what_the_weakest_cannot_is_not_asked_of_any(facts_of: Callable[..., Facts]) -> None:
    """An 8-bit KV cache needs 8.9, and of the two kinds one has 8.6."""
    reasons = {rung.name: why for rung, _, why in prospects(facts_of(gpus(1, 0, 0)))}
    assert "NVIDIA GeForce RTX 3090 has 8.6" in reasons["kv-cache-8bit"]


def test_the_users_own_split_stays(facts_of: Callable[..., Facts]) -> None:
    facts = facts_of(gpus(3, 0, 0), env={PARTITION: "54,10"})
    config = facts.base().replace({"pipeline-parallel-size": 2})
    assert [setup.stage.layers for setup in facts.setups(config) if setup.stage] == [54, 10]
    pairs = facts_of(cards(*KINDS[0], 2), env={PARTITION: "40,24"})
    config = pairs.base().replace({"pipeline-parallel-size": 2})
    heavy, light = (estimate(setup).weights.middle for setup in pairs.setups(config))
    assert heavy > 1.5 * light


def test_the_stage_with_the_most_layers_bounds_what_vllm_printed(tmp_path: Path) -> None:
    """8 layers dealt as 6 and 2 over two workers of a CPU build of 0.32, 1.38 GiB for each."""
    model = make_tiny_model(tmp_path / "model", layers=8)
    checkpoint = read_checkpoint(str(model))
    vllm = engine(install(tmp_path / "site"), "0.32.0")
    facts = gather(checkpoint, (replace(gpus(0)[0], kind="cpu"),), Workload(context=512), vllm)
    config = LaunchConfig(facts.model, {"pipeline-parallel-size": 2}, {PARTITION: "6,2"})
    most, least = (estimate(setup).kv_bytes(240_384) for setup in facts.setups(config))
    assert most.middle == pytest.approx(1.38 * GIB, abs=0.005 * GIB)
    assert least.middle == pytest.approx(most.middle / 3, rel=0.01)
    assert facts.setup(config) == facts.setups(config)[0]


# Which GPUs are used.


def test_several_kinds_only_where_none_is_enough(facts_of: Callable[..., Facts]) -> None:
    found = gpus(1, 0, 0)
    assert chosen(facts_of(found), *found).devices == found
    assert chosen(facts_of(found, "qwen2.5-7b"), *found).devices == found[:1]
    enough = gpus(0, 3, 0)
    assert chosen(facts_of(enough), *enough).devices == enough[1:2]


def test_as_few_as_are_enough_in_the_order_of_the_bus(facts_of: Callable[..., Facts]) -> None:
    found = gpus(0, 2, 1, 0)
    choice = chosen(facts_of(found), *found)
    assert [device.index for device in choice.devices] == [1, 2]
    assert sorted(choice.left_alone) == [
        f"the GPU NVIDIA GeForce RTX 3090 (GPU-{index}) is left alone: not needed"
        for index in (0, 3)
    ]


def test_a_busy_one_is_no_stage(facts_of: Callable[..., Facts]) -> None:
    card, idle, taken = gpus(1, 0, 0)
    taken = replace(taken, free_bytes=GIB)
    found = chosen(facts_of((card, idle)), card, idle, taken)
    assert taken not in found.devices


def test_no_walk_ends_on_the_host_for_a_card_that_was_left_out(
    facts_of: Callable[..., Facts],
) -> None:
    """Where two may be too small, the third is there for the launch after that."""
    found = tuple(replace(d, free_bytes=d.memory_bytes) for d in gpus(0, 1, 0))
    facts = replace(facts_of(found), devices=chosen(facts_of(found), *found).devices)
    assert len(facts.devices) == 3
    tight = first(replace(facts, devices=facts.devices[:2]))
    assert (tight.config.world_size, tight.predicted.fits) == (2, "perhaps")
    lacked = OutOfMemory(cause="no_kv", phase="kv_cache", reason="no memory is left")
    second = next_step(facts, [Trial.of(tight, lacked, Readings())]).candidate
    assert second
    assert (second.config.world_size, second.config.cpu_offload_gib) == (3, 0)


# What becomes of the answer.


@pytest.fixture
def mixed(facts_of: Callable[..., Facts]) -> Facts:
    return facts_of(gpus(1, 0, 0))


@pytest.fixture
def report(mixed: Facts) -> Report:
    return parse_report(dump(answer_for(mixed)))


def objections(report: Report, facts: Facts) -> str:
    return str(still_valid(parse_report(dump(report)), facts, cache_key(facts)))


def test_the_plan_tells_each_stage(mixed: Facts) -> None:
    plan = make_plan(mixed)
    assert plan.first
    stages = plan.first.proposal.predicted.stages
    assert [stage.layers for stage in stages] == list(first(mixed).config.partition or ())
    assert {round(stage.reserved_bytes / GIB) for stage in stages} == {39, 21}


def test_the_answer_is_recalled_where_every_gpu_has_room(report: Report, mixed: Facts) -> None:
    assert objections(report, mixed) == "None"
    assert report.winner
    assert refused_setting(report, report.winner) is None
    for device, needed in zip(mixed.devices, report.winner.valid_for.needed_each, strict=True):
        for short in (0, 1):
            left = replace(device, free_bytes=needed + mixed.headroom_bytes // 2 - short)
            now = replace(mixed, devices=tuple(left if d is device else d for d in mixed.devices))
            assert ("may be used now" in objections(report, now)) == bool(short)


def test_the_gpus_must_be_in_the_same_order(report: Report, mixed: Facts) -> None:
    turned = replace(mixed, devices=(*mixed.devices[1:], mixed.devices[0]))
    assert objections(report, turned) != "None"


@pytest.mark.parametrize("split", ["32,32", "20,20,x", "64", ""])
def test_a_split_that_is_none_is_refused(report: Report, split: str) -> None:
    assert report.winner
    env = {**report.winner.env, PARTITION: split}
    (proof,) = report.trials
    other = replace(
        report, winner=replace(report.winner, env=env), trials=(replace(proof, env=env),)
    )
    with pytest.raises(ValueError, match="number of layers for each stage"):
        parse_report(dump(other))


def test_a_split_of_another_model_is_not_recalled(report: Report, mixed: Facts) -> None:
    assert report.winner
    env = {**report.winner.env, PARTITION: "20,20,20"}
    (proof,) = report.trials
    other = replace(
        report, winner=replace(report.winner, env=env), trials=(replace(proof, env=env),)
    )
    assert "its stages have 60 layers" in objections(other, mixed)


def rendered(report: Report) -> Iterator[tuple[str, str]]:
    for form, write in FORMATS.items():
        volume = ModelVolume("models", "a/b") if form.startswith("kserve") else None
        if form not in {"kaito", "skypilot"}:
            yield form, write(Service(report, volume=volume))


def test_every_format_has_the_split_and_says_which_gpus(report: Report) -> None:
    assert report.winner
    split = report.winner.env[PARTITION]
    for form, text in rendered(report):
        assert split in text, form
        assert "PCI_BUS_ID" in text, form
        assert "gpu.product" not in text, form
    kinds = "NVIDIA L40S, NVIDIA GeForce RTX 3090, NVIDIA GeForce RTX 3090"
    for form, text in rendered(report):
        assert kinds in text or form in {"shell", "env"}, form


@pytest.mark.parametrize("form", ["kaito", "skypilot"])
def test_who_asks_for_one_kind_refuses_several(report: Report, form: str) -> None:
    assert report.winner
    named = replace(
        report,
        winner=replace(report.winner, model="org/model", argv=("vllm", "serve", "org/model")),
    )
    with pytest.raises(BadReport, match="one kind of GPU"):
        FORMATS[form](Service(named))


def test_a_report_of_several_kinds_is_a_file_like_any_other(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(dump(report))
    assert parse_report(path.read_text()) == report
    assert report.winner
    assert len(report.winner.valid_for.needed_each) == 3
