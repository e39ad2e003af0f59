"""Which modules a quantized checkpoint packs, and into how many bits, from its configuration."""

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

from .config_json import Fields, listed, nested, number

BITS = {"awq": 4, "gptq": 4, "auto_awq": 4, "auto_gptq": 4, "bitsandbytes": 4, "fp8": 8, "mxfp4": 4}
ALGORITHMS = {"NVFP4": 4, "FP8": 8, "MXFP8": 8}
# A part of the model -> what its modules are called, of which one stands for all.
MODULES: dict[str, tuple[str, ...]] = {
    "attention": ("self_attn.q_proj", "self_attn.qkv_proj", "mixer.q_proj"),
    "queries": ("self_attn.q_proj", "self_attn.q_b_proj"),
    "latents": ("self_attn.kv_b_proj",),
    "outputs": ("self_attn.o_proj",),
    "down": ("self_attn.q_a_proj", "self_attn.kv_a_proj_with_mqa"),
    "indexer": ("self_attn.indexer.wq_b",),
    "recurrence": ("linear_attn.out_proj", "mamba.in_proj", "mixer.in_proj", "conv.in_proj"),
    "dense": ("mlp.down_proj", "feed_forward.down_proj", "mixer.down_proj"),
    "shared": ("mlp.shared_expert.down_proj", "mlp.shared_experts.down_proj"),
    "experts": ("mlp.experts.0.down_proj", "mixer.experts.0.down_proj"),
}
HEAD = "lm_head"
IGNORED = ("ignore", "modules_to_not_convert", "exclude_modules", "ignored_layers")


def packed_head_bits(quantization: Fields) -> float:
    """Return the bits of a weight of the output head; 0 as long as nothing names it as packed."""
    groups = [g for g in nested(quantization, "config_groups").values() if isinstance(g, dict)]
    named = (g for g in groups if HEAD in listed(g, "targets"))
    group = next(named, None)
    return _with_scales(nested(group, "weights"), "") if group else 0.0


def packed_bits(quantization: Fields, part: str, layer: int) -> float:
    """Return the bits that a weight of a part takes, its scales included; 0 if it is not packed.

    `layer` is one that has this part.
    """
    modules = [f"layers.{layer}.{module}" for module in MODULES.get(part, ())]
    own = nested(quantization, "quantization")  # in ModelOpt's own file
    ignored = [
        str(n) for fields in (quantization, own) for key in IGNORED for n in listed(fields, key)
    ]
    if not quantization or not modules or _covered(modules, ignored):
        return 0.0
    method = str(quantization.get("quant_method", ""))
    if method == "mxfp4":  # GPT-OSS leaves its attention as it is
        return 4 + 8 / 32 if part == "experts" else 0.0
    groups = [g for g in nested(quantization, "config_groups").values() if isinstance(g, dict)]
    for group in groups:
        targets = [str(target) for target in listed(group, "targets")]
        if "Linear" in targets or _covered(modules, targets):
            return _with_scales(nested(group, "weights"), method)
    if groups:
        return 0.0
    algorithm = str(own.get("quant_algo") or quantization.get("quant_algo") or "")
    bits = number(quantization, "bits", "w_bit", "weight_bits")
    bits = bits or ALGORITHMS.get(algorithm) or BITS.get(method, 8)
    group_size = number(quantization, "group_size") or number(own, "group_size")
    scale = "float" if algorithm else "int"
    return _with_scales({"num_bits": bits, "group_size": group_size, "type": scale}, method)


def _with_scales(weights: Fields, method: str) -> float:
    """Return the bits of a weight with its share of the scale and zero point of its group."""
    bits = number(weights, "num_bits") or 8
    if bits >= 8:
        return bits * 1.001
    if weights.get("type") == "float":  # NVFP4: a scale of 8 bits for 16 weights
        return bits + 8 / (number(weights, "group_size") or 16)
    zero = 0 if weights.get("symmetric") and method == "compressed-tensors" else bits
    return bits + (16 + zero) / (number(weights, "group_size") or 128)


def _covered(modules: Iterable[str], patterns: Iterable[str]) -> bool:
    """Tell whether a pattern names one of the modules, or what it is a part of."""
    return any(_covers(pattern, module) for pattern in patterns for module in modules)


def _covers(pattern: str, module: str) -> bool:
    if pattern.startswith("re:"):
        try:
            return re.match(pattern[3:], f"model.{module}") is not None
        except re.error:
            return False
    _, of_layer, tail = pattern.rpartition("layers.")
    if of_layer:
        own = module.removeprefix("layers.")
        return fnmatchcase(own, tail) or own.startswith(f"{tail.rstrip('*.')}.")
    return f".{pattern.strip('*.')}." in f".{module}."
