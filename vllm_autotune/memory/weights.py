"""What the weights take on one device once vLLM has loaded them."""

from dataclasses import dataclass
from math import ceil

from ..checkpoint.tensors import Weights
from ..units import GIB
from ..vllm.versions import PIXTRAL_SPLITS, RUNNER_V2_DENSE
from .draft_model import draft_setup, own_layers
from .interval import Interval
from .setup import Setup
from .speculation import has_draft

# Bytes per element that online quantization leaves of a linear layer, scales included.
ONLINE: dict[str, Interval] = {
    "fp8": Interval(0.995, 1.015),
    "fp8_per_tensor": Interval(0.995, 1.015),
    "fp8_per_channel": Interval(0.995, 1.015),
    "fp8_per_block": Interval(0.995, 1.015),
    "ptpc_fp8": Interval(0.995, 1.015),
    "mxfp8": Interval(0.99, 1.05),
    "mxfp4": Interval(0.5, 0.6),
    # 4 bits, a 4-byte scale for every 64 weights, and small layers left alone
    "bitsandbytes": Interval(0.5, 0.6),
    "experts_int8": Interval(0.995, 1.015),
    "int8_per_channel_weight_only": Interval(0.995, 1.015),
    "nvfp4_per_token": Interval(0.5, 0.6),
}
# Of these, only experts are shrunk, and plain MLPs that a model makes of a single expert (Jamba).
EXPERTS_ONLY = frozenset({"experts_int8", "int8_per_channel_weight_only", "nvfp4_per_token"})
# What loading takes beyond the tensors, by the allocator's rounding to 2 MiB: none to 5.2 MiB for
# each of four layers in 36 boots, 3.5 for each of 28 (7B, 0.26, H200); of models below 2 GiB up to
# 1.8 %, of a whole 72B on two devices 0.06 GiB each.
LAYER_SLACK, MOST_SLACK, SLACK_SHARE = 5.5 * 2**20, 0.16 * GIB, 0.02
LEAST_SLACK = 4 * 2**20
# What kernels make of packed weights is up to this much larger than what is stored, without the
# padding of experts: blocks of DeepSeek R1 0.3 %, channels of Llama 4 0.9 %, AWQ for Marlin 1.1 %.
REPACKED, REPACKED_4BIT = 1.01, 1.013
FOUR_BITS = frozenset({"awq", "gptq", "awq_marlin", "gptq_marlin", "auto_awq", "auto_gptq"})
# What descriptions leave out or have too much of, where there are no headers.
UNSURE = Interval(0.997, 1.004)
UNSURE_TOWER = Interval(0.95, 1.13)
# Towers made of vLLM's parallel layers, by what config.json calls them; other towers may be whole
# on every device (models/*.py, 0.26 and 0.32).
SPLIT_TOWERS = (
    *("qwen", "siglip", "clip", "intern", "llama4", "kimi", "glm4", "idefics", "smolvlm"),
    *("gemma3", "paligemma", "llava", "whisper"),
)


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a whole model takes once it is loaded, by how it is spread over devices."""

    embedding: Interval
    split: Interval
    experts: Interval
    whole: Interval
    tower: Interval


def weight_bytes(setup: Setup) -> Interval:
    """Return the bytes of the weights on the fullest device."""
    weights = setup.checkpoint.weights
    if weights is None:
        return Interval.unknown()
    found = _spread(setup, _loaded(setup, weights))
    found += _beside_tensors(setup)
    found += _draft_bytes(setup, weights, found) + Interval(0, _lora_bytes(setup))
    slack = min(MOST_SLACK, LAYER_SLACK * setup.checkpoint.layers, SLACK_SHARE * found.high)
    slack += LEAST_SLACK
    if setup.on_cpu:
        # Mapped files count as resident until they are let go.
        return Interval(found.low * 0.9, found.high * 1.35 + slack)
    method = setup.checkpoint.quantization
    usual = REPACKED if method and _padding(setup) == 1 else 1.001
    repacked = REPACKED_4BIT if method in FOUR_BITS else usual
    return _less_offloaded(setup, Interval(found.low * 0.999, found.high * repacked + slack))


def _loaded(setup: Setup, weights: Weights) -> Loaded:
    """Return the parts of the whole model as they are on one device."""
    checkpoint, method = setup.checkpoint, setup.config.quantization
    size, stored = setup.float_bytes, max(1, weights.bytes)
    as_stored = bool(checkpoint.quantization) or not weights.elements
    # Stored scales keep their own type; only a wider --dtype adds to the plain tensors.
    unit = 1.0 if as_stored else (weights.elements * size + weights.packed_bytes) / stored
    unsure = UNSURE if checkpoint.load_format == "none" else Interval.exactly(1)
    embedding = min(weights.embedding * size, unit * weights.bytes)
    whole, experts = unit * weights.whole_bytes, unit * weights.expert_bytes
    tower = unit * weights.tower_bytes
    split = max(0.0, unit * weights.bytes - embedding - whole - experts - tower)
    shrinks = Interval.exactly(1)
    if method is not None and not checkpoint.quantization:
        # What a method that is not listed makes of them is not known.
        each = ONLINE.get(method, Interval(0.25, size))
        shrinks = Interval(each.low / size, each.high / size)
    others = shrinks
    if method in EXPERTS_ONLY:
        mlp = (3 if checkpoint.gated else 2) * checkpoint.hidden_size * checkpoint.intermediate_size
        mlps = min(split, checkpoint.layers * mlp * size)
        others = Interval(1 - mlps / max(1, split) * (1 - shrinks.low), 1)
    padding = _padding(setup)
    spared = Interval(others.low, 1)
    loaded_tower = spared * tower
    if checkpoint.load_format == "none":
        loaded_tower = Interval(
            loaded_tower.low * UNSURE_TOWER.low, loaded_tower.high * UNSURE_TOWER.high
        )
        if checkpoint.multimodal and not tower:
            loaded_tower = Interval(0, 8 * GIB)  # its sizes are not given
    if setup.config.args.get("language-model-only") is True:
        loaded_tower = Interval(0, 0)
    return Loaded(
        embedding=Interval.exactly(embedding),
        split=Interval(split * others.low * unsure.low, split * others.high * unsure.high),
        experts=Interval(
            experts * shrinks.low * unsure.low, experts * shrinks.high * unsure.high * padding
        ),
        whole=spared * whole,
        tower=loaded_tower,
    )


def _spread(setup: Setup, loaded: Loaded) -> Interval:
    """Divide the parts over the devices, and return what the fullest one has."""
    checkpoint, config = setup.checkpoint, setup.config
    tp, ranks, part = config.tensor_parallel, setup.expert_ranks, setup.part
    stage = Interval(float(part), ceil(checkpoint.layers * part) / max(1, checkpoint.layers))
    layers = loaded.split * (1 / tp) + _more_key_heads(setup) + loaded.whole
    experts = loaded.experts * (1 / (tp * ranks))
    if ranks > 1 and not loaded.experts.high:  # then they are among the layers
        layers = Interval(layers.low / ranks, layers.high)
    most = (layers + experts).high * stage.high
    least = (layers + experts).low * stage.low
    ends = loaded.embedding * (1 / tp)
    named = checkpoint.tower_kind
    split = any(kind in named for kind in SPLIT_TOWERS)
    whole = "pixtral" in named and setup.vllm < PIXTRAL_SPLITS
    data = whole or config.text("mm-encoder-tp-mode") == "data"
    tower = Interval(
        loaded.tower.low / (1 if data else tp),
        loaded.tower.high / (tp if split and not data else 1),
    )
    # Of several stages the first has the embedding and the tower, the last has the head.
    if (known := setup.stage) is not None:
        each = float(known.first or known.last)
        if not checkpoint.tied_embeddings:
            each = (known.first + known.last) / 2
        return Interval(least, most) + ends * each + tower * float(known.first)
    alone = part == 1
    return Interval(least + (ends.low + tower.low if alone else 0), most + ends.high + tower.high)


def _more_key_heads(setup: Setup) -> Interval:
    """Return what heads of keys and values take beyond a device's share: each has one at least."""
    checkpoint, tp = setup.checkpoint, setup.config.tensor_parallel
    more = 0.0
    for layers in checkpoint.layer_groups or ():
        if layers.kind not in {"mla", "state"} and 0 < layers.kv_heads < tp:
            heads = 1 - layers.kv_heads / tp
            more += layers.count * heads * (layers.head_dim + layers.value_dim)
    bytes_ = more * checkpoint.hidden_size * setup.float_bytes
    return Interval(
        bytes_ / 4 if checkpoint.quantization or setup.config.quantization else bytes_, bytes_
    )


def _beside_tensors(setup: Setup) -> Interval:
    """Return what is in memory and not in the checkpoint (checkpoint/buffers.py)."""
    buffers, size = setup.checkpoint.buffers, setup.float_bytes
    part = float(setup.part) / setup.config.tensor_parallel
    absorbed = buffers.absorbed * size * part
    # A matrix of 16 bits may only be looked at in another shape.
    packed = bool(setup.checkpoint.quantization or setup.config.quantization)
    values = buffers.values * size * part
    tokens = 0 if setup.config.args.get("language-model-only") is True else setup.tokens
    deepstack = buffers.deepstack * tokens * size
    return Interval(
        buffers.rope * size + (absorbed if packed else 0) + values + deepstack,
        # DeepSeek's own RoPE keeps its table in 32 bits for FlashInfer.
        buffers.rope * (4 if absorbed else size) + absorbed + values + deepstack,
    )


def _all_attention(setup: Setup) -> bool:
    """Tell whether every layer is ordinary attention, whose matrices its heads tell."""
    groups = setup.checkpoint.layer_groups
    return groups is not None and all(ly.kind in {"full", "sliding", "chunked"} for ly in groups)


def _padding(setup: Setup) -> float:
    """Return by how much padding enlarges routed experts at most: 1.0 is none.

    Of mxfp4, Marlin pads the part of an expert on one device to 128 and the hidden size to 256,
    TRTLLM, on the B200, both to 256 (oracle/mxfp4.py, 0.26); Triton on Hopper took as much as
    either in 0.14 (64.4 GiB of GPT-OSS 120B, where 60.8 are stored). FlashInfer pads that part of
    a pair of 8 bits without blocks to 16, of one without a gate to 128 (flashinfer_utils.py, 0.18
    and 0.32), and in NVFP4 to 64 and 128 (flashinfer_fp4_moe.py).
    """
    checkpoint, config = setup.checkpoint, setup.config
    width, hidden = checkpoint.expert_size, checkpoint.hidden_size
    if setup.on_cpu or not width or not checkpoint.experts:
        return 1.0
    if not config.expert_parallel:
        width = ceil(width / (config.tensor_parallel * setup.expert_ranks))
    major = setup.device.capability[0] if setup.device.capability else None
    to_width, to_hidden = 1, 1
    if checkpoint.quantization == "mxfp4":
        to_width, to_hidden = (256 if major in (None, 10) else 128), 256
    elif checkpoint.quantization and major in (None, 9, 10, 12):
        four_bits = checkpoint.quantization in {"modelopt_fp4", "modelopt_mixed"}
        if four_bits:
            to_width = 64 if checkpoint.gated else 128
        elif checkpoint.block == 1:
            to_width = 16 if checkpoint.gated else 128
    padded = ceil(width / to_width) * to_width * ceil(hidden / to_hidden) * to_hidden
    return padded / (width * hidden)


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
    each = ceil(checkpoint.layers * setup.part) * layer + tables
    rank = config.integer("max-loras", 1) * config.integer("max-lora-rank", 16)
    return rank * each * setup.float_bytes


def _draft_bytes(setup: Setup, weights: Weights, model: Interval) -> Interval:
    """Return what drafts beside the model takes; it may share the model's table and head."""
    draft, own = draft_setup(setup), own_layers(setup)
    if draft is not None and draft.checkpoint.weights is not None:
        found = weight_bytes(draft)
        shared = draft.checkpoint.weights.embedding * draft.float_bytes
        return Interval(max(0.0, found.low - shared / draft.config.tensor_parallel), found.high)
    if not has_draft(setup.config):
        return Interval(0, 0)
    if not own:
        return Interval.unknown()
    tp, stored = setup.config.tensor_parallel, weights.draft_bytes
    # Without headers it may be packed like the rest of the model.
    packed = setup.checkpoint.load_format == "none" and setup.checkpoint.quantization
    least = stored * (0.25 if packed else 1) - weights.draft_tables
    if not stored:
        layer = model * (own / max(1, setup.checkpoint.layers))
        return Interval(0.5 * layer.low, 2 * layer.high)
    return Interval(max(0.0, least) / tp, 1.05 * stored / tp)


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
