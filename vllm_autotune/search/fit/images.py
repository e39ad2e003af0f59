"""What helps where memory runs out over images: fewer and no videos, or smaller ones."""

import json
import math

from ...memory.images import PROCESSOR, image_sizes, image_tokens
from ...vllm.config import LaunchConfig
from ...vllm.multimodal import LIMITS
from .situation import Situation

ENOUGH = "no launch ran out of memory over images"
ONE = json.dumps({"image": 1, "video": 0})


def fit_fewer_images(now: Situation, config: LaunchConfig) -> LaunchConfig | str:
    """Allow one image in a prompt, and no video.

    vLLM tries out what has the most tokens, mostly videos, as often as a step has room for, and no
    more often than all sequences together may have it (multimodal/encoder_budget.py, 0.32).
    """
    failed = now.over_images()
    if not failed:
        return ENOUGH
    last = failed[-1]
    seen, sequences = last.readings, now.facts.setup(last.config).sequences
    if seen.modality == "image" and seen.media_items and seen.media_items <= sequences:
        images = f"{seen.media_items} image{'s' if seen.media_items > 1 else ''}"
        return f"a step would have {images} from {sequences} sequences with one image each, too"
    return config.replace({LIMITS: ONE})


def fit_smaller_images(now: Situation, config: LaunchConfig) -> LaunchConfig | str:
    """Make images smaller than those that memory ran out over."""
    failed, checkpoint = now.over_images(), now.facts.checkpoints[config.model]
    if not failed:
        return ENOUGH
    sizes = image_sizes(checkpoint)
    if not sizes:
        return f"how to make images smaller for {checkpoint.architecture} is not known"
    seen, batch = failed[-1].readings, now.facts.setup(config).tokens
    if seen.modality == "image" and (seen.media_tokens or math.inf) <= batch:
        return f"a step of {batch:,} tokens would have more of them"
    tried = [image_tokens(checkpoint, trial.config) or math.inf for trial in failed]
    smaller = next((size for size in sizes if size.tokens < min(tried)), None)
    if smaller is None:
        return "images are already as small as they can be made"
    return config.replace({PROCESSOR: smaller.kwargs})
