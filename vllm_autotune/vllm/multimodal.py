"""What a server takes beside text: how many images, videos or sounds a prompt may have."""

import json
from collections.abc import Mapping

from .config import LaunchConfig
from .versions import ONE_ENGINE, Release

LIMITS = "limit-mm-per-prompt"
TEXT_ONLY = "language-model-only"
# How many there may be where nothing is said (config/multimodal.py, 0.11 to 0.32); the first
# engine took one.
USUAL = 999


def limits(config: LaunchConfig) -> Mapping[str, int]:
    """Return the limit of each modality that `--limit-mm-per-prompt` names, however spelled.

    What cannot be read is left out.
    """
    value = config.args.get(LIMITS)
    found: dict[str, object] = {}
    for text in value if isinstance(value, tuple) else [value] if isinstance(value, str) else []:
        try:
            read = json.loads(text)
        except ValueError:  # 0.6.6 to 0.8.5 know image=2,video=1 as well
            read = dict(pair.partition("=")[::2] for pair in text.split(","))
        found |= read if isinstance(read, dict) else {}
    for name, value in config.args.items():
        start, dot, field = name.partition(".")
        if start == LIMITS and dot:
            modality, _, option = field.partition(".")
            found |= {modality: value} if option in ("", "count") else {}
    counted = {
        name: each.get("count", USUAL) if isinstance(each, dict) else each
        for name, each in found.items()
    }
    return {name: int(str(n)) for name, n in counted.items() if str(n).strip().isdigit()}


def most_per_prompt(config: LaunchConfig, modality: str, vllm: Release) -> int:
    """Return how many of a modality (image, video, audio) a prompt may have."""
    if config.args.get(TEXT_ONLY) is True:
        return 0
    return limits(config).get(modality, USUAL if vllm >= ONE_ENGINE else 1)


def limiting_flag(config: LaunchConfig) -> str | None:
    """Return the flag that limits the images of a prompt, None where there is no limit."""
    if config.args.get(TEXT_ONLY) is True:
        return TEXT_ONLY
    return LIMITS if "image" in limits(config) else None
