"""What follows when memory runs out over images, and what does not."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.memory_model import FLAGS, cards, engine, gather, install
from tests.support.paths import SHAPES
from vllm_autotune.checkpoint import Checkpoint, read_checkpoint
from vllm_autotune.memory import estimate
from vllm_autotune.memory.images import image_sizes, image_tokens
from vllm_autotune.outcome import OutOfMemory, Phase, Readings
from vllm_autotune.search.facts import Facts
from vllm_autotune.search.step import next_step, prospects
from vllm_autotune.search.trial import Candidate, Trial
from vllm_autotune.vllm.config import LaunchConfig, Value
from vllm_autotune.workload import Effort, Workload

MULTIMODAL = ("limit-mm-per-prompt", "mm-processor-kwargs", "language-model-only")
NO_VIDEO = '{"image": 1, "video": 0}'
VIDEO = Readings(modality="video", media_items=1, media_tokens=32768)
IMAGE = Readings(modality="image", media_items=1, media_tokens=16384)
MANY = Readings(modality="image", media_items=8, media_tokens=8192)


def over_images(phase: Phase = "profile") -> OutOfMemory:
    return OutOfMemory(cause="images_out_of_memory", phase=phase, reason="over images")


@pytest.fixture
def shape(tmp_path: Path) -> Checkpoint:
    (tmp_path / "config.json").write_text((SHAPES / "qwen2-vl-7b.json").read_text())
    return read_checkpoint(str(tmp_path), weights_required=False)


@pytest.fixture
def facts(shape: Checkpoint, tmp_path: Path) -> Facts:
    site = install(tmp_path / "site", (*FLAGS, *MULTIMODAL))
    devices = cards("NVIDIA A100 40GB", 39.5, (8, 0), 1)
    return gather(shape, devices, Workload(), engine(site, "0.26.0"))


def after(facts: Facts, *ends: tuple[OutOfMemory, Readings]) -> Candidate | None:
    history: list[Trial] = []
    for outcome, readings in ends:
        candidate = next_step(facts, history).candidate
        assert candidate
        history.append(Trial.of(candidate, outcome, readings))
    return next_step(facts, history).candidate


def given(candidate: Candidate | None) -> dict[str, Value]:
    assert candidate
    return dict(candidate.config.args)


def test_a_video_that_does_not_fit_is_given_up_and_nothing_else(facts: Facts) -> None:
    before = given(next_step(facts, ()).candidate)
    found = given(after(facts, (over_images(), VIDEO)))
    assert found == {**before, "limit-mm-per-prompt": NO_VIDEO}


def test_an_image_that_does_not_fit_is_made_smaller_and_smaller(facts: Facts) -> None:
    before = given(next_step(facts, ()).candidate)
    found = given(after(facts, (over_images(), IMAGE)))
    assert found == {**before, "mm-processor-kwargs": '{"max_pixels": 1003520}'}
    again = given(after(facts, (over_images(), IMAGE), (over_images(), IMAGE)))
    assert again["mm-processor-kwargs"] == '{"max_pixels": 200704}'


def test_a_batch_of_images_gets_smaller_with_the_batch(facts: Facts) -> None:
    """Smaller images would be more of them in a step."""
    facts = replace(facts, fixed={"max-num-batched-tokens": "8192"})
    found = given(after(facts, (over_images(), MANY)))
    assert "mm-processor-kwargs" not in found
    free = replace(facts, fixed={}, devices=cards("NVIDIA H100", 79.6, (9, 0), 1))
    found = given(after(free, (over_images(), MANY)))
    assert found["max-num-batched-tokens"] == 2048
    assert "limit-mm-per-prompt" not in found


def test_fewer_sequences_do_not_help_over_images(facts: Facts) -> None:
    for readings in (VIDEO, IMAGE, MANY):
        found = given(after(facts, (over_images(), readings)))
        assert "max-num-seqs" not in found


def test_while_serving_a_larger_reserve_comes_first(facts: Facts) -> None:
    """Model Runner V2 did not try images out (0.26): then a request meets them first."""
    found = given(after(facts, (over_images("serving"), Readings())))
    assert "gpu-memory-utilization" in found


def test_at_the_end_of_the_ladder_text_alone_is_served(facts: Facts) -> None:
    facts = replace(facts, fixed={"max-num-batched-tokens": "512", "quantization": "fp8"})
    ends = [(over_images(), VIDEO), *[(over_images(), IMAGE)] * 8]
    history: list[Trial] = []
    served: list[dict[str, Value]] = []
    for end in ends:
        candidate = next_step(facts, history).candidate
        if candidate is None:
            break
        served.append(given(candidate))
        history.append(Trial.of(candidate, *end))
    assert served[-1]["language-model-only"] is True
    assert all("language-model-only" not in each for each in served[:-1])


def test_without_such_an_end_the_rungs_have_nothing_to_do(facts: Facts) -> None:
    why = {rung.name: why for rung, candidate, why in prospects(facts) if not candidate}
    for rung in ("fewer-images", "smaller-images"):
        assert why[rung] == "no launch ran out of memory over images"


def test_a_model_of_text_alone_and_an_old_vllm_have_no_such_rung(
    facts: Facts, shape: Checkpoint, tmp_path: Path
) -> None:
    blind = replace(facts, checkpoints={facts.model: replace(shape, takes_images=False)})
    site = install(tmp_path / "old")
    old = gather(shape, facts.devices, Workload(), engine(site, "0.11.0"))
    for name in ("fewer-images", "smaller-images", "text-only"):
        why = {rung.name: why for rung, _, why in prospects(blind)}
        assert why[name] == "the model takes no images"
        assert "vLLM 0.11.0 has no --" in {rung.name: w for rung, _, w in prospects(old)}[name]


def test_what_the_user_fixed_stays_and_images_that_are_required_too(facts: Facts) -> None:
    mine: dict[str, Value] = {"limit-mm-per-prompt": '{"image": 4}', "mm-processor-kwargs": "{}"}
    found = given(after(replace(facts, fixed=mine), (over_images(), VIDEO)))
    assert {name: found[name] for name in mine} == mine
    required = replace(facts.workload, probe=Effort(image=True))
    why = {rung.name: why for rung, _, why in prospects(replace(facts, workload=required))}
    assert why["text-only"] == "you ask for answers about images: --probe-image"


# Model types, the tower's sizes, and the tokens of the images that the processor is told to make.
SIZES = {
    "qwen2_vl qwen2_vl": ((0, 14, 4), [1280, 256]),
    "idefics3 idefics3_vision": ((364, 14, 4), [5 * 169, 169]),
    "internvl_chat intern_vit_6b": ((448, 14, 4), [5 * 256, 256]),
    "llava clip_vision_model": ((336, 14, 1), []),
}


@pytest.mark.parametrize("kind", SIZES)
def test_how_small_an_image_becomes_is_told_by_what_its_processor_is_told(
    shape: Checkpoint, kind: str
) -> None:
    (image_side, side, merged), tokens = SIZES[kind]
    assert shape.tower
    tower = replace(shape.tower, most=(image_side // side) ** 2, side=side, merged=merged)
    model = replace(shape, tower_kind=kind, tower=tower)
    sizes = image_sizes(model)
    assert [size.tokens for size in sizes] == tokens
    for size in sizes:
        config = LaunchConfig("m", {"mm-processor-kwargs": size.kwargs})
        assert image_tokens(model, config) == size.tokens


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"max_pixels": "x"}', '{"size": 3}', "{"])
def test_kwargs_that_say_nothing_of_the_size_say_nothing(shape: Checkpoint, text: str) -> None:
    assert image_tokens(shape, LaunchConfig("m", {"mm-processor-kwargs": text})) is None


def test_smaller_images_and_text_alone_leave_more_for_the_kv_cache(facts: Facts) -> None:
    plain = facts.base().replace({"max-num-batched-tokens": 2048})
    small = plain.replace({"mm-processor-kwargs": '{"max_pixels": 200704}'})
    text = plain.replace({"language-model-only": True})
    rooms = [
        estimate(facts.setup(config)).kv_available(facts.reserved(config)).low
        for config in (plain, small, text)
    ]
    assert rooms == sorted(rooms)
    assert rooms[0] < rooms[1] < rooms[2]
