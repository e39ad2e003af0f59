"""What is not here and would help: the same request, with arithmetic alone, on a better machine."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

from ..checkpoint import Checkpoint
from ..machine.selection import is_busy
from ..units import format_bytes
from ..vllm.engine import ASSUMED, assumed
from ..vllm.versions import BITSANDBYTES_PLUGIN
from .alternatives import LONGER, MORE, Served, served_by
from .facts import Facts
from .step import next_step
from .trial import Candidate

# What an idle GPU has in use, by the driver (H200: 0.5 GiB).
IDLE_BYTES = 2**29


@dataclass(frozen=True, slots=True, kw_only=True)
class Help:
    """Something that is not here, and what would be served with it."""

    name: str
    what: str
    candidate: Candidate
    served: Served


Better = tuple[str, Facts]
Improve = Callable[[Facts], Better | None]
# What is asked for quantized checkpoints that are elsewhere, by name.
Published = Callable[[], Mapping[str, Checkpoint]]


def would_help(
    facts: Facts,
    found: Served | None,
    candidate: Candidate | None,
    published: Published = dict,
) -> Iterator[Help]:
    """Yield what would help, nothing where nothing was given up.

    Only then is asked which quantized checkpoints of the model are `published`.
    """
    gave_up = candidate is None or any(rung.gives_up for rung in candidate.rungs)
    if not gave_up or facts.devices[0].kind != "cuda":
        return
    download: Improve = partial(_download, published)
    for name, improve in {**IMPROVEMENTS, "quantized-checkpoint": download}.items():
        improved = improve(facts)
        if improved is None:
            continue
        what, better = improved
        first = next_step(better, ()).candidate
        if first is None or first.predicted.fits == "unknown":
            continue
        served = served_by(better, first.config, first.predicted)
        if found is None or _is_better(served, found):
            yield Help(name=name, what=what, candidate=first, served=served)


def _is_better(new: Served, found: Served) -> bool:
    """Tell whether a user would notice: the weights on the GPUs, or more with them where they were.

    More is a longer context, or as long a one more often at once, or with more bits.
    """
    if (new.offloaded_gib > 0) != (found.offloaded_gib > 0):
        return not new.offloaded_gib
    longer = new.tokens.high >= LONGER * found.tokens.high
    more = new.at_once.middle >= MORE * found.at_once.middle
    bits = (new.weight_bits or 0) > (found.weight_bits or 0)
    return longer or (new.tokens.high >= found.tokens.high and (more or bits))


def _freed(facts: Facts) -> Better | None:
    """The memory that other programs hold, on these GPUs and on those left alone."""
    every = (*facts.devices, *facts.busy)
    held = [d.memory_bytes - d.free_bytes for d in every if is_busy(d)]
    if not held:
        return None
    idle = tuple(
        replace(d, free_bytes=max(d.free_bytes, d.memory_bytes - IDLE_BYTES)) for d in every
    )
    programs = f"ending the other programs on the GPUs, which hold {format_bytes(sum(held))}"
    return programs, replace(facts, devices=idle, busy=())


def _another_gpu(facts: Facts) -> Better | None:
    last = facts.devices[-1]
    if last.mig or last.unified:
        return None
    more = replace(last, index=last.index + 1, uuid=f"{last.uuid} and another")
    return f"one more {last.name}", replace(facts, devices=(*facts.devices, more))


def _four_bits(facts: Facts) -> Better | None:
    """Weights of 4 bits, where this vLLM cannot make them."""
    engine, quantized = facts.engine, facts.checkpoint.quantization is not None
    offered = any(rung.args.get("quantization") == "bitsandbytes" for rung in facts.ladder.rungs)
    if quantized or not offered or engine.quantizes("bitsandbytes"):
        return None
    plugin = "vllm-bnb-plugin and " if engine.release >= BITSANDBYTES_PLUGIN else ""
    what = f"4-bit weights: pip install {plugin}bitsandbytes, or a 4-bit checkpoint beside it"
    return what, replace(facts, engine=replace(engine, added=frozenset({"bitsandbytes"})))


def _newer_vllm(facts: Facts) -> Better | None:
    engine = facts.engine
    newest = assumed()
    if engine.release >= newest.release:
        return None
    return f"vLLM {ASSUMED}, this is {engine.version}", replace(facts, engine=newest)


def _download(published: Published, facts: Facts) -> Better | None:
    """A quantized checkpoint of the model: the largest that may fit."""
    found = published()
    if not found:
        return None
    better = replace(facts, checkpoints={**facts.checkpoints, **found})
    first = next_step(better, ()).candidate
    name = first.config.model if first else ""
    if name not in found:
        return None
    size = format_bytes(found[name].weight_bytes or 0)
    return f"the quantized checkpoint {name} ({size}): hf download {name}", better


IMPROVEMENTS: dict[str, Improve] = {
    "freed-memory": _freed,
    "4bit-weights": _four_bits,
    "newer-vllm": _newer_vllm,
    "another-gpu": _another_gpu,
}
