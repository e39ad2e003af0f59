"""What would help that is not here, each with the numbers it would give."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.memory_model import FLAGS, GIB, cards, engine, gather, install
from tests.support.paths import SHAPES
from vllm_autotune.checkpoint import Checkpoint, read_checkpoint
from vllm_autotune.search.alternatives import served_by
from vllm_autotune.search.facts import Facts
from vllm_autotune.search.missing import Help, would_help
from vllm_autotune.search.step import next_step
from vllm_autotune.workload import Workload

CARD = ("NVIDIA GeForce RTX 4090", 23.5, (8, 9))


def shape(folder: Path, name: str) -> Checkpoint:
    (folder / "config.json").write_text((SHAPES / f"{name}.json").read_text())
    return read_checkpoint(str(folder), weights_required=False)


@pytest.fixture
def large(tmp_path: Path) -> Facts:
    """A 32B model on one card of 24 GiB, and a vLLM that makes no 4-bit weights."""
    site = install(tmp_path / "site", version="0.28.0")
    (site.parent / "bitsandbytes").rmdir()
    vllm = engine(site, "0.28.0")
    return gather(shape(tmp_path, "qwen2.5-32b"), cards(*CARD, 1), Workload(), vllm)


def helps(facts: Facts) -> dict[str, Help]:
    candidate = next_step(facts, ()).candidate
    found = served_by(facts, candidate.config, candidate.predicted) if candidate else None
    return {each.name: each for each in would_help(facts, found, candidate)}


def test_weights_that_are_offloaded_hear_of_four_bits(large: Facts) -> None:
    candidate = next_step(large, ()).candidate
    assert candidate
    assert candidate.config.cpu_offload_gib
    found = helps(large)["4bit-weights"]
    assert "vllm-bnb-plugin" in found.what
    assert found.served.weight_bits == 4
    assert not found.served.offloaded_gib
    assert found.candidate.config.quantization == "bitsandbytes"


def test_one_more_gpu_is_told_with_its_numbers(large: Facts) -> None:
    two = helps(large)["another-gpu"]
    assert two.what == "one more NVIDIA GeForce RTX 4090"
    assert two.served.devices == 2
    pair = replace(large, devices=cards(*CARD, 2))
    candidate = next_step(pair, ()).candidate
    assert candidate
    assert candidate.config == two.candidate.config


def test_memory_that_others_hold_is_told_with_what_it_would_give(tmp_path: Path) -> None:
    devices = tuple(replace(d, free_bytes=9 * GIB) for d in cards(*CARD, 1))
    vllm = engine(install(tmp_path / "site"))
    facts = gather(shape(tmp_path, "qwen2.5-7b"), devices, Workload(), vllm)
    freed = helps(facts)["freed-memory"]
    assert "hold 14.5 GiB" in freed.what
    assert freed.served.weight_bits == 16


def test_an_old_vllm_hears_of_a_newer_one(tmp_path: Path) -> None:
    few = [flag for flag in FLAGS if flag not in ("cpu-offload-gb", "quantization")]
    vllm = engine(install(tmp_path / "site", few, "0.11.0"), "0.11.0")
    facts = gather(shape(tmp_path, "qwen2.5-14b"), cards(*CARD, 1), Workload(), vllm)
    assert helps(facts)["newer-vllm"].what.startswith("vLLM 0.32.0, this is 0.11.0")


def test_who_gives_nothing_up_needs_no_help(tmp_path: Path) -> None:
    vllm = engine(install(tmp_path / "site"))
    facts = gather(shape(tmp_path, "qwen2.5-7b"), cards("H200", 139.8, (9, 0), 1), Workload(), vllm)
    assert helps(facts) == {}
