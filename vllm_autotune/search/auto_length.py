"""The length to deploy of a launch whose length vLLM chose itself (`--max-model-len auto`).

vLLM chooses what one sequence may have; the number deployed leaves room for as many as are asked
for, and for what the KV cache varies by.
"""

from dataclasses import replace

from ..memory import Interval, estimate
from ..memory.boot import cache_as_seen, concurrency_of
from ..outcome import Readings
from ..vllm.config import AUTO, LaunchConfig, Value
from .facts import Facts
from .trial import Candidate

# What the KV cache of one configuration varies by from launch to launch, doubled: 7 MiB between
# two starts on an H200 (vLLM 0.26), 4 MiB on a CPU (0.32).
NOISE_BYTES = {"cuda": 14 * 2**20, "cpu": 8 * 2**20}


def servable_length(
    facts: Facts, config: LaunchConfig, readings: Readings, spare_bytes: float = 0.0
) -> int:
    """Return the tokens each sequence may have with `spare_bytes` left over, in whole blocks."""
    served = readings.max_model_len or facts.length(config)
    # A length that vLLM cut fits one sequence, and no block more.
    cut = served < facts.checkpoints[config.model].default_context
    times = concurrency_of(readings, served)
    fits = max(1.0, times.low) if times else 1.0
    wanted = facts.workload.concurrency
    if config.partition:  # of which stage the bytes are is not known
        readings = replace(readings, kv_bytes=None)
    cache = cache_as_seen(estimate(facts.setup(config)).cache, readings, served, exactly=cut)
    block = int(cache.block.low)
    if cache.groups is None:
        spared = block if spare_bytes else 0
        return int(served * min(1.0, fits / wanted) - spared) // block * block
    found = []
    for end in (cache.position.low, cache.position.high):
        certain = replace(cache, position=Interval.exactly(end))
        room = fits * certain.bytes(served) - spare_bytes
        found.append(certain.longest(room, wanted, block, served)[0])
    return min(found)


def deployed(facts: Facts, candidate: Candidate, readings: Readings) -> Candidate:
    """Return the candidate to deploy of a stable launch: with a number where vLLM chose the length.

    Where what was wanted fits, nothing was given up.
    """
    config = candidate.config
    if not config.is_auto_length or readings.max_model_len is None:
        return candidate
    noise = NOISE_BYTES[facts.devices[0].kind]
    length = max(facts.length(config), servable_length(facts, config, readings, noise))
    asked = [applied for applied in candidate.rungs if AUTO in applied.args.values()]
    if length >= facts.context:
        config = config.replace({"max-model-len": facts.base().args.get("max-model-len")})
        kept = tuple(applied for applied in candidate.rungs if applied not in asked)
        return replace(candidate, config=config, rungs=kept)
    number: dict[str, Value] = {"max-model-len": length}
    rungs = tuple(
        replace(applied, args={**applied.args, **number}) if applied in asked else applied
        for applied in candidate.rungs
    )
    return replace(candidate, config=config.replace(number), rungs=rungs)
