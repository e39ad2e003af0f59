"""What stands before a language model: vision and audio towers, by their `config.json`."""

import math
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import BadModel
from .config_json import Fields, listed, nested, number, read_json

VISION = ("vision_config", "visual", "vision_tower_config", "mm_vision_tower")
# Fields of models that take images, some of which (Phi-3-vision, Chameleon) name no tower.
IMAGES = ("image_token_id", "image_token_index", "img_processor", "vq_config")
PROCESSOR = "preprocessor_config.json"
# Towers whose MLPs have a gate.
GATED = ("qwen2_5_vl", "qwen2_5_omni", "pixtral", "gemma4", "mistral3", "aimv2")
DEPTH = ("depth", "num_hidden_layers", "layers", "n_layers", "vt_num_hidden_layers")
# The first that is given: Qwen2-VL calls the width of the language model `hidden_size`.
WIDTH = ("embed_dim", "hidden_size", "width", "vt_hidden_size")
INNER = ("intermediate_size", "vt_intermediate_size", "mlp_dim")
# Tokens of the largest image of a model that takes any size (Qwen2-VL to Qwen3-VL).
LARGEST_IMAGE = 16384
CONVOLUTION = 3  # taps of each of the two layers before an audio tower
CLIP = 1500  # frames of the 30 seconds that an audio tower hears at once
# How many frames become a token, where `config.json` does not say: Qwen2-Audio averages pairs.
FRAMES = {"qwen2_audio": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tower:
    """A tower: `layers` of this width on patches (or frames), of which `merged` become one token.

    `most` is how many the largest image has, 0 where an image may have any size. `side` is that of
    a patch in pixels, `levels` how many layers of the text model are handed features.
    """

    layers: int
    width: int
    inner: int
    gated: bool
    merged: int
    most: int
    side: int = 0
    levels: int = 1

    @property
    def image_side(self) -> int:
        """Return the pixels to a side of the largest image, 0 where it may have any size."""
        return self.side * math.isqrt(self.most)

    @property
    def most_tokens(self) -> int:
        """Return the tokens of the largest image, by what processors usually allow."""
        return self.most // self.merged or LARGEST_IMAGE


def _outer(config: Fields) -> Fields:
    return nested(config, "thinker_config") or config


def _vision(config: Fields) -> Fields:
    outer = _outer(config)
    return next((found for name in VISION if (found := nested(outer, name))), {})


def _audio(config: Fields) -> Fields:
    whisper = config if config.get("model_type") == "whisper" else {}
    return nested(_outer(config), "audio_config") or whisper


def takes_images(config: Fields, folder: Path) -> bool:
    """Tell whether a model takes images, by its `config.json` and the processor beside it."""
    outer = _outer(config)
    if _vision(config) or any(outer.get(name) is not None for name in IMAGES):
        return True
    processor: object = None
    with suppress(BadModel, OSError):
        processor = read_json(folder / PROCESSOR)[1]
    return isinstance(processor, dict) and "image_processor_type" in processor


def tower_kind(config: Fields) -> str:
    """Return what a model and its vision tower are called."""
    return f"{_outer(config).get('model_type')} {_vision(config).get('model_type')}"


def vision_tower(config: Fields) -> Tower | None:
    """Return the vision tower of a model, None where its sizes are not given."""
    outer, vision, kinds = _outer(config), _vision(config), tower_kind(config)
    layers, width = number(vision, *DEPTH), number(vision, *WIDTH)
    if not layers or not width:
        return None
    ratio = vision.get("mlp_ratio")
    inner = int(width * ratio) if isinstance(ratio, int | float) and ratio > 0 else 4 * width
    kernel = [n for n in listed(vision, "merge_kernel_size") if isinstance(n, int) and n > 0]
    usual = 2 if "qwen" in kinds else number(outer, "scale_factor") or 1  # Idefics 3, SmolVLM
    side = number(vision, "spatial_merge_size") or number(outer, "spatial_merge_size") or usual
    ratio = outer.get("downsample_ratio")  # InternVL
    if isinstance(ratio, float) and 0 < ratio < 1:
        side = round(1 / ratio)
    patch, image = number(vision, "patch_size") or 14, number(vision, "image_size")
    merged = kernel[0] * kernel[-1] if kernel else side**2
    if tokens := number(outer, "mm_tokens_per_image") or 256 * ("gemma3" in kinds):
        merged = max(1, (image // patch) ** 2 // tokens)
    return Tower(
        layers=layers,
        width=width,
        inner=number(vision, *INNER) or inner,
        gated=any(kind in kinds for kind in GATED),
        merged=merged,
        most=0 if "qwen" in kinds or kernel else (image // patch) ** 2,
        side=patch,
        levels=1 + len(listed(vision, "deepstack_visual_indexes")),
    )


def audio_tower(config: Fields) -> Tower | None:
    """Return the audio tower of a model, None where its sizes or its tokens are not given."""
    outer, audio = _outer(config), _audio(config)
    width, layers = number(audio, "d_model", "hidden_size"), number(audio, "encoder_layers")
    usual = FRAMES.get(str(outer.get("model_type")), 0)
    merged = number(outer, "stack_factor", "downsample_factor") or usual
    if not width or not layers or not merged:
        return None
    return Tower(
        layers=layers,
        width=width,
        inner=number(audio, "encoder_ffn_dim") or 4 * width,
        gated=False,
        merged=merged,
        most=number(audio, "max_source_positions") or CLIP,
    )


def tower_elements(config: Fields, text_width: int) -> int:
    """Return the elements of all towers and of what projects them, 0 where they are not known."""
    return _vision_elements(config, text_width) + _audio_elements(config, text_width)


def _vision_elements(config: Fields, text_width: int) -> int:
    tower = vision_tower(config)
    if tower is None:
        return 0
    layer = 4 * tower.width**2 + (3 if tower.gated else 2) * tower.width * tower.inner
    vision = _vision(config)
    frames = number(vision, "temporal_patch_size") or 1
    patches = 3 * frames * tower.side**2 * tower.width
    positions = number(vision, "num_position_embeddings", "pos_embed_size")
    positions = positions or (number(vision, "image_size") // tower.side) ** 2
    # Gemma averages the patches of a token, others join them side by side.
    merged = tower.width * (1 if "gemma" in tower_kind(config) else tower.merged)
    project = merged * text_width + max(text_width, merged) * min(merged, text_width)
    return tower.layers * layer + patches + positions * tower.width + tower.levels * project


def _audio_elements(config: Fields, text_width: int) -> int:
    audio = _audio(config)
    width, layers = number(audio, "d_model", "hidden_size"), number(audio, "encoder_layers")
    if not width or not layers:
        return 0
    inner = number(audio, "encoder_ffn_dim") or 4 * width
    before = CONVOLUTION * width * (width + (number(audio, "num_mel_bins") or 128))
    positions = number(audio, "max_source_positions") or CLIP
    layer = 4 * width**2 + 2 * width * inner
    return layers * layer + before + positions * width + width * text_width
