"""Activations, graphs, and what no budget counts."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.memory import estimated, gib, on_card, setup
from tests.support.small_model import SMALL, make
from vllm_autotune.checkpoint import Checkpoint, read_checkpoint
from vllm_autotune.memory import Interval
from vllm_autotune.vllm.config import Value

NGRAM = '{"method": "ngram", "num_speculative_tokens": 5}'


def test_a_tower_widens_the_estimate(shapes: dict[str, Checkpoint]) -> None:
    """It took no more than 1.2 GiB beside weights (Qwen2-VL 7B, 0.26, H200)."""
    plain, tower = estimated(shapes["qwen2.5-7b"]), estimated(shapes["qwen2-vl-7b"])
    assert tower.activations.high > plain.activations.high + gib(1)
    assert gib(1.18) in tower.activations
    none: dict[str, Value] = {"limit-mm-per-prompt": '{"image": 0, "video": 0}'}
    flags: tuple[dict[str, Value], ...] = (
        {"language-model-only": True},
        {"skip-mm-profiling": True},
    )
    for args in (none, *flags):
        assert estimated(shapes["qwen2-vl-7b"], args).activations == plain.activations
    unknown = replace(shapes["qwen2-vl-7b"], tower=None)
    assert estimated(unknown).activations.high >= gib(8)


def test_an_audio_tower_takes_what_its_sizes_say(tmp_path: Path) -> None:
    """Where `config.json` does not say how many frames make a token, it may be much."""
    audio = {"model_type": "encoder", "d_model": 1280, "encoder_layers": 32}
    kinds: dict[str, dict[str, object]] = {
        "pairs": {"model_type": "qwen2_audio"},
        "stacks": {"stack_factor": 8},
        "unknown": {},
    }
    found = {}
    for name, more in kinds.items():
        folder = make(tmp_path / name, {**SMALL, "audio_config": audio, **more})
        found[name] = estimated(read_checkpoint(str(folder)))
    highest = {name: footprint.activations.high for name, footprint in found.items()}
    assert gib(0.5) < highest["pairs"] < gib(1)
    assert highest["stacks"] == pytest.approx(4 * highest["pairs"], rel=0.1)
    assert highest["unknown"] >= gib(8)


def test_drafting_makes_the_sampler_larger(shapes: dict[str, Checkpoint]) -> None:
    """7B with five tokens of an n-gram: 4.87 GiB beside weights and KV cache (0.26, H100)."""
    args: dict[str, Value] = {"speculative-config": NGRAM, "enforce-eager": True}
    found = estimated(shapes["qwen2.5-7b"], args)
    assert gib(4.87) in found.beside
    few = estimated(shapes["qwen2.5-7b"], {**args, "max-num-seqs": 64})
    assert few.beside.high < 0.6 * found.beside.high
    assert few.beyond_share < found.beyond_share
    newer = setup(shapes["qwen2.5-7b"], args, vllm=(0, 32))
    assert newer.model_runner == "v2"


def test_graphs_shrink_with_the_sequences_and_vanish_when_eager(
    shapes: dict[str, Checkpoint],
) -> None:
    seven = shapes["qwen2.5-7b"]
    assert gib(0.89) in estimated(seven).graphs
    assert estimated(seven, {"max-num-seqs": 16}).graphs.high < estimated(seven).graphs.high
    assert estimated(seven, {"enforce-eager": True}).graphs == Interval(0, 0)


@pytest.mark.parametrize(
    ("capability", "vllm", "sizes"),
    [
        ((9, 0), (0, 32), 51),
        ((10, 0), (0, 26, 1), 51),
        ((10, 0), (0, 32), 83),
        ((10, 3), (0, 32), 83),
        ((11, 0), (0, 32), 51),
        ((12, 0), (0, 32), 51),
    ],
)
def test_a_b200_captures_graphs_of_twice_the_size_in_newer_versions(
    shapes: dict[str, Checkpoint],
    capability: tuple[int, int],
    vllm: tuple[int, ...],
    sizes: int,
) -> None:
    """1024 tokens instead of 512 (_set_cudagraph_sizes in config/vllm.py, 0.26 and 0.32)."""
    found = estimated(shapes["qwen2.5-7b"], on=on_card(capability), vllm=vllm).graphs
    assert found.low == pytest.approx(0.3 * gib(0.89) * sizes / 51)


def test_gpt_oss_captures_them_everywhere_but_no_more_than_a_batch(
    shapes: dict[str, Checkpoint],
) -> None:
    few = estimated(shapes["gpt-oss-20b"], {"max-num-seqs": 16}).graphs
    assert few.low == pytest.approx(0.3 * gib(0.89) * 83 / 51 * 24 / 28)
    small = estimated(shapes["gpt-oss-20b"], {"max-num-seqs": 16, "max-num-batched-tokens": 256})
    assert small.graphs.low == pytest.approx(0.3 * gib(0.89) * 35 / 51 * 24 / 28)
