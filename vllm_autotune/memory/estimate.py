"""How many bytes a launch needs on each device: intervals, wide where little is known.

The high end of an interval proves that something fits, the low end that it cannot.
"""

import math

from ..checkpoint import Checkpoint
from ..checkpoint.layers import LayerGroup
from ..config import LaunchConfig
from ..device import Device
from .additions import has_draft
from .footprint import Footprint
from .interval import Interval
from .kv import Cache, Group, state_bytes, token_bytes
from .overhead import (
    Version,
    activation_bytes,
    batch_defaults,
    beyond_share_bytes,
    graph_bytes,
    graphs_charged,
    non_torch_bytes,
)
from .units import GIB
from .weights import expert_ranks, float_bytes, weight_bytes


def footprint(
    checkpoint: Checkpoint,
    config: LaunchConfig,
    device: Device,
    *,
    vllm: Version | None = None,
    prompt_logprobs: bool = False,
) -> Footprint:
    """Estimate what a launch needs on each of its devices, if need be for prompt_logprobs too."""
    tp = config.integer("tensor-parallel-size", 1)
    pp = config.integer("pipeline-parallel-size", 1)
    tokens, seqs = batch_defaults(device, config, vllm)
    tokens = config.integer("max-num-batched-tokens", tokens)
    seqs = min(config.integer("max-num-seqs", seqs), tokens)
    graphs = Interval(0, 0)
    if device.kind != "cpu":
        graphs = graph_bytes(checkpoint, config, device, seqs, vllm=vllm)
    activations = activation_bytes(checkpoint, config, device, tokens, seqs, vllm=vllm)
    return Footprint(
        weights=weight_bytes(checkpoint, config, device, vllm=vllm),
        activations=activations,
        graphs=graphs,
        non_torch=non_torch_bytes(device, tp * pp * expert_ranks(checkpoint, config)),
        cache=_cache(checkpoint, config, device, vllm=vllm, in_flight=tokens),
        context=checkpoint.context,
        graphs_charged=graphs_charged(checkpoint, config, vllm),
        beyond_share=beyond_share_bytes(
            checkpoint,
            config,
            device,
            seqs,
            activations=activations.middle,
            graphs=graphs.middle,
            prompt_logprobs=tokens if prompt_logprobs else 0,
            vllm=vllm,
        ),
        kv_fixed=_kv_fixed(config, device),
    )


def _kv_fixed(config: LaunchConfig, device: Device) -> int | None:
    asked = config.integer("kv-cache-memory-bytes", 0)
    space = config.env.get("VLLM_CPU_KVCACHE_SPACE", "")
    if not asked and device.kind == "cpu" and space.isdigit():
        asked = int(space) * GIB
    return asked or None


def _cache(
    checkpoint: Checkpoint,
    config: LaunchConfig,
    device: Device,
    *,
    vllm: Version | None,
    in_flight: int,
) -> Cache:
    pp = config.integer("pipeline-parallel-size", 1)
    groups: tuple[Group, ...] | None = None
    if checkpoint.layer_groups is not None:
        alone = len(checkpoint.layer_groups) == 1
        groups = tuple(
            _group(layers, checkpoint, config, device, alone=alone)
            for layers in checkpoint.layer_groups
        )
    return Cache(
        groups=groups,
        block=_block(checkpoint, config, device),
        in_flight=Interval(in_flight, in_flight * (pp + 1)),
        null=Interval(vllm is not None and vllm >= (0, 30), vllm is None or vllm >= (0, 30)),
        all_tokens=_all_tokens(checkpoint, config, vllm),
    )


def block_size(device: Device, config: LaunchConfig) -> int:
    """Return the tokens of a KV cache block, by default 16 on a GPU and 128 on a CPU."""
    return config.integer("block-size", 128 if device.kind == "cpu" else 16)


def _block(checkpoint: Checkpoint, config: LaunchConfig, device: Device) -> Interval:
    """Return the tokens of a block, which the attention backend has a say in.

    All take 16 but some for MLA: up to 128 on Hopper (9.x) and the B200 (10.x), and for sparse MLA
    anywhere (`get_supported_kernel_block_sizes`, v1/attention/backends/mla, 0.26 and 0.32).
    """
    size = block_size(device, config)
    latent = [layers for layers in checkpoint.layer_groups or () if layers.kind == "mla"]
    if not latent:
        return Interval.exactly(size)
    if device.kind == "cpu":
        return Interval.exactly(16)
    several = device.capability is None or device.capability[0] in (9, 10)
    sparse = any(layers.extra_bytes for layers in latent)
    return Interval(size, max(size, 128) if several or sparse else size)


def _all_tokens(checkpoint: Checkpoint, config: LaunchConfig, vllm: Version | None) -> Interval:
    if config.args.get("disable-hybrid-kv-cache-manager") is True:
        return Interval(1, 1)
    chunked = any(layers.kind == "chunked" for layers in checkpoint.layer_groups or ())
    connector = "kv-transfer-config" in config.args or "kv-offloading-size" in config.args
    return Interval(0, chunked or connector or vllm is None or vllm < (0, 11))


def _group(
    layers: LayerGroup, checkpoint: Checkpoint, config: LaunchConfig, device: Device, *, alone: bool
) -> Group:
    tp = config.integer("tensor-parallel-size", 1)
    pp = config.integer("pipeline-parallel-size", 1)
    size = float_bytes(config, checkpoint, device)
    most = math.ceil(layers.count / pp)
    dtype = config.text("kv-cache-dtype") or "auto"
    token = Interval(0, 0)
    if layers.kind != "state":
        token = token_bytes(layers, tp=tp, size=size, dtype=dtype, stored=checkpoint.kv_quantized)
        if "kv-cache-dtype-skip-layers" in config.args:
            whole = token_bytes(layers, tp=tp, size=size, dtype="auto", stored=False)
            token = Interval(token.low, max(token.high, whole.high))
    wide: bool | None = config.text("mamba-ssm-cache-dtype") == "float32"
    if device.kind == "cpu" and not wide:
        wide = None  # the CPU backend widens the states of some kernels (platforms/cpu.py)
    return Group(
        kind=layers.kind,
        # A draft keeps no more than the model it drafts for.
        layers=Interval(
            most if alone else max(1, layers.count // pp), most * (1 + has_draft(config))
        ),
        token=token,
        window=layers.window,
        state=state_bytes(layers, tp=tp, size=size, wide=wide),
        ranks=_ranks(config),
    )


def _ranks(config: LaunchConfig) -> Interval:
    """Return over how many devices a sequence's tokens are dealt.

    `max_memory_usage_bytes` in v1/kv_cache_interface.py: those of decode context parallel (0.26
    and 0.32), in some earlier versions those of prefill context parallel too.
    """
    decode = config.integer("decode-context-parallel-size", 1)
    return Interval(decode, decode * config.integer("prefill-context-parallel-size", 1))
