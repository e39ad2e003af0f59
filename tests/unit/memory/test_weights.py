"""What weights take, beside them adapters and drafts, and on how many devices."""

from dataclasses import replace

import pytest

from tests.support.memory import estimated, gib, on_card
from vllm_autotune.checkpoint import Checkpoint
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
    """671 GB of DeepSeek V3 on 32 devices: 654 of them are experts."""
    whole = estimated(shapes[shape]).weights
    spread = estimated(shapes[shape], {"data-parallel-size": 32, "enable-expert-parallel": True})
    assert whole.low / 32 < spread.weights.low * 1.01 < gib(30)
    assert spread.weights.high < 0.25 * whole.high


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
    stored, found = (estimated(c, args, on=card).weights for c in (plain, gpt_oss))
    assert found.low == stored.low
    share = 1 / int(str(args.get("tensor-parallel-size", 1)))
    more = gpt_oss.weights.packed_bytes * (width * hidden / 2880**2 - 1) * share
    if "data-parallel-size" in args:
        assert found.high > stored.high
    else:
        assert found.high - stored.high == pytest.approx(more, rel=0.02)


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
