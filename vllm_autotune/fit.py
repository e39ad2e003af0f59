"""Solve the numbers of a candidate from what is known: no guessing where vLLM printed one.

Every `fit` of a ladder has a solver here. It returns the changed configuration, or a sentence
why the rung changes nothing.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .config import LaunchConfig
from .facts import AUTO, Attempt, Facts, expect, predict
from .memory import Calibration, Interval, batch_defaults
from .memory.units import GIB
from .outcome import Hung, OutOfMemory
from .settle import NOISE_BYTES, settled

# Until a launch has served: two of 59 boots took more than estimated, and more than this.
MARGIN_BYTES = 0.25 * GIB
# Phases in which memory outside the KV cache ran out: there the KV cache must leave more room.
OUTSIDE_KV = ("graphs", "warmup", "serving")
# How often the utilization is lowered, and how much more than ran out is left: three times as much
# each time nothing says what was lacking.
UTILIZATION_STEPS = 4
UTILIZATION_STEP = GIB // 2
# After a refusal, where in its interval the room for the KV cache is taken to be: low enough that
# the next launch succeeds, high enough to give no context away.
RETRY_SHARE = 0.4
SEQUENCES = (64, 16, 4, 1)
BATCHED_TOKENS = (2048, 512)


@dataclass(frozen=True, slots=True)
class Situation:
    """What a solver may look at.

    `fitted` are the flags that rungs of this draft solve.
    """

    facts: Facts
    history: Sequence[Attempt]
    calibration: Calibration
    fitted: frozenset[str] = frozenset()

    def failures(self, *phases: str) -> list[Attempt]:
        """Return the attempts that ran out of memory (or hung) in one of these phases."""
        return [
            a
            for a in self.history
            if isinstance(a.outcome, OutOfMemory | Hung) and a.outcome.phase in phases
        ]

    def unanswered(self) -> list[Attempt]:
        """Return the attempts whose step was too large, and no lower utilization answers that."""
        lowered = "gpu-memory-utilization" in self.fitted
        return self.failures("profile", *(() if lowered else OUTSIDE_KV))

    def defaults(self, config: LaunchConfig) -> tuple[int, int]:
        """Return batched tokens and sequences as this vLLM would choose them."""
        return batch_defaults(self.facts.used(config)[0], self.facts.engine.release)


def most_utilization(now: Situation, config: LaunchConfig) -> float:
    """Return the largest share of the devices that may be used, rounded down to 1/10000."""
    facts, beyond = now.facts, _beyond_share(now, config)
    shares = [
        min(facts.budget(d), d.free_bytes - facts.headroom_bytes - beyond) / d.shared_out
        for d in facts.used(config)
    ]
    return math.floor(min(shares) * 10_000) / 10_000


def _beyond_share(now: Situation, config: LaunchConfig) -> float:
    """Return what a launch takes beyond the share it is given: as estimated, or as it turned out.

    What an earlier launch took more than estimated is added, before that a margin.
    """
    facts, more, step = now.facts, 0.0, UTILIZATION_STEP
    for attempt in now.failures(*OUTSIDE_KV):
        failed, outcome = attempt.candidate.config, attempt.outcome
        if not isinstance(outcome, OutOfMemory):
            continue
        free = min(d.free_bytes for d in facts.used(failed))
        left = free - attempt.candidate.predicted.reserved_bytes
        if outcome.shortfall_bytes is None:  # it took more than all that was left
            took = left + max(step, 2 * (attempt.readings.tried_bytes or 0))
            step *= 3
        else:  # so much was lacking of the headroom
            took = left + outcome.shortfall_bytes - facts.headroom_bytes + 2 * NOISE_BYTES["cuda"]
        more = max(more, took - expect(facts, Calibration(), failed).beyond_share)
    return expect(facts, Calibration(), config).beyond_share + (more or MARGIN_BYTES)


def fit_utilization(now: Situation, config: LaunchConfig) -> LaunchConfig | str:
    """Take all that is free, less what is taken beyond that share."""
    if len(now.failures(*OUTSIDE_KV)) > UTILIZATION_STEPS:
        return f"it was lowered {UTILIZATION_STEPS} times"
    most = most_utilization(now, config)
    if most <= 0:
        return "no memory is left for it"
    return config.replace({"gpu-memory-utilization": most})


def fit_sequences(now: Situation, config: LaunchConfig) -> LaunchConfig | str:
    """Cap the sequences: at the number vLLM named, else in steps down to the concurrency."""
    _, current = now.defaults(config)
    current = config.integer("max-num-seqs", current)
    named = [a.readings.max_num_seqs for a in now.history if a.readings.max_num_seqs]
    failed = [a.candidate.config.integer("max-num-seqs", current) for a in now.unanswered()]
    below = min([current, *failed])
    floor = now.facts.workload.concurrency
    steps = [max(step, floor) for step in (*named, *SEQUENCES)]
    lower = next((step for step in steps if step < below), None)
    if lower is None:
        return f"{below} sequences are few already"
    return config.replace({"max-num-seqs": lower})


def fit_batched_tokens(now: Situation, config: LaunchConfig) -> LaunchConfig | str:
    """Read prompts in smaller pieces, which profiling and serving hold activations for."""
    tokens, sequences = now.defaults(config)
    tokens = config.integer("max-num-batched-tokens", tokens)
    sequences = config.integer("max-num-seqs", sequences)
    failed = [
        a.candidate.config.integer("max-num-batched-tokens", tokens) for a in now.unanswered()
    ]
    below = min([tokens, *failed])
    lower = next((n for n in BATCHED_TOKENS if sequences <= n < below), None)
    if lower is None:
        return f"{below} tokens a batch are few already"
    return config.replace({"max-num-batched-tokens": lower})


def fit_checkpoint(now: Situation, config: LaunchConfig) -> LaunchConfig | str:
    """Take the largest quantized sibling that may fit, which gives up least."""
    siblings = sorted(
        (name for name in now.facts.checkpoints if name != now.facts.model),
        key=lambda name: -(now.facts.checkpoints[name].weight_bytes or 0),
    )
    failed = {a.candidate.config.model for a in now.failures("load")}
    for name in siblings:
        candidate = config.replace(model=name)
        if name not in failed and _shortest_fits(now, candidate):
            return candidate
    if siblings:
        return "no quantized checkpoint next to the model is small enough"
    return "no quantized checkpoint lies next to the model"


def fit_tensor_parallel(now: Situation, config: LaunchConfig) -> LaunchConfig | str:
    """Split layers over the fewest GPUs that divide the heads and may fit."""
    checkpoint = now.facts.checkpoints[config.model]
    heads, kv_heads = checkpoint.heads, max(1, checkpoint.kv_heads)
    sizes = [
        n
        for n in range(2, len(now.facts.devices) + 1)
        if heads % n == 0 and (kv_heads % n == 0 or n % kv_heads == 0)
    ]
    if not sizes:
        return f"no number of GPUs up to {len(now.facts.devices)} divides {heads} heads"
    return _first_that_fits(now, config, "tensor-parallel-size", sizes)


def fit_pipeline_parallel(now: Situation, config: LaunchConfig) -> LaunchConfig | str:
    """Deal layers out to the GPUs that tensor parallel leaves."""
    layers = now.facts.checkpoints[config.model].layers
    alone = config.replace({"tensor-parallel-size": None})
    tried = [config] if "tensor-parallel-size" in now.facts.fixed else [config, alone]
    for split in tried:
        groups = len(now.facts.devices) // split.integer("tensor-parallel-size", 1)
        sizes = list(range(2, min(groups, layers) + 1))
        if sizes:
            return _first_that_fits(now, split, "pipeline-parallel-size", sizes)
    return "tensor parallel uses every GPU already"


def _first_that_fits(
    now: Situation, config: LaunchConfig, flag: str, sizes: Sequence[int]
) -> LaunchConfig | str:
    # A size that ran out of memory before is not tried again: the next one splits finer.
    failed = max((a.candidate.config.integer(flag, 1) for a in now.failures("load")), default=1)
    for size in sizes:
        candidate = config.replace({flag: size})
        if size > failed and _shortest_fits(now, candidate):
            return candidate
    if "cpu-offload-gb" in now.fitted and sizes[-1] > failed:
        return config.replace({flag: sizes[-1]})  # host memory takes the rest
    return f"even {sizes[-1]} GPUs are too small together"


def fit_offload(now: Situation, config: LaunchConfig) -> LaunchConfig | str:
    """Put as many whole GiB of the weights into host memory as the KV cache lacks."""
    original, weights = config, predict(now.facts, now.calibration, config).weights.high
    # Pinned host copies took 1.9 times the offloaded bytes (vLLM issue 56410).
    most = min(now.facts.host_free_bytes / 1.9, weights)
    failed = now.failures("load", "profile", "kv_cache")
    already = max((a.candidate.config.integer("cpu-offload-gb", 0) for a in failed), default=0)
    if already:  # what it lacked is measured, and a shorter context may be what is missing
        config = _shortest(now, config.replace({"cpu-offload-gb": already}))
    lacking = _lacking(now, config)
    if lacking > most:
        lacking = _lacking(now, _shortest(now, config))
    if math.isinf(lacking):
        return "the arithmetic does not know this architecture"
    if any(a in now.failures("load") for a in now.history[-1:]):
        lacking = max(lacking, 2 * GIB)  # the weights are larger than estimated
    gib = min(already + max(0, math.ceil(lacking / GIB)), int(most / GIB))
    if gib == 0:
        return "the weights leave room enough" if lacking <= 0 else "no host memory is free"
    return original.replace({"cpu-offload-gb": gib})


def _lacking(now: Situation, config: LaunchConfig) -> float:
    prediction = predict(now.facts, now.calibration, config)
    return prediction.kv_needed.high - prediction.kv_available.low


def fit_context(now: Situation, config: LaunchConfig) -> LaunchConfig | str:
    """Serve the longest context that fits, down to the shortest the user accepts.

    Where nothing measured says what fits, vLLM is asked to find it.
    """
    facts, workload = now.facts, now.facts.workload
    wanted = facts.context
    if workload.min_context >= wanted:
        return f"you accept no fewer than {wanted:,} tokens"
    footprint = expect(facts, now.calibration, config)
    block = int(footprint.cache.block.low)
    stuck = [a for a in now.failures("serving") if _differs_in_length(a, config)]
    prediction = predict(facts, now.calibration, config)
    asks = _asks(facts) and not stuck
    if prediction.fits == "unknown":
        limit = _printed_limit(now, config)
        length = int(limit * 0.98) if limit else wanted
        asks = asks and not limit
    elif prediction.kv_available.low >= prediction.kv_needed.high and not stuck:
        return "the whole context fits"
    else:
        room = prediction.kv_available
        if prediction.measured:
            room = Interval.exactly(room.middle - NOISE_BYTES[facts.devices[0].kind])
        elif now.history and not asks:  # another refusal would cost more than it tells
            room = Interval.exactly(room.low + RETRY_SHARE * (room.high - room.low))
        sure, perhaps = footprint.longest(room, workload.concurrency, block)
        length = sure if room.low == room.high else perhaps
        asks = asks and not prediction.measured
    if stuck:
        longest = settled(facts, stuck[-1].candidate, stuck[-1].readings)
        length = min(length, facts.length(longest.config) * 3 // 4)
    length = min(length, wanted) if length >= wanted else length // block * block
    if length == wanted and not asks:
        return "the whole context may fit"
    if length < workload.min_context:
        return (
            f"at most {max(0, length):,} tokens fit, fewer than the {workload.min_context:,} "
            "you accept"
        )
    return config.replace({"max-model-len": AUTO if asks else length})


def _asks(facts: Facts) -> bool:
    """Tell whether vLLM may choose the length; it goes no further than the model's own."""
    reaches = facts.context <= facts.checkpoint.default_context
    return facts.engine.fits_length and reaches and not facts.workload.exact


def _printed_limit(now: Situation, config: LaunchConfig) -> int | None:
    """Return the longest length vLLM printed for a configuration that differs only in it."""
    for attempt in reversed(now.history):
        if isinstance(attempt.outcome, OutOfMemory) and _differs_in_length(attempt, config):
            return attempt.outcome.limit
    return None


def _differs_in_length(attempt: Attempt, config: LaunchConfig) -> bool:
    """Tell whether an attempt's configuration is the same but for its length."""
    nothing = {"max-model-len": None}
    return attempt.candidate.config.replace(nothing) == config.replace(nothing)


def _shortest(now: Situation, config: LaunchConfig) -> LaunchConfig:
    """Return the configuration with the shortest acceptable context, if a rung may shorten it."""
    if "max-model-len" not in now.fitted:
        return config
    return config.replace({"max-model-len": min(now.facts.workload.min_context, now.facts.context)})


def _shortest_fits(now: Situation, config: LaunchConfig) -> bool:
    """Tell whether the shortest acceptable context is not ruled out, at the share it may have."""
    if "gpu-memory-utilization" not in now.facts.fixed:
        most = most_utilization(now, config)
        raised = "gpu-memory-utilization" in now.fitted
        if raised or most < now.facts.engine.default_utilization:
            config = config.replace({"gpu-memory-utilization": max(0.0, most)})
    return predict(now.facts, now.calibration, _shortest(now, config)).fits != "no"


SOLVERS: dict[str, Callable[[Situation, LaunchConfig], LaunchConfig | str]] = {
    "checkpoint": fit_checkpoint,
    "tensor-parallel-size": fit_tensor_parallel,
    "pipeline-parallel-size": fit_pipeline_parallel,
    "gpu-memory-utilization": fit_utilization,
    "max-num-seqs": fit_sequences,
    "max-num-batched-tokens": fit_batched_tokens,
    "cpu-offload-gb": fit_offload,
    "max-model-len": fit_context,
}
