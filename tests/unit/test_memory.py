"""The bytes of a launch, against what vLLM printed and against its own formulas."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.paths import GOLDEN, SHAPES
from vllm_autotune.checkpoint import Checkpoint, read_checkpoint
from vllm_autotune.errors import BadUsage
from vllm_autotune.machine.device import Device
from vllm_autotune.memory import (
    Calibration,
    Footprint,
    Interval,
    batch_defaults,
    block_size,
    footprint,
)
from vllm_autotune.memory.overhead import model_runner
from vllm_autotune.memory.weights import float_bytes
from vllm_autotune.outcome import Readings
from vllm_autotune.units import format_bytes, parse_bytes
from vllm_autotune.vllm.config import LaunchConfig, Value

GIB = 2**30
TINY_QWEN2 = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    "vocab_size": 4096,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}


def device(memory_gib: float = 139.8, name: str = "NVIDIA H200", kind: str = "cuda") -> Device:
    size = int(memory_gib * GIB)
    return Device(
        kind="cpu" if kind == "cpu" else "cuda",
        index=0,
        name=name,
        uuid="GPU-0",
        memory_bytes=size,
        free_bytes=size - GIB // 2,
        capability=(9, 0),
    )


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    found = {}
    configs = {path.stem: path.read_text() for path in SHAPES.glob("*.json")}
    for name, text in {**configs, "tiny-qwen2": json.dumps(TINY_QWEN2)}.items():
        folder = tmp_path_factory.mktemp(name)
        (folder / "config.json").write_text(text)
        found[name] = read_checkpoint(str(folder), weights_required=False)
    return found


def estimate(
    checkpoint: Checkpoint,
    args: dict[str, Value] | None = None,
    *,
    on: Device | None = None,
    vllm: tuple[int, ...] | None = (0, 26, 0),
    env: dict[str, str] | None = None,
) -> Footprint:
    config = LaunchConfig(checkpoint.path, args or {}, env or {})
    return footprint(checkpoint, config, on or device(), vllm=vllm)


def gib(value: float) -> float:
    return value * GIB


# What vLLM 0.26 printed on an H200: shape, arguments, weights, overhead beside them, available
# KV cache in GiB, and the tokens it made of it.
BOOTS: dict[str, tuple[str, dict[str, Value], float, float, float, int]] = {
    "7B": ("qwen2.5-7b", {}, 14.29, 1.35, 112.98, 2_115_440),
    "7B eager": ("qwen2.5-7b", {"enforce-eager": True}, 14.29, 1.34, 112.98, 2_115_568),
    "7B fp8": (
        "qwen2.5-7b",
        {"quantization": "fp8", "enforce-eager": True},
        8.17,
        1.45,
        1.42,
        26_528,
    ),
    "7B small": ("qwen2.5-7b", {"enforce-eager": True}, 14.29, 1.34, 1.84, 34_496),
    "72B on two": (
        "qwen2.5-72b",
        {"tensor-parallel-size": 2, "enforce-eager": True},
        67.8,
        1.39,
        59.42,
        389_392,
    ),
}


@pytest.mark.parametrize("boot", BOOTS)
def test_a_real_boot_lies_within_the_estimate(shapes: dict[str, Checkpoint], boot: str) -> None:
    shape, args, weights, overhead, kv, tokens = BOOTS[boot]
    found = estimate(shapes[shape], args)
    assert gib(weights) in found.weights
    assert (found.weights.low + found.weights.high) / 2 == pytest.approx(gib(weights), rel=0.01)
    assert gib(overhead) in found.activations + found.non_torch
    assert gib(kv) / tokens == pytest.approx(found.cache.token_bytes().low, rel=0.005)
    assert found.cache.token_bytes().low == found.cache.token_bytes().high


def test_other_measured_weights_lie_within_the_estimate(shapes: dict[str, Checkpoint]) -> None:
    seven, big = shapes["qwen2.5-7b"], shapes["qwen2.5-72b"]
    assert gib(7.15) in estimate(seven, {"pipeline-parallel-size": 2}).weights
    assert gib(135.43) in estimate(big).weights
    offloaded = estimate(seven, {"cpu-offload-gb": 8}, env={"VLLM_USE_V2_MODEL_RUNNER": "0"})
    assert gib(6.1) in offloaded.weights
    assert offloaded.weights.high < gib(7)
    ignored = estimate(seven, {"cpu-offload-gb": 8})
    assert gib(14.29) in ignored.weights


def test_four_bits_shrink_all_but_the_embeddings(shapes: dict[str, Checkpoint]) -> None:
    """A real 3B with an output head of its own took 6.37 GiB, and 2.65 with bitsandbytes."""
    seven = shapes["qwen2.5-7b"]
    three = replace(
        seven,
        layers=36,
        weights=replace(
            seven.weights or pytest.fail("no weights"),
            embedding=2 * 151936 * 2048,
            linear=36 * (2 * 2048 * 2048 + 2 * 2048 * 256 + 3 * 2048 * 11008),
            other=36 * 4 * 2048,
        ),
    )
    assert gib(6.37) in estimate(three).weights
    assert gib(2.65) in estimate(three, {"quantization": "bitsandbytes"}).weights


def on_card(capability: tuple[int, int], memory_gib: float = 80) -> Device:
    return replace(device(memory_gib, "a card"), capability=capability)


@pytest.mark.parametrize("ways", [{"data-parallel-size": 4}, {"prefill-context-parallel-size": 4}])
def test_data_parallel_devices_share_the_experts_out(
    shapes: dict[str, Checkpoint], ways: dict[str, Value]
) -> None:
    """vLLM flattens data, prefill context and tensor parallel for experts (fused_moe/config.py)."""
    mixture, dense = shapes["qwen3-30b-a3b"], shapes["llama-3.1-8b"]
    assert mixture.weights
    experts = 2 * 48 * 128 * 3 * 2048 * 768
    found = estimate(mixture, ways).weights
    assert mixture.weights.bytes - experts * 3 / 4 in found
    assert found.high - found.low < gib(0.6)
    assert estimate(dense, ways).weights == estimate(dense).weights


@pytest.mark.parametrize("shape", ["mixtral-8x7b", "deepseek-v3", "llama-4-scout"])
def test_experts_over_many_nodes_are_not_called_too_big(
    shapes: dict[str, Checkpoint], shape: str
) -> None:
    """671 GB of DeepSeek V3 on 32 devices: 654 of them are experts."""
    whole = estimate(shapes[shape]).weights
    spread = estimate(shapes[shape], {"data-parallel-size": 32, "enable-expert-parallel": True})
    assert whole.low / 32 < spread.weights.low * 1.01 < gib(30)
    assert spread.weights.high < 0.25 * whole.high


def test_decode_context_parallel_deals_out_the_tokens_of_a_sequence(
    shapes: dict[str, Checkpoint],
) -> None:
    """Full attention and MLA keep ceil(length / dcp) tokens (v1/kv_cache_interface.py)."""
    for shape in ("llama-3.1-8b", "deepseek-v3"):
        args: dict[str, Value] = {"tensor-parallel-size": 16, "enforce-eager": True}
        whole = estimate(shapes[shape], args)
        dealt = estimate(shapes[shape], {**args, "decode-context-parallel-size": 2})
        assert dealt.kv_bytes(32_000) == whole.kv_bytes(16_000)
        assert dealt.cache.token_bytes().low == whole.cache.token_bytes().low / 2


def test_prefill_context_parallel_dealt_them_out_in_some_versions(
    shapes: dict[str, Checkpoint],
) -> None:
    whole = estimate(shapes["llama-3.1-8b"]).kv_bytes(32_000)
    found = estimate(shapes["llama-3.1-8b"], {"prefill-context-parallel-size": 2}).kv_bytes(32_000)
    assert found == Interval(whole.low / 2, whole.high)


@pytest.mark.parametrize(
    ("capability", "args", "width", "hidden"),
    [
        ((8, 0), {}, 2944, 3072),  # Marlin
        ((12, 0), {}, 2944, 3072),
        ((10, 0), {}, 3072, 3072),  # TRTLLM
        ((9, 0), {}, 2880, 2880),  # Triton
        ((9, 0), {"tensor-parallel-size": 2}, 2 * 1472, 2880),
        ((8, 0), {"tensor-parallel-size": 8}, 8 * 384, 3072),
        ((8, 0), {"tensor-parallel-size": 8, "enable-expert-parallel": True}, 2944, 3072),
        ((8, 0), {"data-parallel-size": 8}, 8 * 384, 3072),
        ((9, 0), {"moe-backend": "marlin"}, 2944, 3072),
    ],
)
def test_4bit_experts_are_padded_for_their_kernels(
    shapes: dict[str, Checkpoint],
    capability: tuple[int, int],
    args: dict[str, Value],
    width: int,
    hidden: int,
) -> None:
    """mxfp4_round_up_hidden_size_and_intermediate_size (oracle/mxfp4.py, 0.26)."""
    gpt_oss = shapes["gpt-oss-20b"]
    assert gpt_oss.weights
    plain = replace(gpt_oss, quantization="something else")
    card = on_card(capability)
    stored, found = (estimate(c, args, on=card).weights for c in (plain, gpt_oss))
    assert found.low == stored.low
    share = 1 / int(str(args.get("tensor-parallel-size", 1)))
    more = gpt_oss.weights.packed_bytes * (width * hidden / 2880**2 - 1) * share
    if "data-parallel-size" in args:
        assert found.high > stored.high
    else:
        assert found.high - stored.high == pytest.approx(more, rel=0.02)


def test_buffers_for_adapters_widen_what_the_weights_take(shapes: dict[str, Checkpoint]) -> None:
    """Each layer keeps rank x (inputs + outputs) for every slice of it (lora/layers)."""
    seven, plain = shapes["qwen2.5-7b"], estimate(shapes["qwen2.5-7b"])
    slices = (
        (3584, 3584 + 2 * 512) + 2 * (3584,),  # q, k and v: three slices of the same inputs
        (3584, 3584),  # o
        (2 * 3584, 2 * 18944),  # gate and up
        (18944, 3584),  # down
    )
    least = 16 * 2 * 28 * sum(map(sum, slices))
    found = estimate(seven, {"enable-lora": True})
    assert found.weights.low == plain.weights.low
    assert least < found.weights.high - plain.weights.high < 1.3 * least
    assert found.graphs.high == 2 * plain.graphs.high
    more = estimate(seven, {"enable-lora": True, "max-loras": 4, "max-lora-rank": "64"})
    each = found.weights.high - plain.weights.high
    assert more.weights.high - plain.weights.high == pytest.approx(16 * each)
    assert estimate(seven, {"max-lora-rank": 64}).weights == plain.weights


def test_adapters_of_every_expert_take_gigabytes(shapes: dict[str, Checkpoint]) -> None:
    mixture = shapes["qwen3-30b-a3b"]
    more = estimate(mixture, {"enable-lora": True}).weights.high - estimate(mixture).weights.high
    assert more > 16 * 2 * 48 * 128 * 3 * (2048 + 768)


DRAFT = '{"model": "yuhuili/EAGLE3-LLaMA3.1-Instruct-8B", "method": "eagle3"}'


@pytest.mark.parametrize(
    ("args", "most"),
    [
        ({"speculative-config": '{"method": "ngram", "num_speculative_tokens": 4}'}, 1),
        ({"speculative-config": '{"model": "ngram"}'}, 1),
        ({"spec-method": "suffix"}, 1),
        ({"speculative-config": '{"method": "mtp", "num_speculative_tokens": 1}'}, 2),
        ({"speculative-config.method": "qwen3_next_mtp"}, 2),
        ({"speculative-config": DRAFT}, math.inf),
        ({"speculative-config": "no JSON"}, math.inf),
        ({"spec-model": "some/draft"}, math.inf),
    ],
)
def test_a_draft_of_unknown_size_rules_nothing_out_and_nothing_in(
    shapes: dict[str, Checkpoint], args: dict[str, Value], most: float
) -> None:
    plain, found = estimate(shapes["llama-3.1-8b"]), estimate(shapes["llama-3.1-8b"], args)
    assert found.weights == Interval(plain.weights.low, most * plain.weights.high)
    assert found.kv_bytes(8192).low == plain.kv_bytes(8192).low
    assert found.kv_bytes(8192).high == min(most, 2) * plain.kv_bytes(8192).high
    assert found.graphs.high == min(most, 2) * plain.graphs.high


def test_more_drafted_tokens_capture_larger_graphs(shapes: dict[str, Checkpoint]) -> None:
    args: dict[str, Value] = {"max-num-seqs": 8, "spec-method": "ngram"}
    seven = shapes["qwen2.5-7b"]
    none, eight = (estimate(seven, {**args, "spec-tokens": n}).graphs for n in (0, 8))
    assert eight.high > 1.5 * none.high


def test_a_boot_without_adapters_says_nothing_of_one_with(shapes: dict[str, Checkpoint]) -> None:
    seven = estimate(shapes["qwen2.5-7b"])
    calibration = Calibration().learned(LaunchConfig("m"), SHORT, BUDGET, seven)
    others: tuple[dict[str, Value], ...] = ({"enable-lora": True}, {"speculative-config": DRAFT})
    for args in others:
        guess = estimate(shapes["qwen2.5-7b"], args)
        assert calibration.apply(guess, LaunchConfig("m", args)).weights == guess.weights


@pytest.mark.parametrize(
    ("shape", "capability", "args", "bytes_each"),
    [
        ("gemma-2-9b", (7, 5), {}, 4),
        ("gemma-2-9b", (8, 0), {}, 2),
        ("gemma-2-9b", (7, 5), {"dtype": "half"}, 2),  # which vLLM refuses itself
        ("gemma-3-4b", (7, 0), {"dtype": "auto"}, 4),
        ("llama-3.1-8b", (7, 5), {}, 2),
    ],
)
def test_without_bfloat16_some_models_become_float32(
    shapes: dict[str, Checkpoint],
    shape: str,
    capability: tuple[int, int],
    args: dict[str, Value],
    bytes_each: int,
) -> None:
    """config/model.py, _FLOAT16_NOT_SUPPORTED_MODELS and _resolve_auto_dtype (0.26, 0.32)."""
    there, newer = (estimate(shapes[shape], args, on=on_card(c)) for c in (capability, (9, 0)))
    double = bytes_each / 2
    assert there.weights.low == pytest.approx(double * newer.weights.low)
    assert there.kv_bytes(4096).low == double * newer.kv_bytes(4096).low
    assert (there.activations.low > 1.3 * newer.activations.low) == (double == 2)


def test_gemma_within_another_model_is_served_as_float16(shapes: dict[str, Checkpoint]) -> None:
    """vLLM asks for the outer model type, `paligemma`."""
    seen = replace(
        shapes["gemma-2-2b"],
        multimodal=True,
        architecture="PaliGemmaForConditionalGeneration",
    )
    assert float_bytes(LaunchConfig("m"), seen, on_card((7, 5))) == 2
    assert float_bytes(LaunchConfig("m"), shapes["gemma-2-2b"], on_card((7, 5))) == 4


# What vLLM 0.26 took on an H200 with dummy weights, most of them cut to four layers, after it had
# served 64 to 1024 short prompts and six long ones (tests/gpu/boots.py).
TAKEN = json.loads((SHAPES / "booted" / "0.26.0-h200.json").read_text())


@pytest.mark.parametrize("boot", TAKEN, ids=lambda boot: f"{boot['shape']}-{boot['tokens']}")
def test_what_a_real_boot_took_lies_within_the_estimate(
    tmp_path: Path, boot: dict[str, Any]
) -> None:
    config = json.loads((SHAPES / f"{boot['shape']}.json").read_text())
    if boot["layers"]:
        config |= {n: boot["layers"] for n in ("num_hidden_layers", "n_layer") if n in config}
        if "layer_types" in config:
            config["layer_types"] = config["layer_types"][: boot["layers"]]
    (tmp_path / "config.json").write_text(json.dumps(config))
    checkpoint = read_checkpoint(str(tmp_path), weights_required=False)
    args: dict[str, Value] = {
        "max-num-batched-tokens": boot["tokens"],
        "max-num-seqs": boot["sequences"],
        "enforce-eager": boot["eager"],
    }
    if boot["quantization"]:
        args["quantization"] = boot["quantization"]
    env = {"VLLM_USE_V2_MODEL_RUNNER": "1" if boot["runner"] == "v2" else "0"}
    found = estimate(checkpoint, args, env=env)
    assert boot["activations"] in found.activations
    assert boot["non_torch"] in found.non_torch
    assert boot["graphs"] in found.graphs
    beyond = boot["used"] - boot["requested"]
    assert -gib(0.65) < beyond - found.beyond_share < gib(0.5)
    if found.weights.known and not boot["quantization"]:
        assert boot["weights"] in found.weights
        assert found.weights.middle == pytest.approx(boot["weights"], rel=0.01, abs=80 * 2**20)


@pytest.mark.parametrize("boot", TAKEN, ids=lambda boot: f"{boot['shape']}-{boot['tokens']}")
def test_the_model_runner_is_the_one_that_vllm_chose(
    shapes: dict[str, Checkpoint], boot: dict[str, Any]
) -> None:
    checkpoint = shapes[boot["shape"]]
    asked = boot["shape"] == "qwen2.5-7b" and boot["runner"] == "v1"
    env = {"VLLM_USE_V2_MODEL_RUNNER": "0"} if asked else {}
    assert model_runner(checkpoint, LaunchConfig("m", {}, env), (0, 26)) == boot["runner"]


LOADED = [
    log
    for log in sorted(GOLDEN.glob("*/*.log"))
    if re.search(r"model='[^']*/qwen2.5-\d+b'.*Model loading took", log.read_text(), re.DOTALL)
]


@pytest.mark.parametrize("log", LOADED, ids=lambda log: f"{log.parent.name}-{log.stem}")
def test_every_log_of_a_known_shape_agrees_with_the_estimate(
    shapes: dict[str, Checkpoint], log: Path
) -> None:
    text = log.read_text()
    model = re.search(r"with config: model='[^']*/([^'/]+)'", text)
    weights = re.search(r"Model loading took ([\d.]+) GiB", text)
    assert model
    assert weights
    args: dict[str, Value] = {}
    for flag in ("quantization", "tensor_parallel_size", "cpu_offload_gb"):
        given_ = re.search(rf"'{flag}': '?([\w.]+)'?", text)
        if given_:
            args[flag.replace("_", "-")] = given_[1]
    found = estimate(shapes[model[1]], args)
    measured = gib(float(weights[1]))
    assert measured in found.weights
    if "cpu-offload-gb" not in args:  # which moves whole layers
        assert (found.weights.low + found.weights.high) / 2 == pytest.approx(measured, rel=0.01)


SERVED = [log for log in LOADED if "KV cache size" in log.read_text()]


@pytest.mark.parametrize("log", SERVED, ids=lambda log: f"{log.parent.name}-{log.stem}")
def test_every_log_has_exactly_the_tokens_that_its_kv_cache_holds(
    shapes: dict[str, Checkpoint], log: Path
) -> None:
    text = log.read_text()
    model = re.search(r"with config: model='[^']*/([^'/]+)'", text)
    available = re.search(r"Available KV cache memory: ([\d.]+) GiB", text)
    tokens = re.search(r"KV cache size: ([\d,]+) tokens", text)
    devices = re.search(r"'tensor_parallel_size': (\d+)", text)
    assert model
    assert available
    assert tokens
    args: dict[str, Value] = {"tensor-parallel-size": devices[1]} if devices else {}
    token = estimate(shapes[model[1]], args).cache.token_bytes()
    assert token.low == token.high
    held = int(tokens[1].replace(",", "")) * token.low
    rounding = gib(0.005)
    assert held <= gib(float(available[1])) + rounding
    assert held + 32 * token.low > gib(float(available[1])) - rounding  # less than two blocks


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
    assert estimate(shapes[shape], args).cache.token_bytes() == Interval.exactly(expected)


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
    cache = footprint(shapes[shape], LaunchConfig("m"), gpu).cache
    assert cache.block == Interval(16, most)


def test_a_sliding_window_bounds_what_a_sequence_keeps(shapes: dict[str, Checkpoint]) -> None:
    mistral = estimate(shapes["mistral-7b-v0.1"], {"max-num-batched-tokens": 2048})
    short, long = mistral.kv_bytes(1024), mistral.kv_bytes(32768)
    assert long == mistral.kv_bytes(20000)
    assert short.high < long.low
    layer = 2 * 8 * 128 * 2
    assert long.low == 32 * layer * 16 * (math.ceil((4095 + 2048) / 16) + 1)


def test_without_the_hybrid_manager_windows_keep_everything(
    shapes: dict[str, Checkpoint],
) -> None:
    gemma = shapes["gemma-2-9b"]
    full = estimate(gemma, {"disable-hybrid-kv-cache-manager": True}).kv_bytes(8192)
    assert full.low == 42 * 2 * 8 * 256 * 2 * 8192
    assert estimate(gemma, {"max-num-batched-tokens": 512}).kv_bytes(8192).low < full.low


def test_a_recurrent_state_is_kept_once_per_sequence(shapes: dict[str, Checkpoint]) -> None:
    mamba = estimate(shapes["mamba-2.8b"])
    state = 5120 * 3 * 2 + 5120 * 16 * 2
    assert mamba.kv_bytes(100).low == mamba.kv_bytes(100_000).low == 64 * state
    jamba = estimate(shapes["jamba-mini"])
    more = jamba.kv_bytes(32768, 2).low - jamba.kv_bytes(32768, 1).low
    assert more == 4 * 4096 * 32768 + 28 * (8192 * 3 * 2 + 8192 * 16 * 2)


def test_a_real_cpu_refusal_names_the_length_the_arithmetic_finds(
    shapes: dict[str, Checkpoint],
) -> None:
    """Four layers of 2 key heads of 64: 20 MiB hold 10,112 tokens (vLLM 0.32 on a CPU)."""
    cpu = device(8.46, "CPU", "cpu")
    tiny = estimate(shapes["tiny-qwen2"], on=cpu, vllm=(0, 32))
    assert tiny.longest(20 * 2**20, block=128) == (10112, 10112)


def test_a_real_gpu_refusal_names_the_length_the_arithmetic_finds(
    shapes: dict[str, Checkpoint],
) -> None:
    """0.12 of an H200 leaves 1.14 GiB, and vLLM's estimate is 21,408 tokens."""
    seven = estimate(shapes["qwen2.5-7b"])
    least, most = seven.longest(Interval(gib(1.135), gib(1.145)))
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
    found = estimate(
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


def test_an_unknown_architecture_abstains(shapes: dict[str, Checkpoint]) -> None:
    found = estimate(replace(shapes["qwen2.5-7b"], plan=None, architecture="FutureLM"))
    assert found.kv_bytes(1) == Interval.unknown()
    assert found.longest(gib(1)) == (0, 32768)
    weightless = estimate(shapes["jamba-mini"])
    assert not weightless.weights.known
    assert weightless.kv_available(gib(80)).low == -math.inf


def test_a_tower_widens_the_estimate(shapes: dict[str, Checkpoint]) -> None:
    plain, tower = estimate(shapes["qwen2.5-7b"]), estimate(shapes["qwen2-vl-7b"])
    assert tower.activations.high > plain.activations.high + gib(4)


@pytest.mark.parametrize(
    ("vllm", "env", "charged"),
    [
        (None, {}, None),
        ((0, 17), {}, False),
        ((0, 19), {"VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS": "1"}, True),
        ((0, 20, 2), {}, True),
        ((0, 26), {}, False),
        ((0, 26), {"VLLM_USE_V2_MODEL_RUNNER": "0"}, True),
        ((0, 33), {}, True),
        ((0, 33), {"VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS": "0"}, False),
    ],
)
def test_graphs_come_out_of_the_budget_in_some_versions(
    shapes: dict[str, Checkpoint],
    vllm: tuple[int, ...] | None,
    env: dict[str, str],
    charged: bool | None,
) -> None:
    assert estimate(shapes["qwen2.5-7b"], vllm=vllm, env=env).graphs_charged is charged


def test_graphs_shrink_with_the_sequences_and_vanish_when_eager(
    shapes: dict[str, Checkpoint],
) -> None:
    seven = shapes["qwen2.5-7b"]
    assert gib(0.89) in estimate(seven).graphs
    assert estimate(seven, {"max-num-seqs": 16}).graphs.high < estimate(seven).graphs.high
    assert estimate(seven, {"enforce-eager": True}).graphs == Interval(0, 0)


@pytest.mark.parametrize(
    ("capability", "vllm", "sizes"),
    [
        ((9, 0), (0, 32), 51),
        ((10, 0), (0, 26, 1), 51),
        ((10, 0), (0, 32), 83),
        ((10, 3), (0, 32), 83),
        ((11, 0), (0, 32), 51),
        ((12, 0), (0, 32), 51),
        ((10, 0), None, 83),
    ],
)
def test_a_b200_captures_graphs_of_twice_the_size_in_newer_versions(
    shapes: dict[str, Checkpoint],
    capability: tuple[int, int],
    vllm: tuple[int, ...] | None,
    sizes: int,
) -> None:
    """1024 tokens instead of 512 (_set_cudagraph_sizes in config/vllm.py, 0.26 and 0.32)."""
    found = estimate(shapes["qwen2.5-7b"], on=on_card(capability), vllm=vllm).graphs
    assert found.low == pytest.approx(0.3 * gib(0.89) * sizes / 51)


def test_gpt_oss_captures_them_everywhere_but_no_more_than_a_batch(
    shapes: dict[str, Checkpoint],
) -> None:
    few = estimate(shapes["gpt-oss-20b"], {"max-num-seqs": 16}).graphs
    assert few.low == pytest.approx(0.3 * gib(0.89) * 83 / 51 * 24 / 28)
    small = estimate(shapes["gpt-oss-20b"], {"max-num-seqs": 16, "max-num-batched-tokens": 256})
    assert small.graphs.low == pytest.approx(0.3 * gib(0.89) * 35 / 51 * 24 / 28)


@pytest.mark.parametrize(
    ("on", "expected"),
    [
        (device(), (8192, 1024)),
        (device(79.3, "NVIDIA A100-SXM4-80GB"), (2048, 256)),
        (device(23.9, "NVIDIA GeForce RTX 4090"), (2048, 256)),
        (device(178, "NVIDIA B200"), (16384, 1024)),
        (device(16, "CPU", "cpu"), (2048, 128)),
    ],
)
def test_batch_defaults_follow_the_device(on: Device, expected: tuple[int, int]) -> None:
    assert batch_defaults(on, LaunchConfig("m"), (0, 33)) == expected


def test_a_cpu_takes_more_by_default_the_more_workers_there_are() -> None:
    config, cpu = LaunchConfig("m", {"tensor-parallel-size": 2}), device(16, "CPU", "cpu")
    assert batch_defaults(cpu, config, (0, 33)) == (4096, 256)


def test_a_limit_does_not_change_the_batch_defaults() -> None:
    assert batch_defaults(replace(device(), limit_bytes=11 * GIB), LaunchConfig("m")) == (
        8192,
        1024,
    )
    assert block_size(device(), LaunchConfig("m")) == 16
    assert block_size(device(kind="cpu"), LaunchConfig("m")) == 128
    assert block_size(device(kind="cpu"), LaunchConfig("m", {"block-size": 64})) == 64


BUDGET = int(11.04 * GIB)
SHORT = Readings(weights_bytes=int(14.29 * GIB), kv_bytes=int(-4.59 * GIB))


def test_measured_numbers_replace_the_estimate(shapes: dict[str, Checkpoint]) -> None:
    first = LaunchConfig("m")
    calibration = Calibration().learned(first, SHORT, BUDGET, estimate(shapes["qwen2.5-7b"]))
    shorter = first.replace({"max-model-len": 4096, "gpu-memory-utilization": 0.079})
    found = calibration.apply(estimate(shapes["qwen2.5-7b"]), shorter)
    assert found.kv_available(BUDGET).low == pytest.approx(-4.59 * GIB)
    assert found.kv_available(BUDGET).high < 0


def test_other_weights_keep_the_overhead_but_not_exactly(shapes: dict[str, Checkpoint]) -> None:
    calibration = Calibration().learned(
        LaunchConfig("m"), SHORT, BUDGET, estimate(shapes["qwen2.5-7b"])
    )
    config = LaunchConfig("m", {"quantization": "fp8"})
    guess = estimate(shapes["qwen2.5-7b"], {"quantization": "fp8"})
    found = calibration.apply(guess, config)
    assert found.weights == guess.weights
    assert gib(1.45) in found.activations
    assert gib(1.42) in found.kv_available(BUDGET)


def test_a_smaller_step_takes_no_more_than_the_larger_did(shapes: dict[str, Checkpoint]) -> None:
    calibration = Calibration().learned(
        LaunchConfig("m"), SHORT, BUDGET, estimate(shapes["qwen2.5-7b"])
    )
    config = LaunchConfig("m", {"max-num-seqs": 16})
    found = calibration.apply(estimate(shapes["qwen2.5-7b"], {"max-num-seqs": 16}), config)
    measured = BUDGET - 14.29 * GIB + 4.59 * GIB
    assert found.activations.high < 1.1 * measured
    assert found.activations.low < measured


def test_a_cache_set_by_hand_teaches_nothing_about_the_rest(
    shapes: dict[str, Checkpoint],
) -> None:
    config = LaunchConfig("m", {"kv-cache-memory-bytes": "1G"})
    plain = estimate(shapes["qwen2.5-7b"], dict(config.args))
    calibration = Calibration().learned(config, replace(SHORT, kv_bytes=GIB), BUDGET, plain)
    found = calibration.apply(plain, config)
    assert found.weights.high - found.weights.low < 0.02 * GIB
    assert found.activations == plain.activations
    assert found.kv_available(BUDGET) == Interval.exactly(GIB)


def test_a_cpu_takes_the_cache_it_is_told_to(shapes: dict[str, Checkpoint]) -> None:
    env = {"VLLM_CPU_KVCACHE_SPACE": "2"}
    tiny = shapes["tiny-qwen2"]
    found = estimate(tiny, on=device(kind="cpu"), env=env)
    assert found.kv_available(GIB) == Interval.exactly(2 * GIB)
    assert estimate(tiny, env=env).kv_fixed is None


def test_measured_graphs_replace_the_estimate(shapes: dict[str, Checkpoint]) -> None:
    seven = estimate(shapes["qwen2.5-7b"])
    boot = Readings(graph_bytes=int(gib(0.89)))
    calibration = Calibration().learned(LaunchConfig("m"), boot, 0, seven)
    found = calibration.apply(seven, LaunchConfig("m"))
    assert found.graphs.high < gib(1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("11GiB", 11 * GIB),
        ("24G", 24 * GIB),
        ("24GB", 24 * 10**9),
        ("512MiB", 512 * 2**20),
        ("1.5 GiB", 3 * GIB // 2),
        ("12345678", 12345678),
        ("8gib", 8 * GIB),
        (" 2T ", 2 * 2**40),
        ("100KB", 100_000),
    ],
)
def test_amounts_of_memory_are_read(text: str, expected: int) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "abc", "-5G", "0", "0GiB", "11 apples", "1e9", "GiB", "inf"])
def test_what_is_no_amount_of_memory_is_refused(text: str) -> None:
    with pytest.raises(BadUsage) as refusal:
        parse_bytes(text)
    assert refusal.value.hint


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (11 * GIB, "11.0 GiB"),
        (-4.59 * GIB, "-4.6 GiB"),
        (512 * 2**20, "512 MiB"),
        (2048, "2 KiB"),
        (12, "12 B"),
        (math.inf, "unknown"),
    ],
)
def test_amounts_of_memory_are_written(number: float, expected: str) -> None:
    assert format_bytes(number) == expected


NAMES = sorted(path.stem for path in SHAPES.glob("*.json"))
ARGS = st.fixed_dictionaries(
    {},
    optional={
        "tensor-parallel-size": st.sampled_from([1, 2, 4, 8]),
        "pipeline-parallel-size": st.sampled_from([1, 2, 3]),
        "kv-cache-dtype": st.sampled_from(["auto", "fp8", "int8_per_token_head", "turboquant"]),
        "max-num-batched-tokens": st.sampled_from([512, 2048, 8192]),
        "max-num-seqs": st.sampled_from([1, 16, 256]),
        "quantization": st.sampled_from(["fp8", "bitsandbytes", "something-new"]),
        "cpu-offload-gb": st.integers(0, 100),
        "block-size": st.sampled_from([16, 32, 128]),
        "enforce-eager": st.just(True),
        "data-parallel-size": st.sampled_from([2, 16]),
        "decode-context-parallel-size": st.sampled_from([2, 8]),
        "prefill-context-parallel-size": st.just(2),
        "enable-lora": st.just(True),
        "spec-method": st.sampled_from(["ngram", "mtp", "eagle3"]),
    },
)
VERSIONS = st.sampled_from([None, (0, 9, 2), (0, 20), (0, 26), (0, 33)])


@given(name=st.sampled_from(NAMES), args=ARGS, vllm=VERSIONS)
def test_every_interval_is_one(
    shapes: dict[str, Checkpoint],
    name: str,
    args: dict[str, Value],
    vllm: tuple[int, ...] | None,
) -> None:
    found = estimate(shapes[name], args, vllm=vllm)
    parts = (found.weights, found.activations, found.graphs, found.non_torch, found.kv_bytes(5000))
    for part in parts:
        assert 0 <= part.low <= part.high


@given(
    name=st.sampled_from(NAMES),
    args=ARGS,
    vllm=VERSIONS,
    lengths=st.tuples(st.integers(1, 200_000), st.integers(1, 200_000)),
    sequences=st.integers(1, 64),
)
def test_more_tokens_and_more_sequences_never_need_less(
    shapes: dict[str, Checkpoint],
    name: str,
    args: dict[str, Value],
    vllm: tuple[int, ...] | None,
    lengths: tuple[int, int],
    sequences: int,
) -> None:
    found = estimate(shapes[name], args, vllm=vllm)
    short, long = (found.kv_bytes(n, sequences) for n in sorted(lengths))
    assert short.low <= long.low
    assert short.high <= long.high
    more = found.kv_bytes(max(lengths), sequences + 1)
    assert long.low <= more.low
    assert long.high <= more.high


@given(
    name=st.sampled_from(NAMES),
    args=ARGS,
    available=st.integers(0, 80 * GIB),
    sequences=st.integers(1, 8),
    block=st.sampled_from([16, 128]),
)
def test_the_longest_length_fits_and_the_next_does_not(
    shapes: dict[str, Checkpoint],
    name: str,
    args: dict[str, Value],
    available: int,
    sequences: int,
    block: int,
) -> None:
    found = estimate(shapes[name], args)
    sure, perhaps = found.longest(available, sequences, block)
    assert 0 <= sure <= perhaps <= found.context
    if sure:
        assert found.kv_bytes(sure, sequences).high <= available
    if sure < found.context // block * block:
        assert found.kv_bytes(sure + block, sequences).high > available
    if perhaps < found.context // block * block:
        assert found.kv_bytes(perhaps + block, sequences).low > available


NUMBERS = st.floats(-1e15, 1e15)
INTERVALS = st.tuples(NUMBERS, NUMBERS).map(lambda ends: Interval(min(ends), max(ends)))


@given(one=INTERVALS, other=INTERVALS, factor=st.floats(0, 100))
def test_interval_arithmetic_keeps_what_it_holds(
    one: Interval, other: Interval, factor: float
) -> None:
    assert one.low + other.high in one + other
    assert one.low - other.high in one - other
    assert one.high * factor in one * factor
    assert one + 0.0 == 0.0 + one == one
    assert 1.0 - one.low in 1.0 - one
