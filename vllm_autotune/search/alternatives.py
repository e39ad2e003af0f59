"""What else these devices could serve: the same model asked for otherwise, by arithmetic alone.

An alternative is another request, and the first candidate for it: who asks so gets just that.
"""

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..checkpoint import DTYPE_BYTES, Checkpoint
from ..machine.device import counted
from ..memory import Interval
from ..vllm.config import LaunchConfig, Value
from ..vllm.flags import PARALLEL
from .build import build
from .facts import Facts
from .fit import PIPELINE, TENSOR
from .prediction import calibrate
from .step import next_step
from .trial import Candidate, Prediction

REPLICAS = "data-parallel-size"
OFFLOAD = "cpu-offload-gb"
# How much more a user would call another context, or another number of sequences.
LONGER, MORE = 1.1, 1.25
# As alike as this are two answers that a user would call the same.
ALIKE = 0.1
# Bits of a weight by the name of its quantization, where it begins with one of these.
BITS = {
    **dict.fromkeys(("awq", "auto_awq", "gptq", "auto_gptq", "bitsandbytes", "mxfp4", "nvfp4"), 4),
    **dict.fromkeys(("fp8", "fbgemm_fp8", "ptpc_fp8", "mxfp8", "experts_int8", "int8"), 8),
}
# Graphs are captured for, and batches are filled in, multiples of this.
SEQUENCE_STEP = 8
# More sequences at once than this are not looked for: what vLLM takes at once by default.
MOST_AT_ONCE = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What a configuration serves, as a user compares it.

    `tokens` is the longest context, `at_once` how many full-length sequences the KV cache holds;
    their ends are what surely and what perhaps fits. Bits of the weights are None where unknown.
    """

    tokens: Interval
    at_once: Interval
    devices: int
    weight_bits: int | None
    kv_bits: int
    offloaded_gib: float
    replicas: int
    max_num_seqs: int
    batch: int
    eager: bool

    def values(self) -> tuple[float, ...]:
        """Return what is better the more it is."""
        return (
            self.tokens.high, self.at_once.middle, -self.devices, self.weight_bits or 0,
            self.kv_bits, -self.offloaded_gib, self.max_num_seqs, self.batch, -self.eager,
        )  # fmt: skip

    def is_as_good(self, other: "Served") -> bool:
        """Tell whether this is in nothing worse than the other."""
        pairs = zip(self.values(), other.values(), strict=True)
        return all(mine >= theirs for mine, theirs in pairs)

    def is_like(self, other: "Served") -> bool:
        """Tell whether a user would call both the same."""
        return (
            self.kind == other.kind
            and math.isclose(self.tokens.high, other.tokens.high, rel_tol=ALIKE)
            and math.isclose(self.at_once.middle, other.at_once.middle, rel_tol=ALIKE)
        )

    @property
    def kind(self) -> tuple[object, ...]:
        bits = (self.weight_bits, self.kv_bits)
        return (self.devices, self.replicas, *bits, self.offloaded_gib > 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What another request asks for otherwise: `gpus` is how many may be used.

    `skip` and `fixed` come on top of what the request has.
    """

    context: int | None = None
    concurrency: int | None = None
    min_gpus: int | None = None
    gpus: int | None = None
    skip: tuple[str, ...] = ()
    fixed: Mapping[str, Value] = field(default_factory=dict)

    def applied(self, facts: Facts) -> Facts:
        """Return the facts of the other request."""
        workload = facts.workload
        if self.context is not None:
            workload = replace(workload, context=self.context, min_context=self.context)
        if self.gpus is not None:
            workload = replace(workload, min_gpus=1)
        return replace(
            facts,
            workload=replace(
                workload,
                concurrency=self.concurrency or workload.concurrency,
                min_gpus=self.min_gpus or workload.min_gpus,
            ),
            ladder=facts.ladder.without(self.skip),
            devices=facts.devices[: self.gpus],
            fixed={**facts.fixed, **self.fixed},
        )

    def command(self, facts: Facts) -> tuple[str, ...]:
        """Return the words of the other request."""
        asked = {**facts.asked, "model": (facts.model,)}
        devices, imagined = facts.devices[: self.gpus], facts.devices[0].imagined
        if self.context is not None:
            asked |= {"context": (str(self.context),), "min-context": ()}
        if self.concurrency is not None:
            asked["concurrency"] = (str(self.concurrency),)
        if self.gpus is not None:
            indices = ",".join(d.uuid if d.mig else str(d.index) for d in devices)
            named = {"device": (counted(devices),)}
            asked |= {"min-gpus": (), **(named if imagined else {"gpus": (indices,)})}
        if self.min_gpus is not None:
            asked["min-gpus"] = (str(self.min_gpus),)
        asked["skip"] = (*asked.get("skip", ()), *self.skip)
        args = {**facts.fixed, **self.fixed}
        if "revision" in asked:
            args.pop("revision", None)
        flags = LaunchConfig("", args).flags()
        options = (word for name, values in asked.items() for word in _words(name, values))
        return (
            "autotune",
            "plan" if imagined else "tune",
            *options,
            *(["--", *flags] * bool(flags)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """Another request (`facts`, or `command` in words), and what it would be answered with."""

    name: str
    facts: Facts
    command: tuple[str, ...]
    candidate: Candidate
    served: Served
    gives_up: tuple[str, ...]


def alternatives(facts: Facts, found: Served | None) -> tuple[Alternative, ...]:
    """Return what else could be served, beside what was found: None where nothing was.

    Only those that a user would call different, from what was found and from each other. On a CPU
    there are none: what may be used of its memory follows from what is asked for.
    """
    listed: list[Alternative] = []
    if facts.devices[0].kind != "cuda":
        return ()
    for make in (_longest, _most_at_once, _unquantized, _all_gpus, _fewest_gpus, _replicas):
        for alternative in make(facts, found):
            known = [other.served for other in listed] + ([found] if found else [])
            if any(alternative.served.is_like(other) for other in known):
                continue
            # What is better in nothing is no choice; what is worse in nothing did not hold.
            mine = alternative.served
            if found and (found.is_as_good(mine) or mine.is_as_good(found)):
                continue
            listed.append(alternative)
    return tuple(listed)


Found = Iterator[Alternative]


def served_by(facts: Facts, config: LaunchConfig, predicted: Prediction) -> Served:
    """Return what a configuration is expected to serve."""
    wanted, length = facts.workload.concurrency, facts.length(config)
    tokens = Interval.exactly(length)
    if config.is_auto_length:
        tokens = Interval(*_longest_that_fit(facts, config, predicted, facts.context))
    each = calibrate(facts).footprint(facts.setup(config)).kv_bytes(max(1, int(tokens.low)))
    at_once = Interval(wanted, wanted) if config.is_auto_length else _times(predicted, each)
    return served(facts, config, tokens, at_once)


def served(facts: Facts, config: LaunchConfig, tokens: Interval, at_once: Interval) -> Served:
    setup, replicas = facts.setup(config), config.integer(REPLICAS, 1)
    return Served(
        tokens=tokens,
        at_once=at_once * replicas,
        devices=len(facts.used(config)),
        weight_bits=_weight_bits(facts.checkpoints[config.model], config),
        kv_bits=_kv_bits(facts.checkpoints[config.model], config),
        offloaded_gib=config.cpu_offload_gib,
        replicas=replicas,
        max_num_seqs=setup.sequences * replicas,
        batch=setup.tokens,
        eager=config.args.get("enforce-eager") is True,
    )


def _longest(facts: Facts, found: Served | None) -> Found:
    """The longest context, with everything given up for it that keeps the weights on the GPUs."""
    longest = facts.checkpoint.context if found else facts.context
    if "max-model-len" in facts.fixed or (found and found.tokens.high >= longest / LONGER):
        return
    asked = Change(context=longest, skip=_offloading(facts)).applied(facts)
    length = max(
        _longest_that_fit(wide, c.config, c.predicted, longest)[0] for wide, c in _widest(asked)
    )
    if not length or (found and length < LONGER * found.tokens.high):
        return
    lost = _less("context", length, facts.context, "tokens")
    change = Change(context=length, skip=_offloading(facts))
    yield from _first("longest-context", facts, change, lost)


def _most_at_once(facts: Facts, found: Served | None) -> Found:
    """The most full-length sequences at the context asked for."""
    context = facts.context if not found else min(facts.context, int(found.tokens.high))
    if "max-num-seqs" in facts.fixed or not context:
        return
    count, skip = MOST_AT_ONCE + 1, _offloading(facts)
    for _ in range(4):  # more sequences at once leave a little less for them
        change = Change(context=context, concurrency=max(1, min(count, MOST_AT_ONCE)), skip=skip)
        fits = 0
        for wide, candidate in _widest(change.applied(facts)):
            footprint = calibrate(wide).footprint(wide.setup(candidate.config))
            each = footprint.kv_bytes(context)
            fits = max(fits, int(_times(candidate.predicted, each).low))
        if fits >= count:
            break
        count = fits
    count = count // SEQUENCE_STEP * SEQUENCE_STEP if count > 8 * SEQUENCE_STEP else count
    if count < 1 or (found and count < MORE * found.at_once.middle):
        return
    lost = _less("requests at once", count, facts.workload.concurrency, "full-length sequences")
    yield from _first("most-sequences", facts, replace(change, concurrency=count), lost)


def _unquantized(facts: Facts, found: Served | None) -> Found:
    """Weights and KV cache with the bits of the model."""
    names = tuple(
        rung.name
        for rung in facts.ladder.rungs
        if rung.fit == "checkpoint" or rung.args.keys() & {"quantization", "kv-cache-dtype"}
    )
    best = served(facts, facts.base(), Interval(0, 0), Interval(0, 0))
    whole = (best.weight_bits, best.kv_bits)
    if names and found and (found.weight_bits, found.kv_bits) != whole:
        change = Change(skip=(*names, *_offloading(facts)))
        yield from _first("nothing-quantized", facts, change)


def _all_gpus(facts: Facts, found: Served | None) -> Found:
    least = found.devices + 1 if found else 2
    for count in range(len(facts.devices), least - 1, -1):
        for made in _first("all-gpus", facts, Change(skip=_offloading(facts), min_gpus=count)):
            yield made
            return


def _fewest_gpus(facts: Facts, found: Served | None) -> Found:
    """As few as will do, found by bisection: where some do, so do more."""
    made: dict[int, list[Alternative]] = {}

    def will_do(count: int) -> bool:
        change = Change(skip=_offloading(facts), gpus=count)
        made[count] = list(_first("fewest-gpus", facts, change))
        return bool(made[count])

    counts = range(1, found.devices if found else 1)
    fewest = bisect_left(counts, True, key=will_do)
    yield from made[counts[fewest]] if fewest < len(counts) else ()


def _replicas(facts: Facts, found: Served | None) -> Found:
    """A copy of the model on each GPU: throughput, and not a longer context."""
    count, device = len(facts.devices), facts.devices[0]
    known = facts.engine.knows(REPLICAS) and device.kind == "cuda" and not device.mig
    mixture = facts.checkpoint.experts
    if not known or mixture or count < 2 or (found and found.devices > 1):
        return
    if any(flag in facts.fixed for flag in PARALLEL) or facts.workload.min_gpus > count:
        return
    lost = ("further GPUs: each holds the whole model",)
    change = Change(fixed={REPLICAS: count}, skip=_offloading(facts))
    for made in _first("replicas", facts, change, lost):
        if made.gives_up == lost:  # nothing, for which there are more GPUs
            yield made


def _first(
    name: str, facts: Facts, change: "Change", lost: Sequence[str] = ()
) -> Iterator[Alternative]:
    """Yield the alternative that asks so, none where no launch would be promising."""
    asked = change.applied(facts)
    candidate = next_step(asked, ()).candidate
    if candidate is None or candidate.predicted.fits == "unknown":
        return
    gives_up = [rung.gives_up for rung in candidate.rungs if rung.gives_up]
    yield Alternative(
        name=name,
        facts=asked,
        command=change.command(facts),
        candidate=candidate,
        served=served_by(asked, candidate.config, candidate.predicted),
        gives_up=(*lost, *gives_up),
    )


def _words(name: str, values: Iterable[str]) -> Iterator[str]:
    for value in values:
        yield from (f"--{name}", value) if value else (f"--{name}",)


def _widest(facts: Facts) -> Iterator[tuple[Facts, Candidate]]:
    """Yield candidates that leave most room: all rungs, over the fewest GPUs and over all."""
    ladder = facts.ladder
    rungs = tuple(rung for rung in ladder.rungs if rung.fit != "max-model-len")
    spreading = tuple(replace(r, start=True) if r.fit in (TENSOR, PIPELINE) else r for r in rungs)
    for each in (rungs, spreading)[: len(facts.devices)]:
        wide = replace(facts, ladder=replace(ladder, rungs=each))
        yield wide, build(wide, (), calibrate(wide), each, {})


def _longest_that_fit(
    facts: Facts, config: LaunchConfig, predicted: Prediction, most: int
) -> tuple[int, int]:
    """Return the longest context that surely fits, and that perhaps fits."""
    cache = calibrate(facts).footprint(facts.setup(config)).cache
    if cache.groups is None or not predicted.kv_available.known:
        return 0, 0
    block = int(cache.block.low)
    return cache.longest(predicted.kv_available, facts.workload.concurrency, block, most)


def _times(predicted: Prediction, each: Interval) -> Interval:
    """Return how many sequences of this size the KV cache holds."""
    room = predicted.kv_available
    if not each.known or not room.known or not each.low:
        return Interval(0, 0)
    return Interval(max(0.0, room.low) // each.high, max(0.0, room.high) // each.low)


def _offloading(facts: Facts) -> tuple[str, ...]:
    return tuple(rung.name for rung in facts.ladder.rungs if rung.fit == OFFLOAD)


def _less(what: str, number: int, asked: int, unit: str) -> tuple[str, ...]:
    return (f"{what}: {number:,} of {asked:,} {unit}",) if number < asked else ()


def _weight_bits(checkpoint: Checkpoint, config: LaunchConfig) -> int | None:
    method = config.quantization or checkpoint.quantization
    if method is None:
        asked = config.text("dtype") or "auto"
        return 8 * DTYPE_BYTES.get(asked, 2)
    return next((bits for name, bits in BITS.items() if method.startswith(name)), None)


def _kv_bits(checkpoint: Checkpoint, config: LaunchConfig) -> int:
    dtype = config.kv_cache_dtype
    if dtype.startswith(("int4", "nvfp4")):
        return 4
    eight = dtype.startswith(("fp8", "int8")) or (dtype == "auto" and checkpoint.kv_quantized)
    return 8 if eight else 16
