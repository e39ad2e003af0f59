"""What `--speculative-config` asks for, however it is spelled."""

import json
from collections.abc import Mapping

from ..vllm.config import LaunchConfig
from ..vllm.flags import SPECULATIVE

# Methods that draft from the text alone (config/speculative.py, vLLM 0.26).
NO_DRAFT = frozenset({"ngram", "ngram_gpu", "suffix"})


def speculation(config: LaunchConfig) -> Mapping[str, object]:
    """Return the fields of `--speculative-config`, however spelled; empty where there is none."""
    if not any(name.startswith("spec") for name in config.args):
        return {}
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
    named = {str(fields.get("method")), str(fields.get("model"))}
    return bool(fields) and NO_DRAFT.isdisjoint(named)


def drafts_itself(config: LaunchConfig) -> bool:
    """Tell whether the model's own prediction layers (MTP) draft."""
    fields = speculation(config)
    mtp = str(fields.get("method")).endswith("mtp")
    return mtp and fields.get("model", config.model) == config.model


def drafted_tokens(config: LaunchConfig) -> int:
    """Return the number of tokens drafted at once, 0 where that is not given."""
    asked = str(speculation(config).get("num_speculative_tokens", 0))
    return int(asked) if asked.isdigit() else 0
