"""The share of the devices: all that is free, less what a launch takes beyond its share."""

import math

from ...memory import estimate
from ...outcome import TOO_LITTLE_HEADROOM, OutOfMemory
from ...units import GIB
from ...vllm.config import LaunchConfig
from ...vllm.flags import STEP_SIZE
from ..auto_length import NOISE_BYTES
from .situation import OUTSIDE_KV, Situation

# Until a launch has served: two of 59 boots took more than this beyond the estimate. After two
# launches that ran out of memory the next shall be the last.
MARGIN_BYTES = (0.25 * GIB, 0.25 * GIB, 0.5 * GIB)
# How much more is left each time memory ran out beside the share: soon much more, since the request
# that ran out hides what would have been asked for next, and a launch costs more than memory does.
UTILIZATION_STEPS = (0.5 * GIB, 2.5 * GIB, 5 * GIB, 10 * GIB)


# By how much the estimate may err more for one step than for another of the same model.
STEPS_DIFFER = 0.1


def most_utilization(now: Situation, config: LaunchConfig) -> float:
    """Return the largest share of the devices that may be used, rounded down to 1/10000."""
    facts, beyond = now.facts, _beyond_share(now, config)
    shares = [
        min(facts.budget(d), d.free_bytes - facts.headroom_bytes - beyond) / d.utilization_base
        for d in facts.used(config)
    ]
    return math.floor(min(shares) * 10_000) / 10_000


def _beyond_share(now: Situation, config: LaunchConfig) -> float:
    """Return the bytes a launch takes beyond its share: as estimated, or as it turned out.

    What an earlier launch took more than estimated is added, before that a margin.
    """
    facts, more, least = now.facts, 0.0, 0.0
    ran_out = [
        (trial, trial.outcome)
        for trial in now.failures(*OUTSIDE_KV)
        if isinstance(trial.outcome, OutOfMemory)
    ]
    for (trial, outcome), step in zip(ran_out, UTILIZATION_STEPS, strict=False):
        free = min(d.free_bytes for d in facts.used(trial.config))
        took = free - trial.predicted.reserved_bytes + 2 * NOISE_BYTES["cuda"]
        if outcome.cause == TOO_LITTLE_HEADROOM:  # it took no more than this
            took += (outcome.shortfall_bytes or 0) - facts.headroom_bytes
        else:  # it took more than all that was left
            short, tried = outcome.shortfall_bytes, trial.readings.tried_bytes or 0
            took += int(max(step, 2 * tried) if short is None else max(least, short))
            least = step
        more = max(more, took - estimate(facts.setup(trial.config)).beyond_share)
    expected = estimate(facts.setup(config)).beyond_share
    if ran_out and not any(_same_step(trial.config, config) for trial, _ in ran_out):
        more += STEPS_DIFFER * expected
    return expected + (more or MARGIN_BYTES[min(now.lacked, len(MARGIN_BYTES) - 1)])


def _same_step(one: LaunchConfig, other: LaunchConfig) -> bool:
    return all(one.args.get(flag) == other.args.get(flag) for flag in STEP_SIZE)


def fit_utilization(now: Situation, config: LaunchConfig) -> LaunchConfig | str:
    """Take all that is free, less what is taken beyond that share."""
    most = most_utilization(now, config)
    if most <= 0:
        return "no memory is left"
    return config.replace({"gpu-memory-utilization": most})
