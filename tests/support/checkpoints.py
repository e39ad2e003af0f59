"""Small checkpoints, sound and broken."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path

from vllm_autotune.checkpoint import read_checkpoint
from vllm_autotune.errors import BadModel

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
Tensors = Mapping[str, tuple[str, list[int]]]
WEIGHTS: Tensors = {
    "model.embed_tokens.weight": ("BF16", [1000, 64]),
    "lm_head.weight": ("BF16", [1000, 64]),
    "model.layers.0.self_attn.q_proj.weight": ("BF16", [64, 64]),
    "model.layers.0.self_attn.q_proj.bias": ("BF16", [64]),
    "model.layers.1.mlp.up_proj.weight": ("BF16", [128, 64]),
    "model.norm.weight": ("BF16", [64]),
}


def write_safetensors(path: Path, tensors: Tensors) -> int:
    header, end = {}, 0
    for name, (dtype, dims) in tensors.items():
        size = SIZES[dtype]
        for dim in dims:
            size *= dim
        header[name] = {"dtype": dtype, "shape": dims, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))
    return end


def make(folder: Path, config: object = None, tensors: Tensors | None = WEIGHTS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(SMALL if config is None else config))
    if tensors is not None:
        write_safetensors(folder / "model.safetensors", tensors)
    return folder


def refused_politely(folder: Path) -> bool:
    """Read a model, which may be refused but not fail; a refusal says what to do."""
    try:
        read_checkpoint(str(folder), weights_required=False)
    except BadModel as refusal:
        return bool(refusal.message and refusal.hint)
    return True
