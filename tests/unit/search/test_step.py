"""The walk, step by step: what follows from one outcome."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.support.memory_model import FLAGS, GIB, cards, default_ladder, engine, gather, install
from tests.support.paths import SHAPES
from tests.support.small_model import of_shape
from vllm_autotune.checkpoint import Checkpoint, read_checkpoint
from vllm_autotune.checkpoint.tensors import Weights
from vllm_autotune.launch.requirements import too_little_headroom
from vllm_autotune.machine.device import Device
from vllm_autotune.memory import Boot, estimate
from vllm_autotune.outcome import (
    Certificate,
    Crashed,
    Environment,
    Hung,
    Outcome,
    OutOfMemory,
    Phase,
    Readings,
    Rejected,
    Stable,
)
from vllm_autotune.search.auto_length import deployed
from vllm_autotune.search.facts import Facts
from vllm_autotune.search.step import next_step, prospects
from vllm_autotune.search.trial import Trial
from vllm_autotune.vllm.config import LaunchConfig, Value
from vllm_autotune.workload import Effort, Workload

SMALL = cards("NVIDIA GeForce RTX 4090", 23.5, (8, 9), 1)
LARGE = cards("NVIDIA H200", 139.8, (9, 0), 1)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp("site"))


@pytest.fixture
def shape(tmp_path: Path) -> Checkpoint:
    """A 7B model."""
    (tmp_path / "config.json").write_text((SHAPES / "qwen2.5-7b.json").read_text())
    return read_checkpoint(str(tmp_path), weights_required=False)


@pytest.fixture
def large(shape: Checkpoint, site: Path) -> Facts:
    return gather(shape, LARGE, Workload(), engine(site))


@pytest.fixture
def small(shape: Checkpoint, site: Path) -> Facts:
    """A card on which the whole context does not surely fit."""
    return gather(shape, SMALL, Workload(), engine(site))


@pytest.fixture
def tight(small: Facts) -> Facts:
    """A card on which it may fit."""
    return replace(small, devices=cards("NVIDIA RTX 4000 SFF Ada", 18.0, (8, 9), 1))


def attempt(facts: Facts, history: list[Trial], outcome: Outcome, **numbers: float) -> None:
    candidate = next_step(facts, history).candidate
    assert candidate
    readings = Readings(**numbers)  # type: ignore[arg-type]
    history.append(Trial.of(candidate, outcome, readings))


def flags(facts: Facts, history: list[Trial]) -> str:
    candidate = next_step(facts, history).candidate
    return " ".join(candidate.config.flags()) if candidate else "none"


def rungs(facts: Facts, history: list[Trial]) -> list[str]:
    candidate = next_step(facts, history).candidate
    return [applied.name for applied in candidate.rungs] if candidate else []


def ran_out(phase: Phase, limit: int | None = None, short: int | None = None) -> OutOfMemory:
    return OutOfMemory(cause="oom", phase=phase, reason="it", limit=limit, shortfall_bytes=short)


def rejected(reason: str, argument: str | None = None) -> Rejected:
    return Rejected(cause="refused", phase="config", reason=reason, argument=argument)


STABLE = Stable(certificate=Certificate(checks=(), seconds=1.0))
BUSY = Environment(cause="busy", phase="spawn", reason="someone else is there")


def fixed(facts: Facts, **args: Value) -> Facts:
    return replace(facts, fixed={name.replace("_", "-"): value for name, value in args.items()})


def test_a_model_that_fits_is_launched_as_it_is(large: Facts) -> None:
    assert flags(large, []) == ""


def test_after_a_stable_launch_there_is_nothing_left_to_do(large: Facts) -> None:
    history: list[Trial] = []
    attempt(large, history, STABLE)
    step = next_step(large, history)
    assert (step.candidate, step.reason) == (None, "stable")


def test_a_failure_from_outside_gets_one_more_chance(large: Facts) -> None:
    history: list[Trial] = []
    attempt(large, history, BUSY)
    assert next_step(large, history).candidate == history[0].candidate
    attempt(large, history, BUSY)
    assert (
        next_step(large, history).reason
        == "two launches failed for reasons outside the configuration"
    )


def test_what_every_launch_would_end_in_is_launched_once(large: Facts) -> None:
    history: list[Trial] = []
    lacking = Environment(cause="missing_package", phase="config", reason="no torchvision")
    attempt(large, history, lacking)
    step = next_step(large, history)
    assert step.candidate is None
    assert step.reason == "another launch would end the same way: no torchvision"


def test_after_a_failure_from_outside_the_free_memory_counts_anew(large: Facts) -> None:
    history: list[Trial] = []
    attempt(large, history, BUSY)
    busy = replace(large, devices=tuple(replace(d, free_bytes=70 * GIB) for d in LARGE))
    assert flags(large, history) == ""
    assert "--gpu-memory-utilization 0.4" in flags(busy, history)


def test_vllm_is_asked_for_the_length_where_nothing_measured_tells_it(tight: Facts) -> None:
    assert flags(tight, []).endswith("--max-model-len auto")
    several = replace(tight, workload=replace(tight.workload, concurrency=2))
    assert flags(several, []).endswith("--max-model-len auto")
    # vLLM goes no further than the model's own context by itself.
    stretched = replace(tight, workload=replace(tight.workload, context=40_000))
    assert "auto" not in flags(stretched, [])
    exact = replace(tight, workload=replace(tight.workload, exact=True))
    assert "auto" not in flags(exact, [])
    old = replace(tight, engine=replace(tight.engine, version="0.19.1"))
    assert "auto" not in flags(old, [])


@pytest.mark.parametrize("gib", [18.0, 18.5, 18.9, 19.0])
def test_a_context_that_hardly_fits_is_shortened_before_anything_dearer(
    small: Facts, gib: float
) -> None:
    """On 19 GiB the whole of it may fit, with a chance of 0.1."""
    exact = replace(small.workload, exact=True)
    devices = cards("NVIDIA RTX 4000 SFF Ada", gib, (8, 9), 1)
    found = next_step(replace(small, devices=devices, workload=exact), []).candidate
    assert found
    assert [rung.name for rung in found.rungs] == ["utilization", "shorter-context"]
    assert found.config.max_model_len
    assert found.config.max_model_len < 32_768


@pytest.mark.parametrize(("served", "length"), [(20_000, 19_744), (32_768, 32_512), (4_100, 4_096)])
def test_a_length_that_vllm_chose_is_deployed_as_a_number_that_fits_again(
    tight: Facts, served: int, length: int
) -> None:
    """14 MiB of KV cache are 256 tokens of a 7B."""
    history: list[Trial] = []
    attempt(tight, history, STABLE, max_model_len=served)
    found = deployed(tight, history[0].candidate, history[0].readings)
    assert found.config.integer("max-model-len", 0) == length
    assert {"max-model-len": length} in [applied.args for applied in found.rungs]


@pytest.mark.parametrize(
    ("served", "often", "wanted", "length"),
    [
        (20_000, 1.0, 4, 4_928),  # the KV cache holds 20,000 tokens, 256 of them are left out
        (32_768, 5.3, 4, 32_768),
        (32_768, 5.3, 8, 21_648),
    ],
)
def test_of_a_length_that_vllm_chose_each_of_several_at_once_has_its_share(
    tight: Facts, served: int, often: float, wanted: int, length: int
) -> None:
    facts = replace(tight, workload=replace(tight.workload, concurrency=wanted))
    history: list[Trial] = []
    attempt(facts, history, STABLE, max_model_len=served, concurrency=often)
    found = deployed(facts, history[0].candidate, history[0].readings)
    assert facts.length(found.config) == length
    assert ("shorter-context" in [applied.name for applied in found.rungs]) == (length < 32_768)


def test_once_vllm_chooses_the_length_no_rung_more_is_taken(site: Path, shape: Checkpoint) -> None:
    # Weights of 14.3 GiB and 0.9 GiB for eight sequences: with 8 bits they fit, with 4 surely.
    card = cards("Tesla T4", 14.6, (7, 5), 1)
    workload = Workload(context=8192, min_context=2048, concurrency=8)
    taken = rungs(gather(shape, card, workload, engine(site)), [])
    assert "fp8-weights" in taken
    assert "4bit-weights" not in taken


def test_a_wanted_length_that_vllm_exceeds_gives_nothing_up(tight: Facts) -> None:
    workload = replace(tight.workload, context=30_000, min_context=8192)
    facts = replace(tight, workload=workload)
    history: list[Trial] = []
    attempt(facts, history, STABLE, max_model_len=32_768)
    assert history[0].candidate.config.text("max-model-len") == "auto"
    found = deployed(facts, history[0].candidate, history[0].readings)
    assert found.config.integer("max-model-len", 0) == 30_000
    assert "shorter-context" not in [applied.name for applied in found.rungs]


def test_the_length_that_vllm_prints_is_the_length_that_is_asked_for(small: Facts) -> None:
    """Rounded to the block, less what a KV cache varies by (14 MiB are 256 tokens here)."""
    history: list[Trial] = []
    attempt(small, history, ran_out("kv_cache", limit=20_000), kv_bytes=GIB, weights_bytes=15 * GIB)
    candidate = next_step(small, history).candidate
    assert candidate
    length = candidate.config.integer("max-model-len", 0)
    raised = candidate.config.number("gpu-memory-utilization") or 0.92
    before = history[0].candidate.config.number("gpu-memory-utilization") or 0.92
    more = (raised - before) * 23.5 * GIB / 57_344
    assert length % 16 == 0
    assert 20_000 + more - 300 < length < 20_000 + more


def test_a_headroom_that_was_too_small_is_made_up_for_exactly(small: Facts) -> None:
    history: list[Trial] = []
    least = small.headroom_bytes - GIB // 8
    lacking = too_little_headroom(
        small, Certificate(checks=(), seconds=1.0, least_free_bytes=least)
    )
    assert lacking
    attempt(small, history, lacking)
    before = history[0].candidate.predicted.reserved_bytes
    candidate = next_step(small, history).candidate
    assert candidate
    lowered = before - candidate.predicted.reserved_bytes
    assert GIB // 8 < lowered < GIB // 8 + 64 * 2**20
    assert "fewer-sequences" not in rungs(small, history)


def test_what_runs_out_again_is_left_more_each_time_and_then_less_is_served(large: Facts) -> None:
    """As with prompt_logprobs on an H200: what is lacking hides what is asked for next."""
    history: list[Trial] = []
    for _ in range(5):
        attempt(large, history, ran_out("serving", short=GIB // 16))
    reserved = [a.candidate.predicted.reserved_bytes for a in history]
    lowered = [before - after for before, after in pairwise(reserved)]
    headroom = large.headroom_bytes  # what ran out was all of it, and more
    beyond = [round((bytes_ - headroom) / GIB, 1) for bytes_ in lowered]
    assert beyond == [0.1, 0.5, 2.5, 5.0]
    assert rungs(large, history) == ["utilization", "fewer-sequences"]
    candidate = next_step(large, history).candidate
    assert candidate
    assert candidate.predicted.reserved_bytes <= reserved[-1] + 3 * GIB


def test_prompt_logprobs_that_are_wanted_leave_room_for_themselves(large: Facts) -> None:
    """11.6 GiB for 8192 tokens at once with Model Runner V1; no activations are held then."""
    old = replace(large, env={"VLLM_USE_V2_MODEL_RUNNER": "0"})
    wanted = replace(old, workload=Workload(probe=Effort(logprobs=True)))
    candidate = next_step(wanted, []).candidate
    assert candidate
    left = LARGE[0].free_bytes - candidate.predicted.reserved_bytes
    assert 10 * GIB < left < 12 * GIB
    assert next_step(old, []).candidate != candidate


def test_model_runner_v2_takes_the_logits_of_1024_tokens_at_once(large: Facts) -> None:
    """What the logits of a step take is little beside what its activations leave."""
    wanted = replace(large, workload=Workload(probe=Effort(logprobs=True)))
    assert flags(wanted, []) == flags(large, [])
    small = {"max_num_batched_tokens": "2048", "gpu_memory_utilization": "0.9"}
    without, with_them = (fixed(facts, **small) for facts in (large, wanted))
    more = [estimate(facts.setup(facts.base())).beyond_share for facts in (with_them, without)]
    assert more[0] - more[1] < 0.3 * GIB


def test_a_utilization_that_is_fixed_is_answered_by_smaller_steps(small: Facts) -> None:
    facts = fixed(small, gpu_memory_utilization="0.9")
    history: list[Trial] = []
    attempt(facts, history, ran_out("graphs"))
    assert rungs(facts, history)[-1] == "fewer-sequences"
    assert "--gpu-memory-utilization 0.9 " in flags(facts, history)
    attempt(facts, history, ran_out("graphs"))
    assert "--max-num-seqs 16" in flags(facts, history)


def test_a_request_that_hangs_at_full_length_is_made_shorter(large: Facts) -> None:
    facts = replace(large, ladder=default_ladder().without(["utilization"]))
    history: list[Trial] = []
    hung = Hung(cause="slow", phase="serving", reason="no answer", seconds=60)
    attempt(facts, history, hung)
    assert rungs(facts, history) == ["shorter-context"]
    assert flags(facts, history) == "--max-model-len 32752"  # a block less
    attempt(facts, history, hung)
    assert flags(facts, history) == "--max-model-len 24560"


def test_a_worker_that_answers_no_more_is_not_given_a_shorter_context(large: Facts) -> None:
    facts = replace(large, ladder=default_ladder().without(["utilization"]))
    history: list[Trial] = []
    attempt(facts, history, Hung(cause="worker_hung", phase="serving", reason="", seconds=None))
    assert next_step(facts, history).candidate is None


def test_weights_that_do_not_fit_are_never_answered_by_a_shorter_context(small: Facts) -> None:
    history: list[Trial] = []
    attempt(small, history, ran_out("load"))
    assert rungs(small, history)[-1] == "fp8-weights"
    attempt(small, history, ran_out("load"))
    assert rungs(small, history)[-1] == "4bit-weights"
    assert "--quantization bitsandbytes" in flags(small, history)
    attempt(small, history, ran_out("load"))
    assert rungs(small, history)[-1] == "cpu-offload"


def test_a_rung_that_vllm_rejects_is_withdrawn_and_the_next_one_is_taken(small: Facts) -> None:
    history: list[Trial] = []
    attempt(small, history, ran_out("load"))
    attempt(small, history, rejected("no fp8 on this card", "quantization"))
    assert rungs(small, history)[-1] == "4bit-weights"
    skips = {skip.rung: skip.reason for skip in next_step(small, history).skips}
    assert "no fp8 on this card" in skips["fp8-weights"]


def test_a_first_candidate_with_a_rejected_rung_is_not_the_end(small: Facts) -> None:
    """The first candidate has rungs already where nothing less can fit."""
    tiny = replace(small, devices=cards("NVIDIA RTX A2000", 11.0, (8, 9), 1))
    history: list[Trial] = []
    assert "fp8-weights" in rungs(tiny, history)
    attempt(tiny, history, rejected("no fp8 here", "quantization"))
    assert "4bit-weights" in rungs(tiny, history)


def test_what_fails_without_any_rung_ends_the_walk(large: Facts) -> None:
    history: list[Trial] = []
    crashed = Crashed(cause="unknown", phase="load", reason="it did not say why")
    attempt(large, history, crashed)
    assert next_step(large, history).reason == (
        "no rung of the ladder fixes this: it did not say why"
    )


def test_the_same_failure_without_the_blamed_rungs_ends_the_walk(small: Facts) -> None:
    history: list[Trial] = []
    attempt(small, history, ran_out("load"))
    attempt(small, history, rejected("the tokenizer is broken"))
    attempt(small, history, rejected("the tokenizer is broken"))
    assert next_step(small, history).candidate is None


def test_a_limit_that_no_utilization_can_keep_means_no_launch(small: Facts) -> None:
    limited = replace(small, devices=tuple(replace(device, limit_bytes=2**20) for device in SMALL))
    assert next_step(limited, []).candidate is None
    facts = fixed(limited, gpu_memory_utilization="0.9")
    skips = {skip.reason for skip in next_step(facts, []).skips}
    assert next_step(facts, []).candidate is None
    assert any("may be used" in reason for reason in skips)


def test_gpus_are_added_only_as_many_as_divide_the_heads(shape: Checkpoint, site: Path) -> None:
    three: tuple[Device, ...] = cards("NVIDIA L4", 22.5, (8, 9), 3)
    ladder = default_ladder().without(
        ["fp8-weights", "4bit-weights", "cpu-offload", "kv-cache-8bit", "no-graphs"]
    )
    workload = Workload(context=32768, min_context=32768, concurrency=12)
    facts = gather(shape, three, workload, engine(site), ladder=ladder)
    assert "--tensor-parallel-size 2" in flags(facts, [])
    odd = replace(facts, checkpoints={shape.path: replace(shape, heads=7, kv_heads=7)})
    assert "--pipeline-parallel-size" in flags(odd, [])
    assert "--tensor-parallel-size" not in flags(odd, [])


def test_gpus_that_the_user_deals_out_are_not_dealt_out_again(
    shape: Checkpoint, site: Path
) -> None:
    for split in ("pipeline-parallel-size", "data-parallel-size"):
        for count, expected in ((2, None), (4, "2")):
            four = cards("NVIDIA GeForce RTX 2080 Ti", 7.0, (7, 5), count)
            facts = gather(shape, four, Workload(), engine(site), fixed={split: "2"}, host_gib=1)
            rows = {rung.name: candidate for rung, candidate, _ in prospects(facts)}
            tensor = rows["tensor-parallel"]
            found = tensor and tensor.config.text("tensor-parallel-size")
            assert found == expected, (split, count)
            assert len(facts.used(facts.base())) == 2


def test_slices_of_a_gpu_are_not_used_together(shape: Checkpoint, site: Path) -> None:
    slices = tuple(replace(d, mig=True) for d in cards("NVIDIA A100 MIG 1g.10gb", 9.5, (8, 0), 4))
    facts = gather(shape, slices, Workload(), engine(site))
    reasons = {rung.name: reason for rung, candidate, reason in prospects(facts) if not candidate}
    assert "one MIG slice" in reasons["tensor-parallel"]
    assert "one MIG slice" in reasons["pipeline-parallel"]


def test_host_memory_is_shared_by_the_gpus_that_offload(shape: Checkpoint, site: Path) -> None:
    two = cards("NVIDIA GeForce RTX 2080 Ti", 4.0, (7, 5), 2)
    facts = gather(shape, two, Workload(), engine(site), host_gib=15)
    facts = replace(facts, fixed={"tensor-parallel-size": "2"})
    drafts = [candidate.config for _, candidate, _ in prospects(facts) if candidate]
    assert 0 < max(c.integer("cpu-offload-gb", 0) for c in drafts) <= 15 / 1.9 / 2


def test_weights_too_small_to_offload_are_not_blamed_on_the_host(
    shape: Checkpoint, site: Path
) -> None:
    assert shape.weights
    small = Weights(bytes=GIB * 7 // 8)
    card = cards("NVIDIA GeForce RTX 2080 Ti", 1.2, (7, 5), 1)
    for weights, host, reason in (
        (small, 15, "the weights are smaller than 1 GiB"),
        (shape.weights, 1, "no host memory is free"),
    ):
        model = replace(shape, weights=weights)
        facts = gather(model, card, Workload(), engine(site), host_gib=host)
        reasons = {rung.name: why for rung, candidate, why in prospects(facts) if not candidate}
        assert reasons["cpu-offload"] == reason


def test_a_quantized_sibling_comes_before_quantizing_online(small: Facts) -> None:
    sibling = replace(
        small.checkpoint, path="/models/7b-AWQ", quantization="awq",
        weights=Weights(bytes=6 * GIB),
    )  # fmt: skip
    facts = replace(small, checkpoints={**small.checkpoints, "/models/7b-AWQ": sibling})
    history: list[Trial] = []
    attempt(facts, history, ran_out("load"))
    candidate = next_step(facts, history).candidate
    assert candidate
    assert candidate.config.model == "/models/7b-AWQ"
    assert "fp8-weights" not in rungs(facts, history)


def test_a_plan_has_a_row_for_every_rung(small: Facts) -> None:
    rows = list(prospects(small))
    assert [rung.name for rung, _, _ in rows] == [rung.name for rung in small.ladder.rungs]
    for _, candidate, why in rows:
        assert why
        assert candidate is None or candidate.config.model == small.model
    reasons = {rung.name: why for rung, candidate, why in rows if candidate is None}
    assert reasons["tensor-parallel"] == "needs 2 GPUs, found 1"
    assert reasons["float16"] == "not needed on NVIDIA GeForce RTX 4090"


@pytest.fixture
def two(shape: Checkpoint, site: Path) -> Facts:
    """Two cards that hold the model together only, and nothing but them to try."""
    names = ("utilization", "tensor-parallel", "pipeline-parallel")
    skipped = [r.name for r in default_ladder().rungs if r.name not in names]
    ladder = default_ladder().without(skipped)
    pair = cards("NVIDIA RTX A4000", 14.0, (8, 6), 2)
    return gather(shape, pair, Workload(), engine(site), ladder=ladder)


def test_a_rung_that_another_takes_the_place_of_is_not_in_the_candidate(two: Facts) -> None:
    history: list[Trial] = []
    attempt(two, history, ran_out("kv_cache"))
    assert "tensor-parallel" in [applied.name for applied in history[0].candidate.rungs]
    step = next_step(two, history)
    assert step.candidate
    applied = {rung.name: rung.args for rung in step.candidate.rungs}
    assert "tensor-parallel" not in applied
    assert applied["pipeline-parallel"] == {
        "pipeline-parallel-size": 2,
        "distributed-executor-backend": "mp",
    }
    skips = {skip.rung: skip.reason for skip in step.skips}
    assert skips["tensor-parallel"] == "replaced by pipeline-parallel"


@pytest.mark.parametrize("backend", ["ray", "mp"])
def test_gpus_are_added_by_the_backend_that_the_user_fixed(two: Facts, backend: str) -> None:
    facts = fixed(two, distributed_executor_backend=backend)
    assert "tensor-parallel" in rungs(facts, [])
    assert f"--distributed-executor-backend {backend} " in flags(facts, [])
    one = replace(facts, fixed={**facts.fixed, "tensor-parallel-size": "1"})
    reasons = {rung.name: why for rung, candidate, why in prospects(one) if not candidate}
    assert reasons["tensor-parallel"] == "you set --tensor-parallel-size yourself"


def test_a_number_of_gpus_that_vllm_cannot_divide_by_leads_to_another(
    shape: Checkpoint, site: Path
) -> None:
    four = cards("NVIDIA RTX A4000", 10.0, (8, 6), 4)
    ladder = default_ladder().without(
        ["fp8-weights", "4bit-weights", "cpu-offload", "kv-cache-8bit", "quantized-checkpoint"]
    )
    facts = gather(shape, four, Workload(), engine(site), ladder=ladder)
    history: list[Trial] = []
    for size in (2, 4):
        assert f"--tensor-parallel-size {size}" in flags(facts, history)
        refusal = Rejected(
            cause="tensor_parallel_indivisible", phase="load", reason=f"{size} do not divide it",
            argument="tensor-parallel-size",
        )  # fmt: skip
        attempt(facts, history, refusal)
    step = next_step(facts, history)
    assert step.candidate
    assert "--pipeline-parallel-size" in " ".join(step.candidate.config.flags())
    skips = {skip.rung: skip.reason for skip in step.skips}
    assert skips["tensor-parallel"] == "no GPU count up to 4 divides 28 heads and the MLPs"


@pytest.mark.parametrize(
    ("version", "method", "args", "size"),
    [
        ("0.26.0", "fp8", {}, "4"),  # 2560 / 8 = 320, which 128 does not divide
        ("0.26.0", "fp8", {"enable-expert-parallel": True}, "8"),
        ("0.32.0", "fp8", {}, "8"),  # in blocks of 64
        ("0.32.0", "compressed-tensors", {}, "4"),
    ],
)
def test_gpus_do_not_divide_the_blocks_of_quantized_experts(
    shape: Checkpoint, tmp_path: Path, version: str, method: str, args: dict[str, Value], size: str
) -> None:
    """As with Qwen3-Coder-480B-A35B-Instruct-FP8, where experts are not dealt out whole."""
    site = install(tmp_path / "old", [flag for flag in FLAGS if flag != "enable-expert-parallel"])
    model = replace(
        shape, heads=96, kv_heads=8, experts=160, expert_size=2560, intermediate_size=0, block=128,
        quantization=method,
    )  # fmt: skip
    eight = cards("NVIDIA RTX A4000", 2.5, (8, 6), 8)
    workload = Workload(min_gpus=2)
    facts = gather(model, eight, workload, engine(site, version), fixed=args)
    candidate = {rung.name: candidate for rung, candidate, _ in prospects(facts)}["tensor-parallel"]
    assert candidate
    assert candidate.config.text("tensor-parallel-size") == size


def test_a_width_that_no_number_of_gpus_divides_is_named(two: Facts) -> None:
    odd = replace(two.checkpoint, intermediate_size=18944 + 64, block=128)
    facts = replace(two, checkpoints={two.model: odd})
    reasons = {rung.name: why for rung, candidate, why in prospects(facts) if not candidate}
    assert reasons["tensor-parallel"] == (
        "no GPU count up to 2 divides 28 heads and the MLPs into whole blocks of 128"
    )


def test_a_bitsandbytes_checkpoint_is_dealt_out_and_not_split(two: Facts) -> None:
    packed = replace(two.checkpoint, quantization="bitsandbytes")
    facts = replace(two, checkpoints={two.model: packed})
    reasons = {rung.name: why for rung, candidate, why in prospects(facts) if not candidate}
    assert reasons["tensor-parallel"] == "vLLM does not split a bitsandbytes checkpoint over GPUs"
    assert "pipeline-parallel" in rungs(facts, [])


@pytest.mark.parametrize("model_type", ["gemma2", "gemma3_text", "glm4"])
def test_a_model_that_vllm_does_not_serve_in_float16_is_left_to_vllm(
    shape: Checkpoint, site: Path, model_type: str
) -> None:
    turing = cards("Quadro RTX 8000", 47.0, (7, 5), 1)
    facts = gather(shape, turing, Workload(), engine(site))
    assert "--dtype half" in flags(facts, [])
    stubborn = replace(shape, model_type=model_type)
    facts = gather(stubborn, turing, Workload(), engine(site))
    assert "--dtype" not in flags(facts, [])
    reasons = {rung.name: why for rung, candidate, why in prospects(facts) if not candidate}
    assert reasons["float16"] == f"vLLM does not serve {model_type} in float16"


@pytest.mark.parametrize(
    ("concurrency", "sequences", "tokens"),
    [
        (256, "--concurrency 256 needs 256 sequences", None),
        (1024, "--concurrency 1024 needs 1024 sequences",
         "a batch needs at least a token for each of 1024 sequences"),
    ],
)  # fmt: skip
def test_a_batch_that_cannot_be_smaller_is_told_by_what_it_must_hold(
    shape: Checkpoint, site: Path, concurrency: int, sequences: str, tokens: str | None
) -> None:
    workload = Workload(context=512, min_context=512, concurrency=concurrency)
    facts = gather(shape, SMALL, workload, engine(site))
    rows = {rung.name: (candidate, why) for rung, candidate, why in prospects(facts)}
    assert rows["fewer-sequences"] == (None, sequences)
    if tokens:
        assert rows["smaller-batches"] == (None, tokens)
    else:
        assert rows["smaller-batches"][0]


def test_one_sequence_at_a_time_is_the_least(small: Facts) -> None:
    interactive = replace(small, ladder=default_ladder("low-latency"))
    rung = next(r for r in default_ladder().rungs if r.name == "fewer-sequences")
    alone = replace(
        interactive.ladder,
        rungs=(*(replace(r, args={"max-num-seqs": 1}) if r.name == "interactive" else r
                 for r in interactive.ladder.rungs), rung),
    )  # fmt: skip
    reasons = {r.name: why for r, _, why in prospects(replace(small, ladder=alone))}
    assert reasons["fewer-sequences"] == "already at one sequence at a time"


def test_an_8_bit_kv_cache_is_not_tried_where_no_kernel_takes_the_models_heads(
    shape: Checkpoint, tmp_path: Path
) -> None:
    card = cards("NVIDIA GeForce RTX 3090", 23.5, (8, 6), 1)
    vllm = engine(install(tmp_path / "site"))
    (vllm.package.parent / "flashinfer").mkdir()
    for head_dim, reason in ((128, None), (96, "fp8 KV cache needs compute capability 8.9")):
        facts = gather(replace(shape, head_dim=head_dim), card, Workload(), vllm)
        reasons = {rung.name: why for rung, candidate, why in prospects(facts) if not candidate}
        found = reasons.get("kv-cache-8bit")
        assert (reason or "") in (found or "")
        assert bool(found) == bool(reason)


@pytest.fixture
def hybrid(tmp_path: Path) -> Checkpoint:
    """Qwen3-Next with 12 layers: 3.2 MB of state for each sequence."""
    return of_shape(tmp_path / "hybrid", "qwen3-next-80b", num_hidden_layers=12)


def with_states(
    model: Checkpoint, site: Path, version: str = "0.26.0", **fixed: Value
) -> LaunchConfig:
    """Return the first candidate on a card where not every sequence's state fits."""
    card = cards("NVIDIA L40S", 41.5, (8, 9), 1)
    given = {name.replace("_", "-"): value for name, value in fixed.items()}
    workload = Workload(context=8192, min_context=8192)
    vllm = engine(site, version)
    candidate = next_step(gather(model, card, workload, vllm, fixed=given), []).candidate
    assert candidate
    return candidate.config


def test_no_more_sequences_are_asked_for_than_have_states(hybrid: Checkpoint, site: Path) -> None:
    """1024 exceeds available Mamba cache blocks (614): config/compilation.py, 0.32."""
    found = with_states(hybrid, site)
    assert 8 <= found.integer("max-num-seqs", 256) < 256
    assert found.quantization is None


@pytest.mark.parametrize(
    "exempt",
    [
        {"enforce_eager": True},
        {"compilation_config": '{"cudagraph_mode": "PIECEWISE"}'},
        {"compilation_config": '{"cudagraph_mode": "NONE"}'},
        {"compilation_config.cudagraph_mode": "PIECEWISE"},
        {"optimization_level": 1},
        {"version": "0.19.1"},
    ],
)
def test_states_are_no_limit_where_no_full_graph_is_captured(
    hybrid: Checkpoint, site: Path, exempt: dict[str, Any]
) -> None:
    assert "max-num-seqs" not in with_states(hybrid, site, **exempt).args


def test_a_rehearsed_card_is_given_the_batches_vllm_would_choose_on_it(
    shape: Checkpoint, site: Path
) -> None:
    """From 70 GiB on 1024 sequences and 8192 tokens, below 256 and 2048 (get_batch_defaults)."""
    big = cards("NVIDIA H200", 139.8, (9, 0), 1)[0]
    small = cards("NVIDIA L4", 22.0, (8, 9), 1)[0]
    chosen = {"max-num-seqs": 256, "max-num-batched-tokens": 2048}

    def base(card: Device, limit: float, **fixed: Value) -> Mapping[str, Value]:
        limited = replace(card, limit_bytes=int(limit * GIB))
        given = {name.replace("_", "-"): value for name, value in fixed.items()}
        return gather(shape, (limited,), Workload(), engine(site), fixed=given).base().args

    assert base(big, 16) == chosen
    assert base(big, 80) == base(small, 16) == {}
    assert base(big, 16, max_num_seqs=32) == {"max-num-seqs": 32, "max-num-batched-tokens": 2048}
    few = {"max-num-batched-tokens": 128, "max-num-seqs": 128}
    assert base(big, 16, max_num_batched_tokens=128) == few


def test_after_a_failure_the_next_launch_is_one_that_is_enough(
    shape: Checkpoint, site: Path
) -> None:
    """The V1 sampler of 1024 sequences: smaller batches free little of it, fewer sequences much."""
    card = replace(cards("NVIDIA H100", 79.2, (9, 0), 1)[0], free_bytes=int(20.5 * GIB))
    workload = Workload(context=16384, min_context=16384)
    facts = gather(shape, (card,), workload, engine(site))
    facts = replace(facts, env={"VLLM_USE_V2_MODEL_RUNNER": "0"})
    history: list[Trial] = []
    first = next_step(facts, history).candidate
    assert first
    readings = Readings(weights_bytes=int(14.29 * GIB), kv_bytes=-GIB // 10)
    failed = OutOfMemory(cause="no_kv", phase="kv_cache", reason="no", shortfall_bytes=GIB // 10)
    history.append(Trial.of(first, failed, readings))
    second = next_step(facts, history).candidate
    assert second
    names = {applied.name for applied in second.rungs}
    assert "fewer-sequences" in names
    assert names <= {"utilization", "fewer-sequences"}


def test_no_rung_stays_that_adds_little_to_what_is_left_in_host_memory(
    tmp_path: Path, site: Path
) -> None:
    """With all of the weights on the host that may be, the whole context likely fits without."""
    model = of_shape(tmp_path / "model", "mixtral-8x22b")
    facts = gather(model, cards("NVIDIA L4", 22.0, (8, 9), 1), Workload(), engine(site))
    dear = {"smaller-batches", "no-graphs", "kv-cache-8bit"}
    assert dear.isdisjoint(rungs(facts, []))


def test_a_rung_that_hardly_adds_to_a_bet_is_not_taken_along(tmp_path: Path, site: Path) -> None:
    """Without weights on the host the first launch is one: graphs and batches change little."""
    model = of_shape(tmp_path / "model", "llama-4-scout")
    facts = gather(
        model,
        cards("NVIDIA GeForce RTX 3090", 23.6, (8, 6), 4),
        Workload(context=4096, min_context=4096, concurrency=32),
        engine(site),
        ladder=default_ladder().without(("cpu-offload",)),
    )
    first = next_step(facts, []).candidate
    assert first
    assert 0 < first.predicted.chance < 0.2
    assert {"smaller-batches", "no-graphs"}.isdisjoint({r.name for r in first.rungs})


def test_a_bet_is_no_launch_as_long_as_another_rung_makes_it_likely(
    tmp_path: Path, site: Path
) -> None:
    """4 % for GPT-OSS on 16 GiB with graphs, a quarter without."""
    first = next_step(gpt_oss_on_16_gib(tmp_path, site), []).candidate
    assert first
    assert "no-graphs" in {applied.name for applied in first.rungs}
    assert first.predicted.chance >= 0.2


def test_after_a_kv_cache_too_small_graphs_alone_may_make_the_room(
    tmp_path: Path, site: Path
) -> None:
    """They are taken out of the budget, or out of what is left beside it."""
    facts = gpt_oss_on_16_gib(tmp_path, site)
    launched = next(c for rung, c, _ in prospects(facts) if c and rung.name == "fewer-sequences")
    readings = Readings(
        weights_bytes=int(13.04 * GIB),
        kv_bytes=int(0.06 * GIB),
        kv_needed_bytes=int(0.47 * GIB),
        activation_bytes=int(0.21 * GIB),
    )
    small = ran_out("kv_cache", limit=1248, short=int(0.41 * GIB))
    history = [Trial.of(launched, small, readings)]
    assert rungs(facts, history) == ["utilization", "fewer-sequences", "no-graphs"]


def gpt_oss_on_16_gib(folder: Path, site: Path) -> Facts:
    model = of_shape(folder / "model", "gpt-oss-20b")
    workload = Workload(context=16384, min_context=16384)
    return gather(model, cards("NVIDIA RTX A4000", 15.7, (8, 6), 1), workload, engine(site))


def test_a_batch_changes_the_cache_of_windows_alone(
    shape: Checkpoint, tmp_path: Path, site: Path
) -> None:
    """What a launch measured of a sequence holds for other batches where no layer has a window."""
    models = (shape, of_shape(tmp_path / "gemma", "gemma-3-4b"))
    for model, holds in zip(models, (True, False), strict=True):
        facts = gather(model, LARGE, Workload(), engine(site))
        boot = Boot.of(facts.setup(facts.base()), Readings(), GIB, 4096, exactly=False)
        smaller = facts.base().replace({"max-num-batched-tokens": 512})
        assert boot.same_cache(facts.setup(smaller)) is holds
