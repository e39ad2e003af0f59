"""The fields of a `config.json`, by every name they go by."""

import json
from collections.abc import Mapping
from math import lcm
from pathlib import Path
from typing import Any

from ..errors import BadModel
from .layers import Sizes, number
from .tensors import Incomplete, unreadable

# Fields by every name they go by in vLLM's model_arch_config_convertor.py.
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
HIDDEN = ("hidden_size", "n_embd", "d_model")
HEADS = ("num_attention_heads", "n_head", "n_heads")
LENGTHS = (
    *("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "model_max_length"),
    *("max_target_positions", "max_sequence_length", "max_seq_length", "seq_len"),
)
TEXT = ("text_config", "llm_config", "language_config")
UNSCALED = {"su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling"}
# Files that are part of config.json: ModelOpt's up to 0.29, and Sentence Transformers'.
QUANTIZATION, MODULES = "hf_quant_config.json", "modules.json"
BESIDE = (QUANTIZATION, MODULES)
# vLLM 0.32, transformers_utils/config.py; 0.26 knows the first alone.
POOLING = (
    "sentence_transformers.models.Pooling",
    "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
)
MOST_LAYERS = 10_000
STATE_ONLY = {"mamba", "mamba2", "falcon_mamba"}
# What a nested text_config may leave out, because transformers' class has it as its default.
LLAMA = {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "intermediate_size": 11008,
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
}
NESTED: dict[str, dict[str, int]] = {
    "llama": LLAMA,
    "mistral": {**LLAMA, "intermediate_size": 14336, "num_key_value_heads": 8},
    "gemma3_text": {
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "vocab_size": 262208,
        "max_position_embeddings": 131072,
    },
}


def read_config(folder: Path) -> tuple[bytes, dict[str, Any]]:
    """Return a folder's `config.json` as written and parsed.

    What vLLM reads from files beside it (0.26, transformers_utils/config.py) is part of both:
    ModelOpt's quantization, and under its file's name the modules of Sentence Transformers.

    Raises BadModel where it is missing, unreadable or no JSON object.
    """
    path, beside, modules = (folder / name for name in ("config.json", *BESIDE))
    if not path.is_file():
        raise Incomplete(
            f"{folder} has no config.json",
            "pass the folder that holds config.json and the weights",
        )
    text, config = _read_object(path)
    if config.get("quantization_config") is None and beside.is_file():
        more, config["quantization_config"] = _read_object(beside)
        text += more
    if modules.is_file():
        more, config[MODULES] = _read_json(modules)
        text += more
    return text, config


def _read_json(path: Path) -> tuple[bytes, Any]:
    try:
        text = path.read_bytes()
        return text, json.loads(text)
    except OSError as error:
        raise unreadable(path, error) from error
    except (ValueError, RecursionError) as error:
        raise BadModel(
            f"{path} is not valid JSON: {error}", f"copy or download {path.name} again"
        ) from error


def _read_object(path: Path) -> tuple[bytes, dict[str, Any]]:
    text, fields = _read_json(path)
    if not isinstance(fields, dict):
        raise BadModel(
            f"{path} must hold a JSON object, not {type(fields).__name__}",
            f"copy or download {path.name} again",
        )
    return text, fields


def text_part(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of the language model: the nested ones over those around them."""
    thinker = config.get("thinker_config")
    outer = thinker if isinstance(thinker, dict) else config
    for name in TEXT:
        nested = outer.get(name)
        if isinstance(nested, dict):
            defaults = NESTED.get(str(nested.get("model_type")), {})
            return {**defaults, **outer, **nested}
    return dict(outer)


def quantization_of(config: Mapping[str, Any], text: Mapping[str, Any]) -> dict[str, Any]:
    """Return how the checkpoint says it is quantized, empty where it is not."""
    for part in (config, text):
        for name in ("quantization_config", "compression_config"):
            found = part.get(name)
            if isinstance(found, dict) and found:
                return found
    return {}


def method_of(quantization: Mapping[str, Any]) -> str | None:
    """Return the name vLLM knows the quantization by."""
    if not quantization:
        return None
    named = str(quantization.get("quant_method") or "").lower().replace("_tensors", "-tensors")
    inner = quantization.get("quantization")
    if not named and isinstance(inner, dict):  # ModelOpt's own file
        named = "modelopt_fp4" if inner.get("quant_algo") == "NVFP4" else "modelopt"
    return named or "unknown"


def has_quantized_kv(quantization: Mapping[str, Any]) -> bool:
    """Return whether the checkpoint asks for a quantized KV cache."""
    inner = quantization.get("quantization")
    parts = (quantization, inner) if isinstance(inner, dict) else (quantization,)
    names = ("kv_cache_scheme", "kv_cache_quant_algo")
    return any(part.get(name) for part in parts for name in names)


def block_of(quantization: Mapping[str, Any]) -> int:
    """Return the side of the blocks of 8-bit weights that share a scale, 1 without such blocks."""
    groups = quantization.get("config_groups")
    groups = list(groups.values()) if isinstance(groups, dict) else []
    weights = [group.get("weights") for group in groups if isinstance(group, dict)]
    blocks = [quantization.get("weight_block_size")]
    blocks += [some.get("block_structure") for some in weights if isinstance(some, dict)]
    sides = [side for block in blocks if isinstance(block, list) for side in block]
    return lcm(*(side for side in sides if isinstance(side, int) and side > 0))


def has_pooling(config: Mapping[str, Any]) -> bool:
    """Return whether Sentence Transformers pool what the model makes of a text."""
    modules = config.get(MODULES)
    modules = modules if isinstance(modules, list) else []
    return any(isinstance(module, dict) and module.get("type") in POOLING for module in modules)


def derive_context(text: Mapping[str, Any]) -> tuple[int, int]:
    """Return the longest context in tokens, and the default one (vLLM 0.32, config/model.py).

    Older vLLM also multiplies YaRN's factor, and so accepts more than this.
    """
    lengths = [number(text, name) for name in LENGTHS if number(text, name)]
    longest = number(text, "model_max_length") or min(lengths, default=0)
    if not longest:
        return 2048, 2048
    ropes = text.get("rope_parameters") or text.get("rope_scaling")
    ropes = ropes if isinstance(ropes, dict) else {}
    nested = [rope for rope in ropes.values() if isinstance(rope, dict)]
    factor, default = 1.0, 0
    for rope in nested or [ropes]:
        kind = rope.get("rope_type") or rope.get("type")
        if kind == "longrope":
            default = number(text, "original_max_position_embeddings")
        if kind and kind not in UNSCALED and "gemma3" not in str(text.get("model_type")):
            factor = float(rope["factor"]) if number(rope, "factor") else factor
    longest = int(longest * factor)
    return longest, default or longest


def require(text: Mapping[str, Any], folder: Path) -> None:
    """Raise BadModel, naming the fields, where those of a language model are missing."""
    needed = {"hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "vocab_size": ("vocab_size",)}
    if str(text.get("model_type")) not in STATE_ONLY:
        needed["num_attention_heads"] = HEADS
    missing = [name for name, spellings in needed.items() if not number(text, *spellings)]
    if not text.get("model_type") and not text.get("architectures"):
        missing.insert(0, "model_type")
    if number(text, *LAYERS) > MOST_LAYERS:
        raise BadModel(
            f"{folder} claims to have {number(text, *LAYERS):,} layers",
            "no model has that many: copy or download it again",
        )
    if missing:
        raise BadModel(
            f"{folder / 'config.json'} lacks {', '.join(missing)}",
            "pass a language model in the transformers format",
        )


def sizes_of(part: Mapping[str, Any]) -> Sizes:
    """Return the sizes of a text model, 0 for what its configuration leaves out."""
    hidden, heads = number(part, *HIDDEN), number(part, *HEADS)
    head_dim = number(part, "head_dim", "hidden_size_per_head", "attention_head_dim")
    return Sizes(
        layers=number(part, *LAYERS),
        hidden=hidden,
        heads=heads,
        head_dim=head_dim or (hidden // heads if heads else 0),
        vocab=number(part, "vocab_size"),
    )
