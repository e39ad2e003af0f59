"""What vLLM keeps beside the tensors of a checkpoint: tables, and products of weights."""

import re
from dataclasses import dataclass

from .config_json import Fields, Sizes, listed, nested, number
from .layers import LayerGroup

# Kinds of RoPE whose table is longer than `max_position_embeddings` by their factor.
LENGTHENING = {"linear", "dynamic", "yarn", "deepseek_yarn", "deepseek_llama_scaling"}
# Vision models whose towers hand features to several layers of the text model.
DEEPSTACK = ("deepstack_visual_indexes", "deepstack_layer_num")
MROPE = re.compile(r"qwen.*(vl|omni)")
MROPE_POSITIONS = 4  # how much longer the table of M-RoPE is (rotary_embedding/mrope.py, 0.32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Buffers:
    """What vLLM allocates beside the tensors of a checkpoint, in elements.

    `rope` are tables of sines and cosines, one for each distinct RoPE, whole on every device
    (rotary_embedding/base.py). `absorbed` are the products W_UK and W_UV of latent attention,
    which stay beside the matrix they come from where that is quantized (mla_attention.py), and
    `values` the V of layers that share K's matrix: both are split over tensor parallel devices.
    `deepstack` is for each token of a step. Sources are vLLM 0.26 and 0.32.
    """

    rope: int = 0
    absorbed: int = 0
    values: int = 0
    deepstack: int = 0


NO_BUFFERS = Buffers()


def buffers_of(
    config: Fields, text: Fields, sizes: Sizes, groups: tuple[LayerGroup, ...] | None
) -> Buffers:
    """Return the buffers of a model; `text` are the fields of its language model."""
    kinds = {group.kind: group for group in groups or ()}
    shared = kinds.get("full") if text.get("attention_k_eq_v") else None
    latent = kinds.get("mla")
    heads = number(text, "qk_nope_head_dim") + number(text, "v_head_dim")
    vision = nested(config, "vision_config")
    levels = max(len(listed(vision, DEEPSTACK[0])), number(vision, *DEEPSTACK))
    return Buffers(
        rope=_rope_elements(text, sizes) if set(kinds) - {"state"} else 0,
        absorbed=latent.count * sizes.heads * heads * number(text, "kv_lora_rank") if latent else 0,
        values=shared.count * shared.kv_heads * shared.value_dim * sizes.hidden if shared else 0,
        deepstack=levels * sizes.hidden,
    )


def _rope_elements(text: Fields, sizes: Sizes) -> int:
    positions = number(text, "max_position_embeddings")
    ropes = nested(text, "rope_parameters") or nested(text, "rope_scaling")
    distinct = {kind: rope for kind, rope in ropes.items() if isinstance(rope, dict)}
    if not distinct:
        distinct = {"": ropes}
        if str(text.get("model_type")).startswith("gemma3"):  # sliding layers have one of their own
            distinct["sliding_attention"] = {}
    total = 0
    for kind, rope in distinct.items():
        dim = number(text, "qk_rope_head_dim") or sizes.head_dim
        if kind == "full_attention":
            dim = number(text, "global_head_dim") or dim
        share = rope.get("partial_rotary_factor", text.get("partial_rotary_factor"))
        if rope.get("rope_type") == "proportional":  # Gemma 4 fills up the rest with zeros
            share = 1.0
        rotary = number(text, "rotary_dim") or int(dim * (_fraction(share) or 1.0))
        sections = bool(listed(rope, "mrope_section")) or MROPE.search(str(text.get("model_type")))
        total += rotary * _positions(rope, positions, sections=bool(sections))
    return total


def _positions(rope: Fields, positions: int, *, sections: bool) -> int:
    name = str(rope.get("rope_type") or rope.get("type"))
    original = number(rope, "original_max_position_embeddings") if "yarn" in name else 0
    factor = (_fraction(rope.get("factor")) or 1.0) if name in LENGTHENING else 1.0
    longest = int((original or positions) * factor)
    return longest * (MROPE_POSITIONS if sections else 1)


def _fraction(value: object) -> float:
    return float(value) if isinstance(value, int | float) and 0 < value < 2**31 else 0.0
