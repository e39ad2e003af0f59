"""Quantized checkpoints of a model that are on the Hub, and not on this machine."""

import re
from collections.abc import Iterable, Iterator
from queue import Empty, SimpleQueue
from threading import Thread

from ..errors import BadModel
from .checkpoint import Checkpoint, read_checkpoint
from .hub import find_quantized
from .local import NAME, QUANTIZED

# Who publishes checkpoints that vLLM serves, beside those who made the model: its own project, the
# makers of the cards, and those of AutoRound, GPTQModel, AutoAWQ and Unsloth.
PUBLISHERS = (
    *("RedHatAI", "nvidia", "Intel", "ModelCloud", "hugging-quants", "casperhansen", "unsloth"),
)
# What their names say of the bits of a weight; of each kind one is read, 8 bits first.
BITS = {
    8: re.compile(r"[-_.](?:fp8|int8|8-?bits?|w8a\d+)(?![a-z0-9])", re.IGNORECASE),
    4: re.compile(
        r"[-_.](?:awq|gptq|int4|4-?bits?|w4a\d+|(?:nv|mx)?fp4)(?![a-z0-9])", re.IGNORECASE
    ),
}
# Nobody waits longer for what is only worth knowing.
SECONDS = 5.0
# What two checkpoints of the same model have in common.
SHAPE = (
    *("architecture", "model_type", "layers", "hidden_size", "heads", "kv_heads", "head_dim"),
    *("vocab_size", "experts"),
)


def published(model: str, checkpoint: Checkpoint) -> dict[str, Checkpoint]:
    """Return quantized checkpoints of a model of the Hub, by name.

    None for a model from a folder, for one that is quantized, and where the Hub does not answer.
    """
    if not NAME.fullmatch(model) or checkpoint.quantization is not None:
        return {}
    found: SimpleQueue[dict[str, Checkpoint]] = SimpleQueue()
    Thread(target=lambda: found.put(dict(_read(model, checkpoint))), daemon=True).start()
    try:
        return found.get(timeout=SECONDS)
    except Empty:
        return {}


def _read(model: str, checkpoint: Checkpoint) -> Iterator[tuple[str, Checkpoint]]:
    for name in choose(model, find_quantized(model)):
        try:
            other = read_checkpoint(name)
        except BadModel:
            continue  # gated, or gone
        alike = all(getattr(other, field) == getattr(checkpoint, field) for field in SHAPE)
        if alike and other.quantization and other.weight_bytes:
            yield name, other


def choose(model: str, names: Iterable[str]) -> list[str]:
    """Return a checkpoint of 8 and one of 4 bits, of those who made the model or are known."""
    maker, _, own = model.partition("/")
    same = re.compile(re.escape(own) + QUANTIZED, re.IGNORECASE)
    trusted = (maker, *PUBLISHERS)
    known = [name for name in names if same.fullmatch(name.partition("/")[2])]
    ours = [name for name in known if name.partition("/")[0] in trusted]
    ours.sort(key=lambda name: trusted.index(name.partition("/")[0]))
    chosen: dict[int, str] = {}
    for name in ours:
        chosen.setdefault(_bits(name), name)
    return [chosen[bits] for bits in BITS if bits in chosen]


def _bits(name: str) -> int:
    """Return the bits of a weight by what a name says first of the table, 0 where it is silent."""
    found = (bits for bits, says in BITS.items() if says.search(name))
    return next(found, 0)
