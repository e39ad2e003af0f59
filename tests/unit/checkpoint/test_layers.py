"""What the layers of a model keep in memory."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.memory import estimated, token_bytes
from tests.support.small_model import SMALL, make, of_shape
from vllm_autotune.checkpoint import read_checkpoint

SIZES = {**SMALL, "vocab_size": 1000, "intermediate_size": 256, "hidden_size": 512}
LATENT = {
    "num_attention_heads": 8,
    "q_lora_rank": 64,
    "qk_nope_head_dim": 64,
    "v_head_dim": 128,
    "qk_rope_head_dim": 64,
}
# What a model keeps of each token, in bytes.
KEEPS: dict[str, tuple[dict[str, Any], int]] = {
    "ministral3": ({"num_hidden_layers": 40, "num_key_value_heads": 8, "head_dim": 128}, 163840),
    "mimo": ({"num_hidden_layers": 36, "num_key_value_heads": 8, "head_dim": 128}, 147456),
    "mistral4": ({**LATENT, "num_hidden_layers": 36, "kv_lora_rank": 256}, 23040),
    "sarvam_mla": ({**LATENT, "num_hidden_layers": 32, "kv_lora_rank": 512}, 36864),
    "glm_moe_dsa": (
        {**LATENT, "num_hidden_layers": 78, "kv_lora_rank": 512, "index_head_dim": 128},
        78 * (576 * 2),
    ),
    "longcat_flash": ({**LATENT, "num_layers": 28, "kv_lora_rank": 512}, 2 * 28 * 576 * 2),
    "bert": ({"num_hidden_layers": 12}, 0),
    "xlm-roberta": ({"num_hidden_layers": 12}, 0),
}


@pytest.mark.parametrize("model_type", KEEPS)
def test_what_a_token_leaves_behind_is_known_of_more_than_the_common_models(
    tmp_path: Path, model_type: str
) -> None:
    fields, each = KEEPS[model_type]
    config = {n: v for n, v in SIZES.items() if n != "num_hidden_layers"}
    found = read_checkpoint(str(make(tmp_path, {**config, "model_type": model_type, **fields})))
    assert found.layer_groups is not None
    assert token_bytes(estimated(found).cache).low == each


def test_the_layers_are_counted_where_their_number_is_not_given(tmp_path: Path) -> None:
    """Nemotron 3 Ultra has a list of them alone."""
    blocks = ["mamba", "moe", "mamba", "attention", "moe", "mlp"]
    config = {
        **{n: v for n, v in SIZES.items() if n != "num_hidden_layers"},
        "model_type": "nemotron_h",
        "layers_block_type": blocks,
        "mamba_num_heads": 8,
        "mamba_head_dim": 64,
        "n_groups": 1,
        "ssm_state_size": 128,
        "conv_kernel": 4,
        "n_routed_experts": 8,
        "moe_intermediate_size": 128,
        "n_shared_experts": 1,
    }
    found = read_checkpoint(str(make(tmp_path, config, None)), weights_required=False)
    assert found.layers == 6
    assert {group.kind: group.count for group in found.layer_groups or ()} == {
        "state": 2,
        "full": 1,
    }
    assert found.weights
    experts = 2 * 8 * 2 * 512 * 128
    assert found.weights.expert_bytes == 2 * experts


def test_a_decoder_keeps_what_its_encoder_heard(tmp_path: Path) -> None:
    """Whisper large-v3-turbo has 4 layers that decode, and 32 that encode 1,500 frames."""
    config = {
        "model_type": "whisper",
        "architectures": ["WhisperForConditionalGeneration"],
        "d_model": 1280,
        "decoder_layers": 4,
        "decoder_attention_heads": 20,
        "num_hidden_layers": 32,
        "encoder_layers": 32,
        "decoder_ffn_dim": 5120,
        "vocab_size": 51866,
        "max_target_positions": 448,
        "max_source_positions": 1500,
    }
    found = read_checkpoint(str(make(tmp_path, config, None)), weights_required=False)
    assert (found.layers, found.heads, found.context) == (4, 20, 448)
    groups = {group.kind: (group.count, group.window) for group in found.layer_groups or ()}
    assert groups == {"full": (4, 0), "cross": (4, 1500)}
    assert found.weights
    assert found.weights.elements / 1e6 == pytest.approx(809, rel=0.02)
    one = estimated(found).kv_bytes(448)
    token = 2 * 1280 * 2
    assert one.low == 4 * token * (448 + 1504)


def test_an_unknown_architecture_is_said_to_be_unknown(tmp_path: Path) -> None:
    config = {**SMALL, "model_type": "from_the_future", "architectures": ["FutureLM"]}
    found = read_checkpoint(str(make(tmp_path, config)))
    assert found.layer_groups is None
    assert found.weight_bytes


def test_layer_types_that_are_written_out_are_those_of_the_default_pattern(tmp_path: Path) -> None:
    written = of_shape(tmp_path / "written", "gpt-oss-20b")
    default = of_shape(tmp_path / "default", "gpt-oss-20b", layer_types=None)
    assert {group.kind for group in written.layer_groups or ()} == {"sliding", "full"}
    assert default.layer_groups == written.layer_groups


def test_qwen_has_a_window_only_from_the_layer_it_names(tmp_path: Path) -> None:
    window = {"sliding_window": 1024, "max_window_layers": 8}
    for used, groups in ((False, {"full": 28}), (True, {"full": 8, "sliding": 20})):
        found = of_shape(tmp_path / str(used), "qwen2.5-7b", use_sliding_window=used, **window)
        assert {group.kind: group.count for group in found.layer_groups or ()} == groups
