"""What a GPU can do in vLLM, by its NVIDIA compute capability: quantization, KV cache, attention.

Pure tables, with their sources. What the installed vLLM's own files say comes first; the tables
stand in for files that cannot be read, and add what those files leave to the kernels.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from .versions import FLASHINFER_FP8, Release

Capability = tuple[int, int]
Span = tuple[Capability, Capability]  # with both ends
# The least that a version and those after it ask for, oldest version first.
Since = tuple[tuple[Release, Capability], ...]

GENERATIONS: Mapping[Capability, str] = {
    (6, 0): "Pascal and newer",
    (7, 0): "Volta and newer",
    (7, 5): "Turing and newer",
    (8, 0): "Ampere and newer",
    (8, 9): "Ada, Hopper and newer",
    (9, 0): "Hopper and newer",
    (10, 0): "Blackwell",
}

# `get_min_capability()` in model_executor/layers/quantization/ of vLLM 0.6.6, 0.11, 0.20, 0.26
# and 0.32. fp8 is weight-only (Marlin) below 8.9.
MINIMUM: Mapping[str, Since] = {
    "fp8": (((0, 6), (8, 0)), ((0, 20), (7, 5))),
    "fbgemm_fp8": (((0, 6), (8, 0)),),
    "bitsandbytes": (((0, 6), (7, 0)),),
    "awq": (((0, 6), (7, 5)),),
    "awq_marlin": (((0, 6), (8, 0)), ((0, 20), (7, 5))),
    "auto_awq": (((0, 26), (7, 5)),),
    "gptq": (((0, 6), (6, 0)),),
    "gptq_marlin": (((0, 6), (8, 0)), ((0, 20), (7, 5))),
    "auto_gptq": (((0, 26), (6, 0)),),
    "compressed-tensors": (((0, 6), (7, 0)),),
    "experts_int8": (((0, 6), (8, 0)),),
    "modelopt_fp4": (((0, 26), (7, 5)),),
    "mxfp4": (((0, 11), (8, 0)),),
    "fp8_per_tensor": (((0, 20), (7, 5)),),
    "fp8_per_channel": (((0, 26), (7, 5)),),
    "fp8_per_block": (((0, 20), (7, 5)),),
    "fp_quant": (((0, 14), (10, 0)),),
}

# Where the kernels need more than `get_min_capability()` says. GPTQ runs on Marlin alone since
# auto_gptq.py (0.26: `verify_marlin_supported`, utils/marlin_utils.py: none below 7.5); of
# compressed-tensors' schemes, W4A16 and weight-only fp8 ask for 7.5 (schemes/, 0.26 and 0.32).
KERNELS: Mapping[str, Since] = {
    "gptq": (((0, 26), (7, 5)),),
    "gptq_marlin": (((0, 26), (7, 5)),),
    "auto_gptq": (((0, 26), (7, 5)),),
    "compressed-tensors": (((0, 6), (7, 5)),),
}

# One name for checkpoints of several kinds, each with a minimum of its own.
SEVERAL = frozenset({"modelopt", "quark", "online", "torchao", "inc", "mxfp8"})


@dataclass(frozen=True, slots=True)
class Backend:
    """An attention backend: where it runs, reads an 8-bit KV cache, and knows attention sinks.

    It is None where it never does. `heads` are the head sizes it takes, empty for any.
    """

    name: str
    runs: Span
    fp8: Span | None
    sinks: Span | None = None
    heads: frozenset[int] = frozenset()
    flashinfer: bool = False  # comes with the package `flashinfer`

    def serves(
        self, capability: Capability, head_size: int | None, *, fp8: bool, sinks: bool
    ) -> bool:
        """Tell whether it runs there with all that is asked for."""
        spans = [self.runs, *([self.fp8] if fp8 else ()), *([self.sinks] if sinks else ())]
        takes = not (head_size and self.heads) or head_size in self.heads
        return takes and all(ends and ends[0] <= capability <= ends[1] for ends in spans)


ANY: Span = ((7, 0), (99, 9))
SINCE_AMPERE: Span = ((8, 0), (99, 9))
AMPERE_TO_RTX_50: Span = ((8, 0), (12, 1))
SINCE_ADA: Span = ((8, 9), (99, 9))
HOPPER: Span = ((9, 0), (9, 9))
HOPPER_OR_B200: Span = ((9, 0), (10, 9))
B200: Span = ((10, 0), (10, 9))
FLASHINFER_HEADS = frozenset({64, 128, 256, 512})

# v1/attention/backends/*.py, `supports_compute_capability` and the KV cache dtypes of each, in
# the order of `_get_backend_priorities` (platforms/cuda.py), 0.26 and 0.32. FlashAttention reads
# 8 bits as version 3 only (Hopper); Triton needs the type fp8e4nv (8.9); FlashInfer converts
# itself, measured on an A100 (vLLM PR 24577). Sinks (GPT-OSS) are for FlashAttention 3 and 4, and
# for FlashInfer on 10.x (0.32 also decodes with them on 9.0 and 12.x).
DENSE = (
    Backend("FLASH_ATTN", SINCE_AMPERE, fp8=HOPPER, sinks=HOPPER_OR_B200),
    Backend(
        "FLASHINFER", AMPERE_TO_RTX_50, AMPERE_TO_RTX_50, B200, FLASHINFER_HEADS, flashinfer=True
    ),
    Backend("TRITON_ATTN", ANY, fp8=SINCE_ADA, sinks=ANY),
    Backend("FLEX_ATTENTION", ANY, fp8=None),
)
LATENT = (
    Backend("FLASHINFER_MLA", B200, fp8=B200, flashinfer=True),
    Backend("CUTLASS_MLA", B200, fp8=B200),
    Backend("FLASH_ATTN_MLA", HOPPER, fp8=None),
    Backend("FLASHMLA", HOPPER_OR_B200, fp8=HOPPER_OR_B200),
    Backend("TRITON_MLA", ANY, fp8=SINCE_ADA),
)


def attention_backends(
    capability: Capability,
    *,
    mla: bool = False,
    flashinfer: bool = True,
    fp8: bool = False,
    head_size: int | None = None,
    sinks: bool = False,
) -> tuple[str, ...]:
    """Return the backends vLLM may choose from, the one it prefers first.

    `mla` asks for multi-head latent attention, `fp8` for an 8-bit KV cache, `sinks` for attention
    sinks; a `head_size` of None may be any.
    """
    found = [
        backend.name
        for backend in (LATENT if mla else DENSE)
        if backend.serves(capability, head_size, fp8=fp8, sinks=sinks)
        and (flashinfer or not backend.flashinfer)
    ]
    if capability[0] == 10:  # FlashInfer leads on B200
        found.sort(key=lambda name: not name.startswith("FLASHINFER"))
    return tuple(found)


def least_for_method(method: str, release: Release, own: Capability | None) -> Capability | None:
    """Return the least capability a method runs on, None if unknown; `own` is vLLM's own answer."""
    if method in SEVERAL:
        return None
    asked = (own or _since(MINIMUM, method, release), _since(KERNELS, method, release))
    return max(filter(None, asked), default=None)


def least_for_kv_cache(
    dtype: str,
    release: Release,
    *,
    mla: bool = False,
    flashinfer: bool = False,
    head_size: int | None = None,
    sinks: bool = False,
) -> Capability | None:
    """Return the least capability whose attention reads this KV cache, None if it is not known.

    Heads of this size and attention `sinks` leave out the backends that lack them.
    """
    if not dtype.startswith("fp8"):
        return None
    useful, size = flashinfer and release >= FLASHINFER_FP8, None if mla else head_size
    return next(
        capability
        for capability in GENERATIONS
        if attention_backends(
            capability, mla=mla, flashinfer=useful, fp8=True, head_size=size, sinks=sinks
        )
    )


def shortage(what: str, least: Capability | None, card: str, has: Capability | None) -> str | None:
    """Say why a card cannot do something, None if it can or nothing is known against it."""
    if least is None or has is None or has >= least:
        return None
    generation = GENERATIONS.get(least)
    named = f"{dotted(least)} ({generation})" if generation else dotted(least)
    return f"{what} needs compute capability {named}; {card} has {dotted(has)}"


def dotted(capability: Capability) -> str:
    return f"{capability[0]}.{capability[1]}"


def _since(table: Mapping[str, Since], method: str, release: Release) -> Capability | None:
    known = [least for since, least in table.get(method, ()) if release >= since]
    return known[-1] if known else None
