"""The fields of a `config.json`, by every name they go by."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import lcm
from pathlib import Path
from typing import Any

from ..errors import BadModel
from ..files import read_bytes
from .refusals import Incomplete, unreadable

# Fields by every name they go by in vLLM's model_arch_config_convertor.py.
# Of an encoder and a decoder the decoder counts: it keeps the KV cache.
LAYERS = ("decoder_layers", "num_hidden_layers", "n_layer", "n_layers", "num_layers")
# A list with an entry for each layer, where their number is not given.
LAYER_LISTS = ("layers_block_type", "layer_types", "hybrid_override_pattern")
HIDDEN = ("hidden_size", "n_embd", "d_model")
HEADS = ("decoder_attention_heads", "num_attention_heads", "n_head", "n_heads")
PREDICTION_LAYERS = ("mtp_num_hidden_layers", "num_nextn_predict_layers", "mtp_num_layers")
LENGTHS = (
    *("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "model_max_length"),
    *("max_target_positions", "max_sequence_length", "max_seq_length", "seq_len"),
)
TEXT = ("text_config", "llm_config", "language_config")
UNSCALED = ("su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling")
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
# fmt: off
LLAMA = {
    "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
    "intermediate_size": 11008, "vocab_size": 32000, "max_position_embeddings": 2048,
}
NESTED: dict[str, dict[str, int]] = {
    "llama": LLAMA,
    "mistral": {**LLAMA, "intermediate_size": 14336, "num_key_value_heads": 8},
    "gemma3_text": {
        "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
        "vocab_size": 262208, "max_position_embeddings": 131072,
    },
}
# fmt: on
Fields = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """The numbers that every transformer has: of layers, heads and tokens, and two widths."""

    layers: int
    hidden: int
    heads: int
    head_dim: int
    vocab: int


def number(config: Fields, *names: str) -> int:
    """Return the first of these fields that is a positive number, 0 if none is."""
    for name in names:
        value = config.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 2**62:
            return int(value)
    return 0


def nested(config: object, name: str) -> dict[str, Any]:
    """Return the JSON object in a field, empty if it is something else."""
    value = config.get(name) if isinstance(config, Mapping) else None
    return value if isinstance(value, dict) else {}


def listed(config: Fields, name: str) -> list[Any]:
    value = config.get(name)
    return value if isinstance(value, list) else []


def read_config(folder: Path) -> tuple[bytes, dict[str, Any]]:
    """Return a folder's `config.json` as written and parsed. Raises BadModel if it is broken.

    What vLLM reads from files beside it (0.26, transformers_utils/config.py) is part of both:
    ModelOpt's quantization, and under its file's name the modules of Sentence Transformers.
    """
    path, quantization, modules = (folder / name for name in ("config.json", *BESIDE))
    if not path.is_file():
        hint = "pass the folder that holds config.json and the weights"
        raise Incomplete(f"{folder} has no config.json", hint)
    text, config = _read_object(path)
    if config.get("quantization_config") is None and quantization.is_file():
        more, config["quantization_config"] = _read_object(quantization)
        text += more
    if modules.is_file():
        more, config[MODULES] = read_json(modules)
        text += more
    return text, config


def read_json(path: Path) -> tuple[bytes, Any]:
    """Return a file's bytes and the JSON in them. Raises BadModel if it cannot be read."""
    try:
        text = read_bytes(path)
        return text, json.loads(text)
    except OSError as error:
        raise unreadable(path, error) from error
    except (ValueError, RecursionError) as error:
        again = f"copy or download {path.name} again"
        raise BadModel(f"{path} is not valid JSON: {error}", again) from error


def _read_object(path: Path) -> tuple[bytes, dict[str, Any]]:
    text, fields = read_json(path)
    if not isinstance(fields, dict):
        reason = f"{path} must hold a JSON object, not {type(fields).__name__}"
        raise BadModel(reason, f"copy or download {path.name} again")
    return text, fields


def text_part(config: Fields) -> dict[str, Any]:
    """Return the fields of the language model: nested ones take precedence over outer ones."""
    outer = nested(config, "thinker_config") or config
    for name in TEXT:
        if isinstance(outer.get(name), dict):
            inner = nested(outer, name)
            return {**NESTED.get(str(inner.get("model_type")), {}), **outer, **inner}
    return dict(outer)


def quantization_of(config: Fields, text: Fields) -> dict[str, Any]:
    names = ("quantization_config", "compression_config")
    found = (nested(part, name) for part in (config, text) for name in names)
    return next(filter(None, found), {})


def method_of(quantization: Fields) -> str | None:
    """Return vLLM's name of the quantization method, None if there is none."""
    if not quantization:
        return None
    named = str(quantization.get("quant_method") or "").lower().replace("_tensors", "-tensors")
    own = quantization.get("quantization")  # in ModelOpt's own file
    if not named and isinstance(own, dict):
        named = "modelopt_fp4" if own.get("quant_algo") == "NVFP4" else "modelopt"
    return named or "unknown"


def has_quantized_kv(quantization: Fields) -> bool:
    parts = (quantization, nested(quantization, "quantization"))
    names = ("kv_cache_scheme", "kv_cache_quant_algo")
    return any(part.get(name) for part in parts for name in names)


def block_of(quantization: Fields) -> int:
    """Return the side of the blocks of 8-bit weights that share a scale, 1 without such blocks."""
    weights = [nested(group, "weights") for group in nested(quantization, "config_groups").values()]
    blocks = [listed(quantization, "weight_block_size")]
    blocks += [listed(some, "block_structure") for some in weights]
    return lcm(*(side for block in blocks for side in block if isinstance(side, int) and side > 0))


def has_pooling(config: Fields) -> bool:
    """Return whether a pooling module of Sentence Transformers follows the model."""
    return any(isinstance(m, dict) and m.get("type") in POOLING for m in listed(config, MODULES))


def derive_context(text: Fields) -> tuple[int, int]:
    """Return the longest context in tokens, and the default one (vLLM 0.32, config/model.py).

    Older vLLM also multiplies YaRN's factor, and so accepts more than this.
    """
    lengths = [length for name in LENGTHS if (length := number(text, name))]
    longest = number(text, "model_max_length") or min(lengths, default=0)
    if not longest:
        return 2048, 2048
    ropes = nested(text, "rope_parameters") or nested(text, "rope_scaling")
    factor, default = 1.0, 0
    for rope in [rope for rope in ropes.values() if isinstance(rope, dict)] or [ropes]:
        kind = rope.get("rope_type") or rope.get("type")
        if kind == "longrope":
            default = number(text, "original_max_position_embeddings")
        if kind and kind not in UNSCALED and "gemma3" not in str(text.get("model_type")):
            factor = float(rope["factor"]) if number(rope, "factor") else factor
    longest = int(longest * factor)
    return longest, default or longest


def require(text: Fields, folder: Path) -> None:
    """Raise BadModel if fields of a language model are missing, and name them."""
    needed = {"hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "vocab_size": ("vocab_size",)}
    if str(text.get("model_type")) not in STATE_ONLY:
        needed["num_attention_heads"] = HEADS
    missing = [name for name, spellings in needed.items() if not number(text, *spellings)]
    layers = count_layers(text)
    if layers and "num_hidden_layers" in missing:
        missing.remove("num_hidden_layers")
    if not text.get("model_type") and not text.get("architectures"):
        missing.insert(0, "model_type")
    if layers > MOST_LAYERS:
        hint = "no model has that many: copy or download it again"
        raise BadModel(f"{folder} claims to have {layers:,} layers", hint)
    if missing:
        reason = f"{folder / 'config.json'} lacks {', '.join(missing)}"
        raise BadModel(reason, "pass a language model in the transformers format")


def sizes_of(part: Fields) -> Sizes:
    """Return the sizes of a text model, 0 for what its configuration leaves out."""
    hidden, heads = number(part, *HIDDEN), number(part, *HEADS)
    head_dim = number(part, "head_dim", "hidden_size_per_head", "attention_head_dim")
    head_dim = head_dim or (hidden // heads if heads else 0)
    layers, vocab = count_layers(part), number(part, "vocab_size")
    return Sizes(layers=layers, hidden=hidden, heads=heads, head_dim=head_dim, vocab=vocab)


def count_layers(text: Fields) -> int:
    """Return the number of layers, that of the entries of a list of them if it is not given."""
    written = (text.get(name) for name in LAYER_LISTS)
    lengths = (len(value) for value in written if isinstance(value, list | str))
    return number(text, *LAYERS) or next(lengths, 0)
