"""What drafts tokens beside the model: MTP layers of its own, or another model."""

import json
import math
from collections.abc import Mapping

from ..vllm.config import LaunchConfig
from ..vllm.flags import SPECULATIVE

# Methods that draft from the text alone (config/speculative.py, vLLM 0.26).
NO_DRAFT = frozenset({"ngram", "ngram_gpu", "suffix"})


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
    given = {field: config.args[flag] for field, flag in SPECULATIVE.items() if flag in config.args}
    return {**fields, **given}


def has_draft(config: LaunchConfig) -> bool:
    """Tell whether something beside the model drafts tokens, with weights and a cache."""
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
    """Return the number of tokens drafted at once, 0 where that is not given."""
    asked = str(speculation(config).get("num_speculative_tokens", 0))
    return int(asked) if asked.isdigit() else 0
