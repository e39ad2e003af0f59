"""What helps requests that are preempted again and again: room for them on the host, or fewer."""

import math

from ...outcome import Degraded
from ...units import GIB
from ...vllm.config import LaunchConfig
from ...vllm.flags import SWAPPING
from ...vllm.versions import ONE_ENGINE, SWAPS_IN_SHARED_MEMORY
from ..facts import Facts
from ..trial import Trial
from .situation import Situation

NO_STORM = "no launch was slowed down by preemptions"
# At most this share of the host's free memory is taken for the KV cache.
HOST_SHARE = 0.5


def fit_swap(now: Situation, config: LaunchConfig) -> LaunchConfig | str:
    """Give the KV cache of waiting requests as much host memory as the devices give it, or half.

    vLLM keeps it in shared memory since 0.20 (v1/kv_offload/cpu/shared_offload_region.py).
    """
    facts, engine = now.facts, now.facts.engine
    fixed = [flag for flag in SWAPPING if flag in facts.fixed]
    known = [flag for flag in SWAPPING if engine.knows(flag)]
    if fixed:
        return f"you set --{fixed[0]} yourself"
    if not known:
        return f"vLLM {engine.version} has no --{' and no --'.join(SWAPPING)}"
    if known[0] == "swap-space" and engine.release >= ONE_ENGINE:
        return f"vLLM {engine.version} has --swap-space, but does not use it"
    if facts.devices[0].unified:
        return "CPU and GPU share memory: there is no other to swap to"
    storms = now.storms()
    if not storms:
        return NO_STORM
    free = facts.host_free_bytes * HOST_SHARE
    if engine.release >= SWAPS_IN_SHARED_MEMORY and facts.shared_free_bytes is not None:
        free = min(free, facts.shared_free_bytes)
    wanted = max((t.readings.kv_bytes or free) * len(facts.used(t.config)) for t in storms)
    gib = min(int(free / GIB), max(1, math.ceil(wanted / GIB)))
    if known[0] == "swap-space":
        gib //= max(1, config.world_size)  # which is for each GPU, the other flag for all
    if gib < 1:
        return "less than 1 GiB of host memory is free for it"
    return config.replace({known[0]: gib})


def fit_full_sequences(now: Situation, config: LaunchConfig) -> LaunchConfig | str:
    """Run no more requests at once than fit with their answers: then none has to give way.

    Those that were seen to push each other out have lengths; without them, at full length.
    """
    storms, facts = now.storms(), now.facts
    if not storms:
        return NO_STORM
    stormed = min(_at_once(facts, storm.config) for storm in storms)
    held = [fit for storm in storms if (fit := _fit_at_once(facts, storm))]
    fits = max(facts.workload.concurrency, int(min(held, default=stormed / 4)))
    if facts.workload.concurrency >= stormed:
        return f"you asked for {facts.workload.concurrency} sequences at once"
    if fits >= stormed:
        return f"already at {stormed} sequences, which fit at full length"
    return config.replace({"max-num-seqs": fits})


def _at_once(facts: Facts, config: LaunchConfig) -> int:
    _, default = facts.batch_defaults(config)
    return config.integer("max-num-seqs", default)


def _fit_at_once(facts: Facts, storm: Trial) -> float | None:
    seen = storm.outcome.fit_at_once if isinstance(storm.outcome, Degraded) else None
    if seen and seen < _at_once(facts, storm.config):
        return seen
    return storm.readings.concurrency  # they stormed with no more than fit at those lengths
