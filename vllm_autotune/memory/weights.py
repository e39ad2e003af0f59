"""What the weights take on one device once vLLM has loaded them."""

from math import ceil, prod

from ..checkpoint import DTYPE_BYTES, Checkpoint
from ..config import LaunchConfig
from ..device import Device
from .additions import draft_bytes, is_plain, lora_bytes
from .interval import Interval
from .units import GIB

# Bytes per element that online quantization leaves of a linear layer, scales included.
ONLINE: dict[str, Interval] = {
    "fp8": Interval(0.99, 1.03),
    "fp8_per_tensor": Interval(0.99, 1.03),
    "fp8_per_channel": Interval(0.99, 1.03),
    "fp8_per_block": Interval(0.99, 1.03),
    "ptpc_fp8": Interval(0.99, 1.03),
    "mxfp8": Interval(0.99, 1.05),
    "mxfp4": Interval(0.5, 0.6),
    # 4 bits, a 4-byte scale for every 64 weights, and small layers left alone
    "bitsandbytes": Interval(0.5, 0.6),
    # experts only
    "experts_int8": Interval(0.99, 2.0),
    "int8_per_channel_weight_only": Interval(0.99, 2.0),
    "nvfp4_per_token": Interval(0.5, 2.0),
}
# What loading takes beyond the tensors: 0.06 GiB (72B, one of two devices) to 0.11 GiB (7B on
# one) in vLLM 0.26 on an H200, from the allocator's rounding.
SLACK = 0.16 * GIB
# Model types that vLLM does not serve as float16 (config/model.py, 0.26 and 0.32).
NO_FLOAT16 = frozenset({"gemma2", "gemma3", "gemma3_text", "glm4", "plamo2"})
BFLOAT16 = (8, 0)  # the least capability that has it (platforms/cuda.py, `supported_dtypes`)


def refuses_float16(checkpoint: Checkpoint) -> bool:
    """Return whether vLLM refuses `--dtype float16` for this model."""
    # The outer type counts: Gemma 2 within PaliGemma is served as float16.
    outer = not checkpoint.multimodal or checkpoint.architecture.startswith("Gemma3")
    return outer and checkpoint.model_type in NO_FLOAT16


def float_bytes(
    config: LaunchConfig, checkpoint: Checkpoint | None = None, device: Device | None = None
) -> int:
    """Return the bytes of one float as served: `--dtype auto` turns 32 bits into 16.

    But not where the card has no bfloat16 and the model is not served as float16 (config/model.py,
    `_resolve_auto_dtype`, vLLM 0.26).
    """
    asked = config.text("dtype") or "auto"
    if asked == "auto" and checkpoint and device and device.capability:
        lacks = device.kind == "cuda" and device.capability < BFLOAT16
        return 4 if lacks and refuses_float16(checkpoint) else 2
    return DTYPE_BYTES.get(asked, 2)  # anything else that may be asked for has 16 bits


def weight_bytes(
    checkpoint: Checkpoint,
    config: LaunchConfig,
    device: Device,
    *,
    vllm: tuple[int, ...] | None,
) -> Interval:
    """Return what the weights take on the fullest device."""
    weights = checkpoint.weights
    if weights is None:
        return Interval.unknown()
    size = float_bytes(config, checkpoint, device)
    method = config.text("quantization")
    rest = Interval.exactly((weights.embedding + weights.other) * size)
    if checkpoint.quantization or not weights.elements:
        # Stored scales keep their own type; only a wider --dtype adds to the plain tensors.
        padding = weights.packed_bytes * (_padded(checkpoint, config, device) - 1)
        rest, linear = Interval(0, 0), Interval(weights.bytes, weights.bytes + padding)
    elif method is None:
        linear = Interval.exactly((weights.linear + weights.tower) * size + weights.packed_bytes)
    elif method in ONLINE:
        each = ONLINE[method]
        linear = weights.linear * each + weights.tower * Interval(each.low, size)
    else:
        # What this method makes of them is not known.
        linear = Interval(weights.linear * 0.25, (weights.linear + weights.tower) * size)
    whole = rest + linear
    if checkpoint.multimodal and checkpoint.load_format == "none":
        whole += Interval(0, 8 * GIB)  # the vision or audio tower is not counted
    shared = min(weights.embedding * size, whole.high)
    whole = _dealt(checkpoint, config, whole, shared + (weights.other + weights.tower) * size, size)
    spread = _spread(checkpoint, config, whole, shared)
    added = lora_bytes(checkpoint, config, size) + draft_bytes(config, spread.high)
    spread += Interval(0, added)
    if device.kind == "cpu":
        # Mapped files count as resident until they are let go.
        return Interval(spread.low * 0.9, spread.high * 1.35 + SLACK)
    return _offloaded(config, spread, vllm)


def expert_ranks(checkpoint: Checkpoint, config: LaunchConfig) -> int:
    """Return how many groups of tensor parallel devices share the experts out, 1 for a dense model.

    With expert parallel or without (fused_moe/config.py, `flatten_tp_across_dp_and_pcp`, 0.26).
    """
    ways = ("data-parallel-size", "prefill-context-parallel-size")
    return prod(config.integer(way, 1) for way in ways) if checkpoint.experts else 1


def _dealt(
    checkpoint: Checkpoint, config: LaunchConfig, whole: Interval, beside: float, size: int
) -> Interval:
    """Take away the experts that other data parallel devices hold.

    `beside` is what is no linear layer of the text model. At most the experts are what their sizes
    say, at least what attention and plain layers of 16 bits leave of the whole.
    """
    ranks = expert_ranks(checkpoint, config)
    if ranks == 1:
        return whole
    hidden, matrices = checkpoint.hidden_size, 3 if checkpoint.gated else 2
    attention = 2 * hidden * checkpoint.head_dim * (checkpoint.heads + checkpoint.kv_heads)
    if not is_plain(checkpoint):
        attention = max(attention, 8 * hidden**2)
    plain = attention + matrices * hidden * checkpoint.intermediate_size
    experts = checkpoint.experts * matrices * hidden * checkpoint.expert_size
    most = min(whole.low, checkpoint.layers * experts * size)
    least = min(most, max(0.0, whole.low - beside - checkpoint.layers * plain * size))
    elsewhere = 1 - 1 / ranks
    return Interval(whole.low - most * elsewhere, whole.high - least * elsewhere)


def _padded(checkpoint: Checkpoint, config: LaunchConfig, device: Device) -> float:
    """Return what experts of 4 bits (mxfp4) take at most once padded, over what is stored.

    Triton, on Hopper, pads the part of an expert on one device to 64, Marlin to 128 and the hidden
    size to 256, TRTLLM, on the B200, both to 256 (oracle/mxfp4.py, vLLM 0.26).
    """
    width, hidden = checkpoint.expert_size, checkpoint.hidden_size
    if checkpoint.quantization != "mxfp4" or device.kind == "cpu" or not width:
        return 1.0
    if config.args.get("enable-expert-parallel") is not True:
        tp = config.integer("tensor-parallel-size", 1)
        width = ceil(width / (tp * expert_ranks(checkpoint, config)))
    # LoRA, or a choice of the user's, brings other kernels than Triton.
    usual = not {"enable-lora", "moe-backend"} & config.args.keys()
    major = device.capability[0] if device.capability else None
    if major == 9 and usual:
        to_width, to_hidden = 64, 1
    else:
        to_width, to_hidden = (256 if major in (None, 10) else 128), 256
    wide, high = _round_up(width, to_width), _round_up(hidden, to_hidden)
    return wide * high / (width * hidden)


def _round_up(number: int, step: int) -> int:
    return ceil(number / step) * step


def _spread(
    checkpoint: Checkpoint, config: LaunchConfig, whole: Interval, shared: float
) -> Interval:
    """Divide over tensor and pipeline parallel devices; `shared` is embeddings and head."""
    tp = config.integer("tensor-parallel-size", 1)
    pp = config.integer("pipeline-parallel-size", 1)
    stage = ceil(checkpoint.layers / pp) / max(1, checkpoint.layers)
    # Norms, routers and key heads beyond their number are on every device.
    copies = 1 + 0.01 * (tp > 1)
    if 0 < checkpoint.kv_heads < tp:
        head = 2 * checkpoint.head_dim / max(1, 4 * checkpoint.hidden_size)
        copies += head * (tp - checkpoint.kv_heads)
    high = whole.high / tp if pp == 1 else ((whole.high - shared) * stage + shared) / tp
    return Interval(whole.low / (tp * pp) * 0.995, high * copies * 1.003 + SLACK)


def _offloaded(config: LaunchConfig, weights: Interval, vllm: tuple[int, ...] | None) -> Interval:
    gib = config.number("cpu-offload-gb") or 0.0
    if config.number("offload-group-size"):
        return Interval(0, weights.high)  # how much it moves to the host is not known
    if not gib:
        return weights
    # Whole tensors move until the amount is reached, so one may go beyond it.
    low = max(0.0, weights.low - (gib + 1.0) * GIB)
    high = max(0.0, weights.high - gib * GIB) + 0.3 * GIB
    if config.env.get("VLLM_USE_V2_MODEL_RUNNER") != "0" and (vllm is None or vllm >= (0, 26)):
        return Interval(low, weights.high)  # Model Runner V2 may ignore it
    return Interval(low, min(weights.high, high))
