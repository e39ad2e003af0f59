"""What the weights take on one device once vLLM has loaded them."""

from math import ceil

from ..checkpoint import Checkpoint
from ..config import LaunchConfig
from ..device import Device
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
# Bytes of one float; anything else `--dtype` may say is 16 bits.
DTYPES = {"float16": 2, "half": 2, "bfloat16": 2, "float32": 4, "float": 4}


def float_bytes(config: LaunchConfig) -> int:
    """Return the bytes of one float as served: `--dtype auto` turns 32 bits into 16."""
    return DTYPES.get(config.text("dtype") or "auto", 2)


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
    size = float_bytes(config)
    method = config.text("quantization")
    rest = Interval.exactly((weights.embedding + weights.other) * size)
    if checkpoint.quantization or not weights.elements:
        # Stored scales keep their own type; only a wider --dtype adds to the plain tensors.
        rest, linear = Interval(0, 0), Interval.exactly(weights.bytes)
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
    spread = _spread(checkpoint, config, whole, shared)
    if device.kind == "cpu":
        # Mapped files count as resident until they are let go.
        return Interval(spread.low * 0.9, spread.high * 1.35 + SLACK)
    return _offloaded(config, spread, vllm)


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
