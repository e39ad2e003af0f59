"""What drafts tokens beside the model: MTP layers of its own, or another model."""

import json
from collections.abc import Mapping
from dataclasses import replace

from ..vllm.config import LaunchConfig
from ..vllm.flags import SPECULATIVE
from .setup import Setup

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


def drafts_itself(config: LaunchConfig) -> bool:
    """Tell whether the model's own prediction layers (MTP) draft."""
    fields = speculation(config)
    return str(fields.get("method")).endswith("mtp") and "model" not in fields


def own_layers(setup: Setup) -> int:
    """Return how many prediction layers of the model's own draft."""
    return setup.checkpoint.prediction_layers if drafts_itself(setup.config) else 0


def draft_setup(setup: Setup) -> Setup | None:
    """Return the draft model as one served alone, None where there is none, or none was read."""
    if setup.draft is None or not has_draft(setup.config) or drafts_itself(setup.config):
        return None
    tp = speculation(setup.config).get("draft_tensor_parallel_size")
    size = str(tp) if tp else setup.config.tensor_parallel
    kept = {n: v for n, v in setup.config.args.items() if n in ("dtype", "kv-cache-dtype")}
    args = {**kept, "tensor-parallel-size": size}
    return replace(setup, checkpoint=setup.draft, config=LaunchConfig("", args), draft=None)


def drafted_tokens(config: LaunchConfig) -> int:
    """Return the number of tokens drafted at once, 0 where that is not given."""
    asked = str(speculation(config).get("num_speculative_tokens", 0))
    return int(asked) if asked.isdigit() else 0
