"""A small model as files, to be read back whole or broken."""

import json
import struct
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from tests.support.paths import SHAPES
from vllm_autotune.checkpoint import Checkpoint, read_checkpoint
from vllm_autotune.errors import BadModel, BadUsage

SIZES = {"BF16": 2, "F16": 2, "F32": 4, "I32": 4, "F8_E4M3": 1, "U8": 1}
SMALL = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    "vocab_size": 1000,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
QUANTIZED = {**SMALL, "quantization_config": {"quant_method": "awq"}}
Tensors = Mapping[str, tuple[str, list[int]]]
WEIGHTS: Tensors = {
    "model.embed_tokens.weight": ("BF16", [1000, 64]),
    "lm_head.weight": ("BF16", [1000, 64]),
    "model.layers.0.self_attn.q_proj.weight": ("BF16", [64, 64]),
    "model.layers.0.self_attn.q_proj.bias": ("BF16", [64]),
    "model.layers.1.mlp.up_proj.weight": ("BF16", [128, 64]),
    "model.norm.weight": ("BF16", [64]),
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)


def without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in SMALL.items() if name not in names}


def headed(header: object) -> bytes:
    """Return the beginning of a safetensors file."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text


def safetensors(tensors: Tensors) -> bytes:
    header, end = {}, 0
    for name, (dtype, dims) in tensors.items():
        start, end = end, end + SIZES[dtype] * prod(dims)
        header[name] = {"dtype": dtype, "shape": dims, "data_offsets": [start, end]}
    return headed(header) + bytes(end)


def make(folder: Path, config: object = SMALL, tensors: Tensors | None = WEIGHTS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if tensors is not None:
        (folder / "model.safetensors").write_bytes(safetensors(tensors))
    return folder


def of_shape(folder: Path, name: str, **changes: object) -> Checkpoint:
    """Read a published shape without weights; a change to None leaves the field out."""
    config = {**json.loads((SHAPES / f"{name}.json").read_text()), **changes}
    present = {field: value for field, value in config.items() if value is not None}
    return read_checkpoint(str(make(folder, present, None)), weights_required=False)


def refusal_of(model: Path | str, *, weights_required: bool = True) -> str:
    """Read a model, which may be refused but not fail; return the refusal's message, else ""."""
    try:
        read_checkpoint(str(model), weights_required=weights_required)
    except (BadModel, BadUsage) as error:
        refusal = error
    else:
        return ""
    assert refusal.exit_code == (3 if isinstance(refusal, BadModel) else 2)
    for text in (refusal.message, refusal.hint):
        assert text
        assert not text[0].isupper()
        assert not text.endswith(".")
    return refusal.message
