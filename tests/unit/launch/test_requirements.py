"""A flag counts only if it worked: what real servers printed, against what was asked of them."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.memory_model import cards, engine, gather, install
from tests.support.paths import GOLDEN, SHAPES
from vllm_autotune.checkpoint import read_checkpoint
from vllm_autotune.diagnose import LogReader
from vllm_autotune.launch.requirements import without_effect
from vllm_autotune.outcome import Degraded, Readings
from vllm_autotune.search.facts import Facts
from vllm_autotune.vllm.config import Value
from vllm_autotune.workload import Workload

H200 = GOLDEN / "0.26.0-h200"


@pytest.fixture
def facts(tmp_path: Path) -> Facts:
    """A Qwen2.5-7B on the H200 that the logs are from."""
    shape = SHAPES / "qwen2.5-7b.json"
    (tmp_path / "config.json").write_text(shape.read_text())
    return gather(
        read_checkpoint(str(tmp_path), weights_required=False),
        cards("NVIDIA H200", 139.8, (9, 0), 2),
        Workload(),
        engine(install(tmp_path / "site")),
    )


def printed(log: str) -> Readings:
    reader = LogReader()
    reader.feed((H200 / f"{log}.log").read_text())
    return reader.readings


def ignored(facts: Facts, log: str, **args: Value) -> Degraded | None:
    config = facts.base().replace({name.replace("_", "-"): v for name, v in args.items()})
    return without_effect(facts, config, printed(log))


def test_model_runner_v2_is_caught_ignoring_the_offload(facts: Facts) -> None:
    found = ignored(facts, "offload-ignored", cpu_offload_gb=8)
    assert found is not None
    assert found.cause == "no_effect"
    assert "--cpu-offload-gb had no effect: the weights still take 14.3 GiB" in found.reason


def test_an_offload_that_worked_is_believed(facts: Facts) -> None:
    assert ignored(facts, "ready-offload", cpu_offload_gb=6) is None


def test_quantized_weights_are_smaller_or_not_quantized(facts: Facts) -> None:
    assert ignored(facts, "ready-fp8-weights", quantization="fp8") is None
    found = ignored(facts, "ready-eager", quantization="fp8")
    assert found is not None
    assert "--quantization had no effect" in found.reason


def test_weights_that_were_quantized_before_need_not_shrink(facts: Facts) -> None:
    quantized = replace(facts.checkpoint, quantization="awq")
    facts = replace(facts, checkpoints={facts.model: quantized})
    assert ignored(facts, "ready-eager", quantization="awq") is None


def test_fewer_tokens_than_were_asked_for_are_served_for_some_reason(facts: Facts) -> None:
    served = printed("ready-eager").max_model_len
    assert served
    assert ignored(facts, "ready-eager", max_model_len=served) is None
    found = ignored(facts, "ready-eager", max_model_len=served + 1)
    assert found is not None
    assert f"{served:,} tokens are served, {served + 1:,} were asked for" in found.reason


def test_an_8_bit_cache_of_16_bit_tokens_is_none(facts: Facts) -> None:
    found = ignored(facts, "ready-eager", kv_cache_dtype="fp8")
    assert found is not None
    assert "--kv-cache-dtype had no effect: a token still takes 56 KiB" in found.reason
    assert ignored(facts, "ready-eager") is None


def test_a_server_that_was_asked_for_nothing_is_not_blamed(facts: Facts) -> None:
    for log in ("ready-compiled", "ready-small-kv", "ready-few-graphs"):
        assert ignored(facts, log) is None
