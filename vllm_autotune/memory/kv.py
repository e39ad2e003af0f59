"""What a sequence keeps in the KV cache of one device.

The formulas are those of vLLM 0.32's v1/kv_cache_interface.py and v1/core/kv_cache_utils.py.
The low end leaves out every padding and counts one batch in flight; the high end groups and pads
layers as vLLM does.
"""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from math import ceil, inf

from ..checkpoint.layers import Kind, LayerGroup
from .interval import Interval

FLOAT16 = frozenset({"auto", "float16", "bfloat16", "half"})
NOTHING = Interval(0, 0)
ANYWHERE = Interval(0, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheGroup:
    """Layers of one kind on one device; `token` is bytes per token and layer, `state` per layer.

    `ranks` is over how many devices the tokens of one sequence are dealt, `drafted` how many
    tokens are drafted at once.
    """

    kind: Kind
    layers: Interval
    token: Interval
    window: int
    state: Interval
    ranks: Interval
    drafted: int = 0

    def share(self, length: int, *, most: bool) -> int:
        """Return the tokens of a sequence that one device keeps, at most or at least."""
        return ceil(length / (self.ranks.low if most else self.ranks.high))

    def blocks(self, length: int, block: float, in_flight: float, *, most: bool) -> int:
        """Return the blocks one sequence holds, at most or at least."""
        if self.kind == "state":
            # Prefix caching keeps a second state, and Mamba 2 a third; a drafted token one more.
            return (3 if most else 1) + self.drafted
        if self.kind == "cross":  # 0.32 counts a whole step (CrossAttentionSpec)
            return ceil((max(self.window, in_flight) if most else self.window) / block)
        if self.kind == "sliding":
            return ceil(min(self.window - 1 + in_flight, length) / block) + 1
        if self.kind == "chunked":
            return ceil(min(self.window + in_flight, length) / block)
        return ceil(self.share(length, most=most) / block)


@dataclass(frozen=True, slots=True, kw_only=True)
class KVCache:
    """The KV cache of one device; `groups` is None where the model is not known.

    `block` is in tokens, `in_flight` the tokens scheduled but not settled, `null` the blocks the
    pool holds back. `all_tokens` says whether windowed layers beside full ones keep every
    token: never (0, 0), always (1, 1), or perhaps (0, 1). `position` is where between the two
    formulas the truth lies: 0 is the least, 1 the most.
    """

    groups: tuple[CacheGroup, ...] | None
    block: Interval
    in_flight: Interval
    null: Interval
    all_tokens: Interval = NOTHING
    position: Interval = ANYWHERE

    def bytes(self, length: int, sequences: int = 1) -> Interval:
        """Return the bytes that sequences of this length need before vLLM admits them."""
        if self.groups is None:
            return Interval.unknown()
        if not self.groups:
            return NOTHING
        least, most = self._least(length, sequences), self._most(length, sequences)
        return least + self.position * (most - least)

    def seen(self, length: int, each: Interval) -> "KVCache":
        """Return the cache as it turned out: one sequence of this length takes `each` bytes."""
        if not self.groups:
            return self
        least, most = self._least(length, 1), self._most(length, 1)
        if most <= least:
            return self
        ends = [min(1.0, max(0.0, (end - least) / (most - least))) for end in (each.low, each.high)]
        return replace(self, position=Interval(*ends))

    def longest(
        self, available: Interval, sequences: int, block: int, limit: int
    ) -> tuple[int, int]:
        """Return the longest length in tokens that surely fits, and that perhaps fits.

        Both are whole blocks, or `limit`.
        """
        return _longest(self, available, sequences, block, limit)

    @property
    def state_block(self) -> Interval:
        """The bytes of a block that holds a recurrent state, 0 where there are none."""
        states = [group.state.low for group in self.groups or () if group.kind == "state"]
        if not states:
            return NOTHING
        layers, _, page = self._pool()
        return Interval(layers * min(states), layers * page)

    def _mixed(self) -> bool:
        return len({group.kind for group in self.groups or ()}) > 1

    def _least(self, length: int, sequences: int) -> float:
        block, total, page = self.block.low, 0.0, inf
        promoted = bool(self.all_tokens.low) and self._mixed()
        for group in self.groups or ():
            blocks = group.blocks(length, block, self.in_flight.low, most=False)
            if promoted and group.kind != "state":
                blocks = ceil(group.share(length, most=False) / block)
            size = group.state.low if group.kind == "state" else group.token.low * block
            total += group.layers.low * size * blocks
            page = min(page, group.layers.low * size)
        return total * sequences + self.null.low * page

    def _pool(self) -> tuple[float, float, float]:
        """Return the layers of a group, the tokens of a block and the bytes of a layer's page.

        Every group has as many layers, and the pages of all have one size.
        """
        groups = self.groups or ()
        counts = [group.layers.high for group in groups]
        # v1/core/kv_cache_utils.py, _get_kv_cache_groups_uniform_page_size
        size = max(counts) if max(counts) < 1.5 * min(counts) else min(counts)
        state = max(group.state.high for group in groups)
        tokens = [group.token.high for group in groups if group.token.high]
        block = self.block.high
        if state and tokens:  # platforms/interface.py, _align_hybrid_block_size
            block *= max(1, ceil(state / (block * max(tokens))))
        return size, block, max(state, block * max(tokens, default=0))

    def _most(self, length: int, sequences: int) -> float:
        size, block, page = self._pool()
        promoted = bool(self.all_tokens.high) and self._mixed()
        total = 0
        for group in self.groups or ():
            own, span = block * group.token.high, block
            if own and page % own == 0:
                span = block * page / own
            blocks = group.blocks(length, span, self.in_flight.high, most=True)
            if promoted and group.kind != "state":
                blocks = max(blocks, ceil(group.share(length, most=True) / span))
            total += ceil(group.layers.high / size) * blocks
        return size * page * (total * sequences + self.null.high)


@lru_cache(maxsize=256)
def _longest(
    cache: KVCache, available: Interval, sequences: int, block: int, limit: int
) -> tuple[int, int]:
    sure = _search(lambda n: cache.bytes(n, sequences).high <= available.low, limit, block)
    perhaps = _search(lambda n: cache.bytes(n, sequences).low <= available.high, limit, block)
    return sure, max(sure, perhaps)


def _search(fits: Callable[[int], bool], limit: int, block: int) -> int:
    if fits(limit):
        return limit
    lengths = range(block, limit + 1, block)
    return block * bisect_left(lengths, True, key=lambda length: not fits(length))


def token_bytes(layers: LayerGroup, *, tp: int, size: int, dtype: str, stored: bool) -> Interval:
    """Return the bytes that one layer keeps per token on one of `tp` devices.

    `size` is the bytes of one of the model's floats, `dtype` the value of `--kv-cache-dtype`,
    `stored` says that the checkpoint itself asks for 8 bits.
    """
    if layers.kind == "mla":
        return _latent_bytes(layers, size, dtype, stored=stored)
    heads = max(1, layers.kv_heads // tp)  # replicated once there are more devices than heads
    width = heads * (layers.head_dim + layers.value_dim)
    if dtype == "auto" and stored:
        return Interval(width, width * size)
    if dtype in FLOAT16:
        return Interval.exactly(width * size)
    if dtype.startswith("int4_per_token_head"):
        return Interval(width / 2 + 4 * heads, width / 2 + 16 * heads)
    if dtype.endswith("per_token_head"):
        return Interval.exactly(width + 8 * heads)  # a 4-byte scale for key and value each
    if dtype.startswith("nvfp4"):
        return Interval.exactly(width / 2 + width / 16)
    if dtype.startswith("fp8"):
        return Interval.exactly(width)
    return Interval(width * 0.2, width * size * 1.1)


def _latent_bytes(layers: LayerGroup, size: int, dtype: str, *, stored: bool) -> Interval:
    latent = layers.head_dim
    packed = {"fp8_ds_mla": 656, "nvfp4_ds_mla": 352}.get(dtype)
    if packed:
        bytes_ = Interval.exactly(packed)
    elif dtype == "auto" and stored:
        bytes_ = Interval(latent, latent * size)
    elif dtype in FLOAT16:
        bytes_ = Interval.exactly(latent * size)
    elif dtype.startswith("fp8"):
        bytes_ = Interval(latent, max(latent, 656) if layers.extra_bytes else latent)
    else:
        bytes_ = Interval(latent * 0.2, latent * size * 1.1)
    return bytes_ + Interval(0, layers.extra_bytes)


def state_bytes(
    layers: LayerGroup, *, tp: int, size: int, wide: bool | None, drafted: int = 0
) -> Interval:
    """Return the bytes that one recurrent layer keeps per sequence.

    `wide` says whether matrices are kept in 32 bits whatever the model asks for; None: perhaps.
    """
    if layers.state is None:
        return NOTHING
    convolution, matrix = layers.state.elements(tp, drafted)
    said = {wide, layers.state.wide}
    low = 4 if True in said else size
    high = size if said == {False} else 4
    return Interval(convolution * size + matrix * low, convolution * size + matrix * high)
