"""The bytes that a launch needs on each device, part by part."""

import math
from dataclasses import dataclass
from functools import lru_cache

from ..checkpoint.layers import LayerGroup
from ..units import GIB
from ..vllm.versions import HYBRID_KV_CACHE, NULL_BLOCK
from .draft_model import draft_setup, own_layers
from .interval import Interval
from .kv import CacheGroup, KVCache, state_bytes, token_bytes
from .overhead import activation_bytes, beyond_share_bytes, graph_bytes, non_torch_bytes
from .setup import Setup
from .speculation import drafted_tokens, has_draft
from .weights import weight_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """What a launch needs on each device, in bytes.

    `graphs_charged` says whether vLLM takes the CUDA graphs out of the budget before it sizes
    the KV cache; None where that depends on what is not known here. `kv_fixed` is the KV cache
    asked for in bytes, whatever the rest takes. `beyond_share` is what it takes in the end on top
    of the budget. Graphs are captured for `states` sequences at once, each with a recurrent state.
    """

    weights: Interval
    activations: Interval
    graphs: Interval
    non_torch: Interval
    cache: KVCache
    graphs_charged: bool | None = None
    kv_fixed: int | None = None
    beyond_share: float = 0.0
    states: int = 0

    @property
    def beside(self) -> Interval:
        """What vLLM sets aside beside the weights and the KV cache."""
        low = 0.0 if not self.graphs_charged else self.graphs.low
        high = 0.0 if self.graphs_charged is False else self.graphs.high
        return self.activations + self.non_torch + Interval(low, high)

    @property
    def overhead(self) -> Interval:
        """What vLLM takes out of the budget before it sizes the KV cache."""
        return self.weights + self.beside

    def kv_available(self, budget_bytes: float) -> Interval:
        """Return the bytes a budget leaves for the KV cache; negative where it is too small."""
        if self.kv_fixed is not None:
            return Interval.exactly(self.kv_fixed)
        return budget_bytes - self.overhead

    def kv_bytes(self, length: int, sequences: int = 1) -> Interval:
        """Return the KV cache that this many sequences of this length need."""
        return self.cache.bytes(length, sequences)

    def kv_needed(self, length: int, sequences: int = 1) -> Interval:
        """Return the KV cache without which vLLM does not start, or not serve these sequences."""
        needed, states = self.kv_bytes(length, sequences), self.cache.state_block * self.states
        return Interval(max(needed.low, states.low), max(needed.high, states.high))


@lru_cache(maxsize=4096)
def estimate(setup: Setup) -> Footprint:
    """Estimate what a launch needs on each of its devices: once for each, a search asks often."""
    activations, graphs = activation_bytes(setup), graph_bytes(setup)
    return Footprint(
        weights=weight_bytes(setup),
        activations=activations,
        graphs=graphs,
        non_torch=non_torch_bytes(setup),
        cache=_cache(setup),
        graphs_charged=setup.graphs_charged,
        beyond_share=beyond_share_bytes(setup, activations.middle, graphs.middle),
        kv_fixed=_kv_fixed(setup),
        states=setup.sequences if setup.captures_states else 0,
    )


def _kv_fixed(setup: Setup) -> int | None:
    asked = setup.config.integer("kv-cache-memory-bytes", 0)
    space = setup.config.env.get("VLLM_CPU_KVCACHE_SPACE", "")
    if not asked and setup.on_cpu and space.isdigit():
        asked = int(space) * GIB
    return asked or None


def _cache(setup: Setup) -> KVCache:
    groups, in_flight = _groups(setup), setup.tokens
    draft = draft_setup(setup)
    if draft is not None and groups is not None:
        drafted = _groups(draft)
        groups = None if drafted is None else groups + drafted
    return KVCache(
        groups=groups,
        block=_block(setup),
        in_flight=Interval(in_flight, in_flight * (setup.config.pipeline_parallel + 1)),
        null=Interval.exactly(setup.vllm >= NULL_BLOCK),
        all_tokens=_all_tokens(setup),
    )


def _block(setup: Setup) -> Interval:
    """Return the tokens of a block, which the attention backend has a say in.

    By default 16 on a GPU and 128 on a CPU. All take 16 but some for MLA: up to 128 on Hopper (9.x)
    and the B200 (10.x), and for sparse MLA anywhere (`get_supported_kernel_block_sizes`,
    v1/attention/backends/mla, 0.26 and 0.32).
    """
    size = setup.config.integer("block-size", 128 if setup.on_cpu else 16)
    latent = [layers for layers in setup.checkpoint.layer_groups or () if layers.kind == "mla"]
    if not latent:
        return Interval.exactly(size)
    if setup.on_cpu:
        return Interval.exactly(16)
    capability = setup.device.capability
    several = capability is None or capability[0] in (9, 10)
    sparse = any(layers.extra_bytes for layers in latent)
    return Interval(size, max(size, 128) if several or sparse else size)


def _all_tokens(setup: Setup) -> Interval:
    args = setup.config.args
    if args.get("disable-hybrid-kv-cache-manager") is True:
        return Interval.exactly(1)
    chunked = any(layers.kind == "chunked" for layers in setup.checkpoint.layer_groups or ())
    connector = "kv-transfer-config" in args or "kv-offloading-size" in args
    return Interval(0, chunked or connector or setup.vllm < HYBRID_KV_CACHE)


def _groups(setup: Setup) -> tuple[CacheGroup, ...] | None:
    groups = setup.checkpoint.layer_groups
    return None if groups is None else tuple(_group(layers, setup) for layers in groups)


def _group(layers: LayerGroup, setup: Setup) -> CacheGroup:
    config, checkpoint, size = setup.config, setup.checkpoint, setup.float_bytes
    tp, held = config.tensor_parallel, layers.count * setup.part
    most = math.ceil(held)
    least = most if len(checkpoint.layer_groups or ()) == 1 else max(1, math.floor(held))
    token, dtype = Interval(0, 0), config.kv_cache_dtype
    if layers.kind != "state":
        token = token_bytes(layers, tp=tp, size=size, dtype=dtype, stored=checkpoint.kv_quantized)
        if "kv-cache-dtype-skip-layers" in config.args:
            whole = token_bytes(layers, tp=tp, size=size, dtype="auto", stored=False)
            token = Interval(token.low, max(token.high, whole.high))
    wide: bool | None = config.text("mamba-ssm-cache-dtype") == "float32"
    if setup.on_cpu and not wide:
        wide = None  # the CPU backend widens the states of some kernels (platforms/cpu.py)
    # Over these a sequence's tokens are dealt: those of decode context parallel (0.26 and 0.32), in
    # some earlier versions those of prefill context parallel, too (`max_memory_usage_bytes` in
    # v1/kv_cache_interface.py).
    decode = config.integer("decode-context-parallel-size", 1)
    prefill = config.integer("prefill-context-parallel-size", 1)
    # The model's own prediction layers attend to all tokens, as its last layer does.
    own = own_layers(setup) if layers.kind in {"full", "mla"} else 0
    unread = has_draft(config) and draft_setup(setup) is None and not own_layers(setup)
    # A draft model that could not be read keeps no more than the model it drafts for.
    count = Interval(least + own, most * (1 + unread) + own)
    drafted = drafted_tokens(config)
    return CacheGroup(
        kind=layers.kind,
        layers=count,
        token=token,
        window=layers.window,
        state=state_bytes(layers, tp=tp, size=size, wide=wide, drafted=drafted),
        ranks=Interval(decode, decode * prefill),
        drafted=drafted,
    )
