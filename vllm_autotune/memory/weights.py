"""What the weights take on one device once vLLM has loaded them."""

from math import ceil

from ..units import GIB
from ..vllm.versions import RUNNER_V2_DENSE
from .draft_model import draft_bytes
from .interval import Interval
from .setup import Setup

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


def weight_bytes(setup: Setup) -> Interval:
    """Return the bytes of the weights on the fullest device."""
    checkpoint, config, weights = setup.checkpoint, setup.config, setup.checkpoint.weights
    if weights is None:
        return Interval.unknown()
    size, method = setup.float_bytes, config.quantization
    rest = Interval.exactly((weights.embedding + weights.other) * size)
    if checkpoint.quantization or not weights.elements:
        # Stored scales keep their own type; only a wider --dtype adds to the plain tensors.
        padding = weights.packed_bytes * (_padding(setup) - 1)
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
    beside = shared + (weights.other + weights.tower) * size
    whole = _without_experts_elsewhere(setup, whole, beside)
    split = _split(setup, whole, shared)
    split += Interval(0, _lora_bytes(setup) + draft_bytes(config, split.high))
    if setup.on_cpu:
        # Mapped files count as resident until they are let go.
        return Interval(split.low * 0.9, split.high * 1.35 + SLACK)
    return _less_offloaded(setup, split)


def _without_experts_elsewhere(setup: Setup, whole: Interval, beside: float) -> Interval:
    """Take away the experts that other data parallel devices hold.

    `beside` is what is no linear layer of the text model. At most the experts are what their sizes
    say, at least what attention and plain layers of 16 bits leave of the whole.
    """
    checkpoint, ranks, size = setup.checkpoint, setup.expert_ranks, setup.float_bytes
    if ranks == 1:
        return whole
    hidden, matrices = checkpoint.hidden_size, 3 if checkpoint.gated else 2
    attention = 2 * hidden * checkpoint.head_dim * (checkpoint.heads + checkpoint.kv_heads)
    if not _all_attention(setup):
        attention = max(attention, 8 * hidden**2)
    plain = attention + matrices * hidden * checkpoint.intermediate_size
    experts = checkpoint.experts * matrices * hidden * checkpoint.expert_size
    most = min(whole.low, checkpoint.layers * experts * size)
    least = min(most, max(0.0, whole.low - beside - checkpoint.layers * plain * size))
    elsewhere = 1 - 1 / ranks
    return Interval(whole.low - most * elsewhere, whole.high - least * elsewhere)


def _all_attention(setup: Setup) -> bool:
    """Tell whether every layer is ordinary attention, whose matrices its heads tell."""
    groups = setup.checkpoint.layer_groups
    return groups is not None and all(ly.kind in {"full", "sliding", "chunked"} for ly in groups)


def _padding(setup: Setup) -> float:
    """Return by how much padding enlarges experts of 4 bits (mxfp4) at most: 1.0 is none.

    Triton, on Hopper, pads the part of an expert on one device to 64, Marlin to 128 and the hidden
    size to 256, TRTLLM, on the B200, both to 256 (oracle/mxfp4.py, vLLM 0.26).
    """
    checkpoint, config = setup.checkpoint, setup.config
    width, hidden = checkpoint.expert_size, checkpoint.hidden_size
    if checkpoint.quantization != "mxfp4" or setup.on_cpu or not width:
        return 1.0
    if not config.expert_parallel:
        width = ceil(width / (config.tensor_parallel * setup.expert_ranks))
    # LoRA, or a choice of the user's, brings other kernels than Triton.
    usual = not {"enable-lora", "moe-backend"} & config.args.keys()
    major = setup.device.capability[0] if setup.device.capability else None
    if major == 9 and usual:
        to_width, to_hidden = 64, 1
    else:
        to_width, to_hidden = (256 if major in (None, 10) else 128), 256
    padded = ceil(width / to_width) * to_width * ceil(hidden / to_hidden) * to_hidden
    return padded / (width * hidden)


def _split(setup: Setup, whole: Interval, shared: float) -> Interval:
    """Divide over tensor and pipeline parallel devices; `shared` is embeddings and head."""
    checkpoint = setup.checkpoint
    tp, pp = setup.config.tensor_parallel, setup.config.pipeline_parallel
    stage = ceil(checkpoint.layers / pp) / max(1, checkpoint.layers)
    # Norms, routers and key heads beyond their number are on every device.
    copies = 1 + 0.01 * (tp > 1)
    if 0 < checkpoint.kv_heads < tp:
        head = 2 * checkpoint.head_dim / max(1, 4 * checkpoint.hidden_size)
        copies += head * (tp - checkpoint.kv_heads)
    high = whole.high / tp if pp == 1 else ((whole.high - shared) * stage + shared) / tp
    return Interval(whole.low / (tp * pp) * 0.995, high * copies * 1.003 + SLACK)


def _lora_bytes(setup: Setup) -> float:
    """Return the most that buffers for LoRA adapters take, 0 where none are served.

    For each adapter and each linear layer one matrix of its inputs and one of its outputs, by the
    rank; tensor parallel divides the wide side of each layer only (lora/layers, vLLM 0.26).
    """
    checkpoint, config = setup.checkpoint, setup.config
    if config.args.get("enable-lora") is not True:
        return 0.0
    tp, hidden = config.tensor_parallel, checkpoint.hidden_size
    matrices = 3 if checkpoint.gated else 2
    heads = 2 * checkpoint.head_dim * (checkpoint.heads + checkpoint.kv_heads)
    wide = heads if _all_attention(setup) else max(heads, 16 * hidden)
    layer = 4 * hidden + wide / tp + matrices * (hidden + checkpoint.intermediate_size / tp)
    layer += checkpoint.experts * matrices * (hidden + checkpoint.expert_size / tp)
    tables = 2 * (checkpoint.vocab_size + hidden)
    each = ceil(checkpoint.layers / config.pipeline_parallel) * layer + tables
    rank = config.integer("max-loras", 1) * config.integer("max-lora-rank", 16)
    return rank * each * setup.float_bytes


def _less_offloaded(setup: Setup, weights: Interval) -> Interval:
    config, gib = setup.config, setup.config.cpu_offload_gib
    if config.number("offload-group-size"):
        return Interval(0, weights.high)  # how much it moves to the host is not known
    if not gib:
        return weights
    # Whole tensors move until the amount is reached, so one may go beyond it.
    low = max(0.0, weights.low - (gib + 1.0) * GIB)
    high = max(0.0, weights.high - gib * GIB) + 0.3 * GIB
    if config.env.get("VLLM_USE_V2_MODEL_RUNNER") != "0" and setup.vllm >= RUNNER_V2_DENSE:
        return Interval(low, weights.high)  # Model Runner V2 may ignore it
    return Interval(low, min(weights.high, high))
