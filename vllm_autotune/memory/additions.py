"""What a launch puts beside the model's own weights: buffers for LoRA adapters, a draft model."""

import json
import math
from collections.abc import Mapping

from ..checkpoint import Checkpoint
from ..config import LaunchConfig

# Methods that draft from the text alone (config/speculative.py, vLLM 0.26).
NO_DRAFT = frozenset({"ngram", "ngram_gpu", "suffix"})
# vLLM's own spellings of three fields (engine/arg_utils.py, 0.26 and 0.32).
SPELLED = {"method": "spec-method", "model": "spec-model", "num_speculative_tokens": "spec-tokens"}


def lora_bytes(checkpoint: Checkpoint, config: LaunchConfig, size: int) -> float:
    """Return the most that buffers for LoRA adapters take, 0 where none are served.

    For each adapter and each linear layer one matrix of its inputs and one of its outputs, by the
    rank; tensor parallel divides the wide side of each layer only (lora/layers, vLLM 0.26).
    """
    if config.args.get("enable-lora") is not True:
        return 0.0
    tp = config.integer("tensor-parallel-size", 1)
    pp = config.integer("pipeline-parallel-size", 1)
    hidden, matrices = checkpoint.hidden_size, 3 if checkpoint.gated else 2
    heads = 2 * checkpoint.head_dim * (checkpoint.heads + checkpoint.kv_heads)
    wide = heads if is_plain(checkpoint) else max(heads, 16 * hidden)
    layer = 4 * hidden + wide / tp + matrices * (hidden + checkpoint.intermediate_size / tp)
    layer += checkpoint.experts * matrices * (hidden + checkpoint.expert_size / tp)
    tables = 2 * (checkpoint.vocab_size + hidden)
    each = math.ceil(checkpoint.layers / pp) * layer + tables
    return config.integer("max-loras", 1) * config.integer("max-lora-rank", 16) * each * size


def is_plain(checkpoint: Checkpoint) -> bool:
    """Return whether every layer is ordinary attention, whose matrices its heads tell."""
    groups = checkpoint.layer_groups
    return groups is not None and all(ly.kind in {"full", "sliding", "chunked"} for ly in groups)


def speculation(config: LaunchConfig) -> Mapping[str, object]:
    """Return the fields of `--speculative-config`, however spelled; empty where there is none."""
    text = config.text("speculative-config")
    try:
        found = json.loads(text) if text else {}
    except ValueError:
        found = None
    fields = dict(found) if isinstance(found, dict) else {"method": "unknown"}
    for name, value in config.args.items():
        start, dot, field = name.partition(".")
        if start == "speculative-config" and dot:
            fields[field.replace("-", "_")] = value
    spelled = {field: config.args[flag] for field, flag in SPELLED.items() if flag in config.args}
    return {**fields, **spelled}


def has_draft(config: LaunchConfig) -> bool:
    """Return whether something beside the model drafts tokens, with weights and a cache."""
    fields = speculation(config)
    return bool(fields) and NO_DRAFT.isdisjoint({fields.get("method"), fields.get("model")})


def draft_bytes(config: LaunchConfig, weights: float) -> float:
    """Return the most that a draft model takes beside `weights`, 0 where there is none.

    Prediction layers of the model's own (MTP) are fewer than its layers; how large another
    model is cannot be told here.
    """
    if not has_draft(config):
        return 0.0
    fields = speculation(config)
    own = str(fields.get("method")).endswith("mtp") and "model" not in fields
    return weights if own else math.inf


def drafted_tokens(config: LaunchConfig) -> int:
    """Return how many tokens are drafted at once, 0 where that is not said."""
    asked = str(speculation(config).get("num_speculative_tokens", 0))
    return int(asked) if asked.isdigit() else 0
