"""The fields of a config.json, by every name and in every state they come in."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.small_model import JSON, SMALL, make, refusal_of, without
from vllm_autotune.checkpoint import read_checkpoint
from vllm_autotune.errors import BadModel


@pytest.mark.parametrize(
    ("algorithm", "kv_cache", "method"),
    [("FP8", "FP8", "modelopt"), ("NVFP4", None, "modelopt_fp4")],
)
def test_modelopts_own_file_says_how_a_checkpoint_is_quantized(
    tmp_path: Path, algorithm: str, kv_cache: str | None, method: str
) -> None:
    plain = read_checkpoint(str(make(tmp_path)))
    words = {"quant_algo": algorithm, "kv_cache_quant_algo": kv_cache}
    said = {"producer": {"name": "modelopt", "version": "0.29.0"}, "quantization": words}
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(said))
    found = read_checkpoint(str(tmp_path))
    assert (plain.quantization, found.quantization) == (None, method)
    assert found.kv_quantized == bool(kv_cache)
    assert found.digest != plain.digest
    (tmp_path / "hf_quant_config.json").write_text("{")
    with pytest.raises(BadModel, match=r"hf_quant_config\.json is not valid JSON") as refusal:
        read_checkpoint(str(tmp_path))
    assert refusal.value.hint == "copy or download hf_quant_config.json again"


@pytest.mark.parametrize(
    ("quantization", "block"),
    [
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, 128),
        ({"quant_method": "fp8", "weight_block_size": [128, 64]}, 128),
        ({"quant_method": "fp8"}, 1),
        ({"quant_method": "awq", "group_size": 128}, 1),
        ({"config_groups": {"a": {"weights": {"block_structure": [128, 128]}}}}, 128),
        ({"config_groups": {"a": {"weights": {"block_structure": None}}}}, 1),
        (None, 1),
    ],
)
def test_the_blocks_that_share_a_scale_are_read(
    tmp_path: Path, quantization: object, block: int
) -> None:
    found = read_checkpoint(str(make(tmp_path, {**SMALL, "quantization_config": quantization})))
    assert found.block == block


@pytest.mark.parametrize(
    ("modules", "pooled"),
    [
        ([{"type": "sentence_transformers.models.Transformer"}], False),
        ([{"type": "x"}, {"type": "sentence_transformers.models.Pooling"}], True),
        (
            [{"type": "sentence_transformers.sentence_transformer.modules.pooling.Pooling"}],
            True,
        ),
        ({"type": "sentence_transformers.models.Pooling"}, False),
    ],
)
def test_a_pooling_module_of_sentence_transformers_is_noted(
    tmp_path: Path, modules: object, pooled: bool
) -> None:
    plain = read_checkpoint(str(make(tmp_path)))
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    assert (plain.pooled, read_checkpoint(str(tmp_path)).pooled) == (False, pooled)


def test_a_nested_text_config_goes_before_what_is_around_it(tmp_path: Path) -> None:
    nested = {"model_type": "wrapped", "vocab_size": 5, "text_config": SMALL}
    found = read_checkpoint(str(make(tmp_path, nested)))
    assert (found.model_type, found.vocab_size, found.kv_heads) == ("qwen2", 1000, 2)


@pytest.mark.parametrize(
    ("rope", "expected"),
    [
        ({"type": "linear", "factor": 4.0}, 131072),
        ({"rope_type": "dynamic", "factor": 2.0}, 65536),
        ({"rope_type": "yarn", "factor": 4.0}, 32768),
        ({"rope_type": "llama3", "factor": 8.0}, 32768),
        ({"rope_type": "linear", "factor": None}, 32768),
        ({"full_attention": {"rope_type": "linear", "factor": 2}}, 65536),
        (None, 32768),
    ],
)
def test_the_context_is_scaled_as_vllm_scales_it(
    tmp_path: Path, rope: object, expected: int
) -> None:
    assert read_checkpoint(str(make(tmp_path, {**SMALL, "rope_scaling": rope}))).context == expected


def test_of_several_lengths_the_shortest_is_the_context(tmp_path: Path) -> None:
    assert read_checkpoint(str(make(tmp_path, {**SMALL, "seq_length": 8192}))).context == 8192


BROKEN = {
    b'{"hidden_size": 64,': "is not valid JSON",
    b"\xff\xfe\x00\x01": "is not valid JSON",
    b"[1]": "must hold a JSON object, not list",
    b"{}": "lacks model_type, hidden_size, num_hidden_layers",
    json.dumps(without("num_attention_heads")).encode(): "lacks num_attention_heads",
    json.dumps({**SMALL, "hidden_size": "x"}).encode(): "lacks hidden_size",
    json.dumps({**SMALL, "num_hidden_layers": 4_000_000_000}).encode(): "4,000,000,000 layers",
}


@pytest.mark.parametrize("content", BROKEN)
def test_a_broken_config_is_refused(tmp_path: Path, content: bytes) -> None:
    (make(tmp_path) / "config.json").write_bytes(content)
    assert BROKEN[content] in refusal_of(tmp_path)


def test_a_model_without_a_config_is_refused(tmp_path: Path) -> None:
    (make(tmp_path) / "config.json").unlink()
    assert "has no config.json" in refusal_of(tmp_path)


FIELDS = (
    *(*SMALL, "rope_scaling", "text_config", "sliding_window", "layer_types", "kv_lora_rank"),
    *("quantization_config", "attn_layer_offset", "attn_config", "ffn_config", "mlp_only_layers"),
    *("attn_layer_indices", "num_experts"),
)
KNOWN_TYPES = ("qwen2", "gemma3_text", "jamba", "deepseek_v3", "nemotron_h", "bamba", "qwen3_next")


@settings(max_examples=300, deadline=None)
@given(
    changes=st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4),
    model_type=st.sampled_from(KNOWN_TYPES),
)
def test_no_config_ever_ends_in_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, changes: dict[str, Any], model_type: str
) -> None:
    config = {**SMALL, "model_type": model_type, **changes}
    refusal_of(make(tmp_path_factory.getbasetemp() / "any", config), weights_required=False)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_experts": 4, "mlp_only_layers": 3},
        {"model_type": "bamba", "attn_layer_indices": "x"},
        {"rope_scaling": {"type": ["linear"], "factor": 2}},
        {"quantization_config": {"config_groups": {"a": {"weights": "x"}}}},
    ],
)
def test_a_field_of_a_wrong_type_is_as_if_absent(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert not refusal_of(make(tmp_path, {**SMALL, **changes}, None), weights_required=False)
