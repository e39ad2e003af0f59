"""What a sequence keeps in the KV cache."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.memory import device, estimated, gib, token_bytes
from tests.support.paths import SHAPES
from vllm_autotune.checkpoint import Checkpoint, read_checkpoint
from vllm_autotune.memory import Interval
from vllm_autotune.vllm.config import Value


def test_decode_context_parallel_deals_out_the_tokens_of_a_sequence(
    shapes: dict[str, Checkpoint],
) -> None:
    """Full attention and MLA keep ceil(length / dcp) tokens (v1/kv_cache_interface.py)."""
    for shape in ("llama-3.1-8b", "deepseek-v3"):
        args: dict[str, Value] = {"tensor-parallel-size": 16, "enforce-eager": True}
        whole = estimated(shapes[shape], args)
        dealt = estimated(shapes[shape], {**args, "decode-context-parallel-size": 2})
        assert dealt.kv_bytes(32_000) == whole.kv_bytes(16_000)
        assert token_bytes(dealt.cache).low == token_bytes(whole.cache).low / 2


def test_prefill_context_parallel_dealt_them_out_in_some_versions(
    shapes: dict[str, Checkpoint],
) -> None:
    whole = estimated(shapes["llama-3.1-8b"]).kv_bytes(32_000)
    found = estimated(shapes["llama-3.1-8b"], {"prefill-context-parallel-size": 2}).kv_bytes(32_000)
    assert found == Interval(whole.low / 2, whole.high)


@pytest.mark.parametrize(
    ("shape", "args", "expected"),
    [
        ("qwen2.5-7b", {}, 57_344),
        ("qwen2.5-7b", {"kv-cache-dtype": "fp8"}, 28_672),
        ("qwen2.5-7b", {"kv-cache-dtype": "int8_per_token_head"}, 28 * 4 * (256 + 8)),
        ("qwen2.5-7b", {"kv-cache-dtype": "nvfp4"}, 16_128),
        ("qwen2.5-7b", {"dtype": "float32"}, 114_688),
        ("qwen2.5-7b", {"tensor-parallel-size": 4}, 14_336),
        ("qwen2.5-7b", {"tensor-parallel-size": 7}, 14_336),  # key heads replicated
        ("qwen2.5-7b", {"pipeline-parallel-size": 2}, 28_672),
        ("qwen2.5-72b", {"tensor-parallel-size": 2}, 163_840),
        ("llama-3.1-8b", {}, 131_072),
        ("falcon-7b", {}, 32 * 2 * 64 * 2),
        ("falcon-7b", {"tensor-parallel-size": 8}, 32 * 2 * 64 * 2),
        ("starcoder", {}, 40 * 2 * 128 * 2),
        ("mixtral-8x7b", {}, 131_072),
        ("qwen3-30b-a3b", {}, 98_304),
        ("deepseek-v3", {}, 61 * 576 * 2),
        ("deepseek-v3", {"tensor-parallel-size": 8}, 61 * 576 * 2),
        ("deepseek-v3", {"kv-cache-dtype": "fp8"}, 61 * 576),
        ("deepseek-v2-lite", {"kv-cache-dtype": "fp8_ds_mla"}, 27 * 656),
        ("gpt-oss-20b", {}, 12 * 2 * 8 * 64 * 2),
        ("gemma-3-4b", {}, 5 * 2 * 4 * 256 * 2),
        ("jamba-mini", {}, 4 * 2 * 8 * 128 * 2),
        ("qwen3-next-80b", {}, 12 * 2 * 2 * 256 * 2),
        ("mamba-2.8b", {}, 0),
    ],
)
def test_a_token_costs_exactly_this_much(
    shapes: dict[str, Checkpoint], shape: str, args: dict[str, Value], expected: int
) -> None:
    assert token_bytes(estimated(shapes[shape], args).cache) == Interval.exactly(expected)


@pytest.mark.parametrize(
    ("shape", "capability", "most"),
    [
        ("deepseek-v2-lite", (8, 6), 16),
        ("deepseek-v2-lite", (12, 0), 16),
        ("deepseek-v2-lite", (9, 0), 128),
        ("deepseek-v2-lite", (10, 0), 128),
        ("deepseek-v2-lite", None, 128),
        ("qwen2.5-7b", (9, 0), 16),
    ],
)
def test_only_mla_where_it_has_several_backends_may_have_larger_blocks(
    shapes: dict[str, Checkpoint], shape: str, capability: tuple[int, int] | None, most: int
) -> None:
    gpu = replace(device(), capability=capability)
    cache = estimated(shapes[shape], on=gpu).cache
    assert cache.block == Interval(16, most)


def test_a_sliding_window_bounds_what_a_sequence_keeps(shapes: dict[str, Checkpoint]) -> None:
    mistral = estimated(shapes["mistral-7b-v0.1"], {"max-num-batched-tokens": 2049})
    short, long = mistral.kv_bytes(1024), mistral.kv_bytes(32768)
    assert long == mistral.kv_bytes(20000)
    assert short.high < long.low
    layer = 2 * 8 * 128 * 2
    assert long.low == 32 * layer * 16 * (math.ceil((4095 + 2049) / 16) + 1)


def test_without_the_hybrid_manager_windows_keep_everything(
    shapes: dict[str, Checkpoint],
) -> None:
    gemma = shapes["gemma-2-9b"]
    full = estimated(gemma, {"disable-hybrid-kv-cache-manager": True}).kv_bytes(8192)
    assert full.low == 42 * 2 * 8 * 256 * 2 * 8192
    assert estimated(gemma, {"max-num-batched-tokens": 512}).kv_bytes(8192).low < full.low


def test_a_recurrent_state_is_kept_once_per_sequence(shapes: dict[str, Checkpoint]) -> None:
    mamba = estimated(shapes["mamba-2.8b"])
    state = 5120 * 3 * 2 + 5120 * 16 * 2
    assert mamba.kv_bytes(100).low == mamba.kv_bytes(100_000).low == 64 * state
    jamba = estimated(shapes["jamba-mini"])
    more = jamba.kv_bytes(32768, 2).low - jamba.kv_bytes(32768, 1).low
    assert more == 4 * 4096 * 32768 + 28 * (8192 * 3 * 2 + 8192 * 16 * 2)


def test_a_real_cpu_refusal_names_the_length_the_arithmetic_finds(
    shapes: dict[str, Checkpoint],
) -> None:
    """Four layers of 2 key heads of 64: 20 MiB hold 10,112 tokens (vLLM 0.32 on a CPU)."""
    cpu = device(8.46, "CPU", "cpu")
    tiny = estimated(shapes["tiny-qwen2"], on=cpu, vllm=(0, 32))
    assert tiny.cache.longest(Interval.exactly(20 * 2**20), 1, 128, 32768) == (10112, 10112)


def test_a_real_gpu_refusal_names_the_length_the_arithmetic_finds(
    shapes: dict[str, Checkpoint],
) -> None:
    """0.12 of an H200 leaves 1.14 GiB, and vLLM's estimate is 21,408 tokens."""
    seven = estimated(shapes["qwen2.5-7b"])
    least, most = seven.cache.longest(Interval(gib(1.135), gib(1.145)), 1, 16, 32768)
    assert least <= 21408 <= most
    assert most - least < 300


# What vLLM 0.32 on a CPU made of 64 MiB of KV cache for small models with dummy weights, booted
# with --enforce-eager --max-num-batched-tokens 512 --max-num-seqs 8.
BOOTED = json.loads((SHAPES / "booted" / "0.32.0-cpu.json").read_text())


# Layers with pages of two sizes, which vLLM pads to one: only the high end counts that.
PADDED = {"jamba", "qwen3next", "granitehybrid", "nemotronh", "falconh1", "mamba", "lfm2", "gemma4"}


@pytest.mark.parametrize("name", BOOTED)
def test_a_sequence_needs_what_a_real_boot_gave_it(tmp_path: Path, name: str) -> None:
    assert agrees(tmp_path, name, BOOTED[name]["config"])


LAYER_FIELDS = (
    *("num_hidden_layers", "n_layer", "num_layers"),
    *("layer_types", "layers_block_type", "hybrid_override_pattern"),
)


@pytest.mark.parametrize("name", BOOTED)
def test_twice_the_layers_would_not_pass_for_that_boot(tmp_path: Path, name: str) -> None:
    config = json.loads(json.dumps(BOOTED[name]["config"]))
    for part in (config, config.get("text_config", {})):
        for field in LAYER_FIELDS:
            if field in part:
                part[field] *= 2
    assert not agrees(tmp_path, name, config)


def agrees(folder: Path, name: str, config: dict[str, object]) -> bool:
    """Tell whether this shape needs what the boot of that name gave a sequence."""
    boot = BOOTED[name]
    (folder / "config.json").write_text(json.dumps(config))
    checkpoint = read_checkpoint(str(folder), weights_required=False)
    cpu = device(8.46, "CPU", "cpu")
    found = estimated(
        checkpoint, {"max-num-batched-tokens": 512, "max-num-seqs": 8}, on=cpu, vllm=(0, 32)
    )
    # The pool holds whole blocks, so the size of one is known to within a division.
    per_request = boot["blocks"] / boot["concurrency"]
    pool = 64 * 2**20
    least, most = (per_request * pool / n for n in (boot["blocks"] + 1, boot["blocks"]))
    length = boot["length"]
    one, two = found.kv_bytes(length), found.kv_bytes(length, 2)
    low, high = two.low - one.low, two.high - one.high  # less the pool's null block
    return low <= most and least <= high and (name in PADDED or least <= low)


def test_a_block_has_16_tokens_on_a_gpu_and_128_on_a_cpu(shapes: dict[str, Checkpoint]) -> None:
    seven, cpu = shapes["qwen2.5-7b"], device(kind="cpu")
    assert estimated(seven).cache.block == Interval.exactly(16)
    assert estimated(seven, on=cpu).cache.block == Interval.exactly(128)
    assert estimated(seven, {"block-size": 64}, on=cpu).cache.block == Interval.exactly(64)
