"""What weights take, beside them adapters and drafts, and on how many devices."""

from dataclasses import replace

import pytest

from tests.support.memory import estimated, gib, on_card
from vllm_autotune.checkpoint import Checkpoint
from vllm_autotune.checkpoint.tensors import Weights
from vllm_autotune.vllm.config import Value


def test_other_measured_weights_lie_within_the_estimate(shapes: dict[str, Checkpoint]) -> None:
    seven, big = shapes["qwen2.5-7b"], shapes["qwen2.5-72b"]
    assert gib(7.15) in estimated(seven, {"pipeline-parallel-size": 2}).weights
    assert gib(135.43) in estimated(big).weights
    offloaded = estimated(seven, {"cpu-offload-gb": 8}, env={"VLLM_USE_V2_MODEL_RUNNER": "0"})
    assert gib(6.1) in offloaded.weights
    assert offloaded.weights.high < gib(7)
    ignored = estimated(seven, {"cpu-offload-gb": 8})
    assert gib(14.29) in ignored.weights


def test_four_bits_shrink_all_but_the_embeddings(shapes: dict[str, Checkpoint]) -> None:
    """A real 3B with an output head of its own took 6.37 GiB, and 2.65 with bitsandbytes."""
    seven = shapes["qwen2.5-7b"]
    embedding = 2 * 151936 * 2048
    linear = 36 * (2 * 2048 * 2048 + 2 * 2048 * 256 + 3 * 2048 * 11008)
    weights = Weights(bytes=2 * (embedding + linear), embedding=embedding, linear=linear)
    three = replace(seven, layers=36, weights=weights)
    assert gib(6.37) in estimated(three).weights
    assert gib(2.65) in estimated(three, {"quantization": "bitsandbytes"}).weights


@pytest.mark.parametrize("ways", [{"data-parallel-size": 4}, {"prefill-context-parallel-size": 4}])
def test_data_parallel_devices_share_the_experts_out(
    shapes: dict[str, Checkpoint], ways: dict[str, Value]
) -> None:
    """vLLM flattens data, prefill context and tensor parallel for experts (fused_moe/config.py)."""
    mixture, dense = shapes["qwen3-30b-a3b"], shapes["llama-3.1-8b"]
    assert mixture.weights
    experts = 2 * 48 * 128 * 3 * 2048 * 768
    found = estimated(mixture, ways).weights
    assert mixture.weights.bytes - experts * 3 / 4 in found
    assert found.high - found.low < gib(0.6)
    assert estimated(dense, ways).weights == estimated(dense).weights


@pytest.mark.parametrize("shape", ["mixtral-8x7b", "deepseek-v3", "llama-4-scout"])
def test_experts_over_many_nodes_are_not_called_too_big(
    shapes: dict[str, Checkpoint], shape: str
) -> None:
    """Of 671 GB of DeepSeek V3, 654 are experts; each of 32 devices has all the rest."""
    weights, buffers = shapes[shape].weights, shapes[shape].buffers
    assert weights
    spread = estimated(shapes[shape], {"data-parallel-size": 32, "enable-expert-parallel": True})
    each = weights.bytes - weights.expert_bytes * (1 - 1 / 32)
    each += 2 * (buffers.rope + buffers.absorbed)
    assert each == pytest.approx(spread.weights.middle, rel=0.02)


@pytest.mark.parametrize(
    ("capability", "args", "width", "hidden"),
    [
        ((8, 0), {}, 2944, 3072),  # Marlin
        ((12, 0), {}, 2944, 3072),
        ((10, 0), {}, 3072, 3072),  # TRTLLM
        ((9, 0), {}, 2944, 3072),  # Marlin, or Triton with as much
        ((8, 0), {"tensor-parallel-size": 8}, 8 * 384, 3072),
        ((8, 0), {"tensor-parallel-size": 8, "enable-expert-parallel": True}, 2944, 3072),
        ((8, 0), {"data-parallel-size": 8}, 8 * 384, 3072),
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
    found = estimated(gpt_oss, args, on=on_card(capability)).weights
    ranks = int(str(args.get("tensor-parallel-size") or args.get("data-parallel-size") or 1))
    experts = gpt_oss.weights.expert_bytes / ranks
    padded = experts * (width * hidden / 2880**2 - 1)
    assert padded < found.high - found.low < 1.2 * padded + gib(0.25)


@pytest.mark.parametrize(
    ("method", "gated", "width", "padded"),
    [
        ("compressed-tensors", True, 1856, 1856),
        ("compressed-tensors", True, 1850, 1856),
        ("modelopt", False, 1856, 1920),  # Nemotron 3 Nano: 0.88 GiB more than is stored
        ("modelopt_fp4", True, 1856, 1856),
        ("modelopt_fp4", False, 1856, 1920),
        (None, False, 1856, 1856),
    ],
)
def test_8bit_experts_are_padded_for_flashinfer(
    shapes: dict[str, Checkpoint], method: str | None, gated: bool, width: int, padded: int
) -> None:
    """`prepare_fp8_moe_layer_for_fi` in flashinfer_utils.py, 0.18 and 0.32."""
    stored = replace(shapes["qwen3-30b-a3b"], load_format="safetensors", block=1)
    model = replace(stored, quantization=method, gated=gated, expert_size=width)
    assert model.weights
    found = estimated(model, on=on_card((9, 0))).weights
    more = model.weights.expert_bytes * (padded / width - 1)
    assert more <= found.high - found.low <= more + gib(0.9)
    blocks = estimated(replace(model, block=128), on=on_card((9, 0))).weights
    assert method == "modelopt_fp4" or blocks.high - blocks.low < gib(0.9)


def test_what_comes_before_the_heads_of_latent_attention_is_on_every_device(
    shapes: dict[str, Checkpoint],
) -> None:
    """DeepSeek R1 took 79.6 to 79.7 GiB on each of eight H200 (0.11 to 0.20)."""
    v3 = shapes["deepseek-v3"]
    assert v3.weights
    one, eight = (estimated(v3, {"tensor-parallel-size": n}).weights for n in (1, 8))
    whole = v3.weights.whole_bytes
    assert gib(1) < whole < gib(1.1)
    assert eight.low - (one.low - whole) / 8 == pytest.approx(whole, rel=0.1)
    assert gib(79.6) in eight
    assert gib(79.74) in eight
    absorbed = 61 * 128 * 256 * 512
    assert v3.buffers.absorbed == absorbed


def test_heads_that_are_fewer_than_devices_are_there_more_than_once(
    shapes: dict[str, Checkpoint],
) -> None:
    mixture = shapes["qwen3-30b-a3b"]
    assert mixture.kv_heads == 4
    four, eight = (estimated(mixture, {"tensor-parallel-size": n}).weights for n in (4, 8))
    twice = 48 * 0.5 * 2 * 128 * 2048 * 2
    assert eight.low - four.low / 2 > 0.9 * twice
    assert eight.high - eight.low < gib(0.3)


def test_a_tower_is_split_or_whole_or_left_out(shapes: dict[str, Checkpoint]) -> None:
    model = shapes["qwen2-vl-7b"]
    assert model.weights
    tower = model.weights.tower_bytes
    split, data, text = (
        estimated(model, {"tensor-parallel-size": 4, **more}).weights
        for more in (
            {},
            {"mm-encoder-tp-mode": "data"},
            {"language-model-only": True},
        )
    )
    assert data.low - split.low == pytest.approx(0.75 * tower, rel=0.06)
    assert split.low - text.low == pytest.approx(0.25 * tower, rel=0.06)
    alone = estimated(model, {"language-model-only": True})
    assert alone.weights.high < estimated(model).weights.low
    assert alone.activations.high < estimated(model).activations.high


def test_buffers_for_adapters_widen_what_the_weights_take(shapes: dict[str, Checkpoint]) -> None:
    """Each layer keeps rank x (inputs + outputs) for every slice of it (lora/layers)."""
    seven, plain = shapes["qwen2.5-7b"], estimated(shapes["qwen2.5-7b"])
    slices = (
        (3584, 3584 + 2 * 512) + 2 * (3584,),  # q, k and v: three slices of the same inputs
        (3584, 3584),  # o
        (2 * 3584, 2 * 18944),  # gate and up
        (18944, 3584),  # down
    )
    least = 16 * 2 * 28 * sum(map(sum, slices))
    found = estimated(seven, {"enable-lora": True})
    assert found.weights.low == plain.weights.low
    assert least < found.weights.high - plain.weights.high < 1.3 * least
    assert found.graphs.high == 2 * plain.graphs.high
    more = estimated(seven, {"enable-lora": True, "max-loras": 4, "max-lora-rank": "64"})
    each = found.weights.high - plain.weights.high
    assert more.weights.high - plain.weights.high == pytest.approx(16 * each)
    assert estimated(seven, {"max-lora-rank": 64}).weights == plain.weights


def test_adapters_of_every_expert_take_gigabytes(shapes: dict[str, Checkpoint]) -> None:
    mixture = shapes["qwen3-30b-a3b"]
    more = estimated(mixture, {"enable-lora": True}).weights.high - estimated(mixture).weights.high
    assert more > 16 * 2 * 48 * 128 * 3 * (2048 + 768)
