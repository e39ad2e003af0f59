"""How large images may be made, and how many tokens the largest one then has."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..checkpoint import Checkpoint
from ..checkpoint.towers import Tower
from ..vllm.config import LaunchConfig

PROCESSOR = "mm-processor-kwargs"
# Tokens of an image of Qwen-VL as its processor may be told, the larger first.
AREAS = (1280, 256)
# Tiles to a side (Idefics 3), and in all (InternVL).
SIDES, TILES = (2, 1), (4, 1)


@dataclass(frozen=True, slots=True)
class ImageSize:
    """A value of `--mm-processor-kwargs`, and the most tokens of an image that it allows."""

    kwargs: str
    tokens: float


def image_sizes(checkpoint: Checkpoint) -> tuple[ImageSize, ...]:
    """Return what images can be made smaller to, the largest first; empty where that is not known.

    Processors differ in what they are told: pixels in all, pixels to a side, or tiles (vLLM 0.32:
    qwen2_vl.py, idefics3.py, internvl.py).
    """
    tower = checkpoint.tower
    if tower is None:
        return ()
    values: tuple[Mapping[str, Any], ...] = ()
    match _told(checkpoint):
        case "max_pixels":
            values = tuple({"max_pixels": tokens * _pixels(tower)} for tokens in AREAS)
        case "longest_edge":
            values = tuple({"size": {"longest_edge": n * tower.image_side}} for n in SIDES)
        case "max_dynamic_patch":
            values = tuple({"max_dynamic_patch": tiles} for tiles in TILES)
    return tuple(ImageSize(json.dumps(value), _tokens(tower, value)) for value in values)


def image_tokens(checkpoint: Checkpoint, config: LaunchConfig) -> float | None:
    """Return the most tokens of an image by `--mm-processor-kwargs`, None if it does not say."""
    tower, text = checkpoint.tower, config.text(PROCESSOR)
    if tower is None or text is None or not _told(checkpoint):
        return None
    try:
        value = json.loads(text)
        return _tokens(tower, value)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _told(checkpoint: Checkpoint) -> str:
    """Return what the processor of a model limits."""
    kinds, tower = checkpoint.tower_kind, checkpoint.tower
    if "qwen" in kinds and "_vl" in kinds:
        return "max_pixels"
    if ("idefics3" in kinds or "smolvlm" in kinds) and tower and tower.image_side:
        return "longest_edge"
    return "max_dynamic_patch" if "internvl_chat" in kinds else ""


def _pixels(tower: Tower) -> int:
    """Return how many pixels become one token."""
    return tower.side**2 * tower.merged


def _tokens(tower: Tower, value: Mapping[str, Any]) -> float:
    """Return the tokens of the largest image. Raises KeyError for what says nothing of it."""
    if "max_pixels" in value:
        return float(value["max_pixels"]) / _pixels(tower)
    tile = tower.most / tower.merged
    if "size" in value:
        tiles = math.ceil(int(value["size"]["longest_edge"]) / tower.image_side) ** 2
    else:
        tiles = int(value["max_dynamic_patch"])
    return tile * (tiles + (tiles > 1))  # several tiles have a picture of the whole beside them
