"""Several GPUs: layers split over them (tensor), dealt out to them (pipeline), or both."""

from collections.abc import Iterator, Sequence
from itertools import product
from math import gcd, prod
from typing import NamedTuple

from ...machine.device import IN_ORDER, differ
from ...outcome import Rejected
from ...vllm.config import LaunchConfig, Value
from ...vllm.flags import PARALLEL, PARTITION
from ...vllm.versions import REFINES_FP8_BLOCKS
from .context import shortest_fits
from .situation import Situation
from .utilization import most_utilization

TENSOR, PIPELINE, EXPERTS = PARALLEL[0], PARALLEL[1], "enable-expert-parallel"
# What a rejection is called that another number of GPUs answers (diagnose/rejections.py).
INDIVISIBLE = "tensor_parallel_indivisible"
# Blocks of experts in fp8 are made no smaller than this (`refine_fp8_moe_block_shape`).
LEAST_BLOCK = 32
# The vocabulary is padded to a multiple of this, then divided (vocab_parallel_embedding.py, 0.32).
VOCABULARY_STEP = 64


class Split(NamedTuple):
    """How many GPUs share each layer, and how many groups of them the layers are dealt out to."""

    tensor: int
    pipeline: int

    @property
    def gpus(self) -> int:
        return self.tensor * self.pipeline


def fit_tensor_parallel(now: Situation, config: LaunchConfig) -> LaunchConfig | str:
    """Split layers over the fewest GPUs that divide heads and MLPs and may fit.

    As many as were asked for at least; over all of them on a ladder that spreads.
    """
    facts, checkpoint = now.facts, now.facts.checkpoints[config.model]
    most, heads = len(facts.devices) // config.world_size, checkpoint.heads
    if most < 2:
        return "your arguments already use every GPU"
    if differ(facts.devices):
        return "the GPUs are of several kinds: none shares a layer with another kind"
    if not any(divides_heads(now, config, n) for n in range(2, most + 1)):
        return f"no GPU count up to {most} divides {heads} attention heads"
    sizes = _tensor_sizes(now, config, most)
    if not sizes:
        blocks = f" into whole blocks of {checkpoint.block}" if checkpoint.block > 1 else ""
        return f"no GPU count up to {most} divides {heads} heads and the MLPs{blocks}"
    found = [Split(n, config.pipeline_parallel) for n in sizes]
    if target := _target(now, config, found):
        if target.tensor == 1:
            return f"pipeline parallel alone uses {target.pipeline} GPUs"
        return _split(now, config, Split(target.tensor, config.pipeline_parallel))
    return _first_that_fits(now, config, found)


def fit_pipeline_parallel(now: Situation, config: LaunchConfig) -> LaunchConfig | str:
    """Deal layers out to groups of GPUs, each of which may split them further."""
    found = [split for split in _splits(now, config) if split.pipeline > 1]
    if not found:
        return "tensor parallel already uses every GPU"
    # As long as the rung is only there to use enough GPUs, tensor parallel may be enough.
    if PIPELINE not in now.fitted and not now.facts.ladder.spreads:
        if config.world_size >= now.facts.workload.min_gpus:
            return f"tensor parallel already uses {config.world_size} GPUs"
    elif target := _target(now, config, found):
        if target.pipeline == 1:
            return "tensor parallel already uses every GPU"
        return _split(now, config, target)
    return _first_that_fits(now, config, found)


def divides_heads(now: Situation, config: LaunchConfig, size: int) -> bool:
    checkpoint = now.facts.checkpoints[config.model]
    kv_heads = max(1, checkpoint.kv_heads)
    return checkpoint.heads % size == 0 and (kv_heads % size == 0 or size % kv_heads == 0)


def _target(now: Situation, config: LaunchConfig, found: list[Split]) -> Split | None:
    """Return the split to use whatever fits, None where that is to be found out.

    A ladder that spreads uses the most GPUs. Where too few can share a layer for what was asked
    for, both ways together use as few as are enough.
    """
    every = list(_splits(now, config))
    if now.facts.ladder.spreads:
        return max(every, key=lambda split: (split.gpus, split.tensor))
    least = now.facts.workload.min_gpus
    if least == 1 or any(_gpus(config, split) >= least for split in found):
        return None
    enough = [split for split in every if _gpus(config, split) >= least]
    return min(enough, key=lambda split: (split.gpus, -split.tensor), default=None)


def _splits(now: Situation, config: LaunchConfig) -> Iterator[Split]:
    """Yield every way to use these GPUs that rungs and the user's arguments leave."""
    facts = now.facts
    most = len(facts.devices) // _others(config)
    tensor = [1]
    if not differ(facts.devices):
        tensor += _tensor_sizes(now, config.replace({TENSOR: None, PIPELINE: None}), most)
    pipeline = list(range(1, min(most, facts.checkpoints[config.model].layers) + 1))
    for flag, sizes in ((TENSOR, tensor), (PIPELINE, pipeline)):
        if flag in facts.fixed:
            sizes[:] = [config.integer(flag, 1)]
        elif flag not in now.offered:
            sizes[:] = [1]
    yield from (Split(t, p) for t in tensor for p in pipeline if 1 < t * p <= most)


def _others(config: LaunchConfig) -> int:
    """Return how many GPUs the user's other ways to use several multiply these by."""
    return prod(config.integer(flag, 1) for flag in PARALLEL if flag not in (TENSOR, PIPELINE))


def _gpus(config: LaunchConfig, split: Split) -> int:
    return split.gpus * _others(config)


def _tensor_sizes(now: Situation, config: LaunchConfig, most: int) -> list[int]:
    """Return how many GPUs can share a layer, with expert parallel where that is needed."""
    refused = _refused(now, config)
    return [
        size
        for size in range(2, most + 1)
        if divides_heads(now, config, size)
        and _divides_vocabulary(now, config, size)
        and size not in refused
        and (_divides_mlps(now, config, size) or _needs_experts(now, config, size))
    ]


def _divides_vocabulary(now: Situation, config: LaunchConfig, size: int) -> bool:
    words = now.facts.checkpoints[config.model].vocab_size
    return -(-words // VOCABULARY_STEP) * VOCABULARY_STEP % size == 0


def _needs_experts(now: Situation, config: LaunchConfig, size: int) -> bool:
    """Tell whether experts must be dealt out whole: each would not be divided as it must be."""
    facts = now.facts
    mixture = facts.checkpoints[config.model].experts and facts.engine.knows(EXPERTS)
    if not mixture or EXPERTS in facts.fixed or _divides_mlps(now, config, size):
        return False
    return _divides_mlps(now, config.replace({EXPERTS: True}), size)


def _divides_mlps(now: Situation, config: LaunchConfig, size: int) -> bool:
    """Tell whether each GPU gets whole blocks of every MLP.

    Blocks are checked in fp8_utils.py, `validate_fp8_block_shape` (0.26 and 0.32), and for
    experts in fp8.py (0.26).
    """
    checkpoint = now.facts.checkpoints[config.model]
    least = block = checkpoint.block
    if checkpoint.quantization == "fp8" and now.facts.engine.release >= REFINES_FP8_BLOCKS:
        least = min(LEAST_BLOCK, block)
    experts = 0 if config.expert_parallel else checkpoint.expert_size
    whole = checkpoint.intermediate_size % (size * block) == 0
    return whole and experts % size == 0 and gcd(experts // size, block) >= least


def _refused(now: Situation, config: LaunchConfig) -> set[int]:
    """Return the numbers of GPUs that vLLM could not divide these weights by."""
    return {
        trial.config.tensor_parallel
        for trial in now.history
        if isinstance(trial.outcome, Rejected)
        and trial.outcome.cause == INDIVISIBLE
        and _same_weights(trial.config, config)
    }


def _same_weights(tried: LaunchConfig, config: LaunchConfig) -> bool:
    return tried.model == config.model and tried.quantization == config.quantization


def _split(now: Situation, config: LaunchConfig, split: Split) -> LaunchConfig:
    """Return a configuration that splits the model so."""
    fixed, args = now.facts.fixed, dict[str, Value | None]()
    for flag, size in zip((TENSOR, PIPELINE), split, strict=True):
        if flag not in fixed:
            args[flag] = size if size > 1 else None
    if EXPERTS not in fixed:
        plain = config.replace({EXPERTS: None})
        args[EXPERTS] = True if _needs_experts(now, plain, split.tensor) else None
    return _dealt(now, config.replace(args))


def _dealt(now: Situation, config: LaunchConfig) -> LaunchConfig:
    """Return the configuration with the layers dealt out to GPUs of several kinds.

    What the user set stays.
    """
    facts, stages = now.facts, config.pipeline_parallel
    if stages == 1 or PARTITION in facts.env or not differ(facts.used(config)):
        return config
    layers = facts.checkpoints[config.model].layers
    partition = apportion(layers, [_room(now, config, stage) for stage in range(stages)])
    return config.replace(env={PARTITION: ",".join(map(str, partition)), **IN_ORDER})


def _room(now: Situation, config: LaunchConfig, stage: int) -> float:
    """Return the bytes of a stage that are left for layers and what these keep of tokens."""
    facts = now.facts
    share = facts.engine.default_utilization if config.utilization is None else config.utilization
    if "gpu-memory-utilization" not in facts.fixed:
        most = most_utilization(now, config)
        share = most if "gpu-memory-utilization" in now.fitted else min(share, most)
    one, two = (now.calibration.footprint(facts.staged(config, stage, n)) for n in (1, 2))
    room = share * facts.staged(config, stage, 1).device.utilization_base
    if not two.overhead.known:
        return room
    layer = two.overhead.middle - one.overhead.middle
    return room - (one.overhead.middle - layer)


def apportion(layers: int, rooms: Sequence[float]) -> tuple[int, ...]:
    """Deal layers to stages, one at least each, so that the least room of a layer is the most."""
    counts = [1] * len(rooms)
    for _ in range(layers - len(rooms)):
        roomiest = max(range(len(rooms)), key=lambda n: rooms[n] / (counts[n] + 1))
        counts[roomiest] += 1
    return tuple(counts)


def _first_that_fits(
    now: Situation, config: LaunchConfig, found: list[Split]
) -> LaunchConfig | str:
    """Return the configuration with the fewest GPUs that may fit, with a chance worth a launch.

    Where none has that, it is the fewest that are not ruled out.
    Where more of the weights can be left to the host, or so many GPUs were asked for, the rest of
    the ladder makes the most of them fit.
    """
    # A size that ran out of memory before is not tried again: the next one splits finer.
    tried = [t.config for t in now.failures("load") if _same_weights(t.config, config)]
    failed = max((c.world_size for c in tried), default=1)
    least = now.facts.workload.min_gpus
    # GPUs that differ tell nothing of what they lacked: more of them are the surer answer.
    lacked = [t for t in now.failures("profile", "kv_cache") if t.predicted.stages]
    vain = max((t.config.world_size for t in lacked), default=1)
    order = sorted(found, key=lambda split: (split.gpus, -split.tensor))
    for chance, above, split in product((now.least_chance, 0.0), (vain, 1), order):
        candidate, enough = _split(now, config, split), max(least, failed + 1, above + 1)
        if candidate.world_size >= enough and shortest_fits(now, candidate, chance):
            return candidate
    most = _split(now, config, order[-1])
    if most.world_size > failed and ("cpu-offload-gb" in now.fitted or least > 1):
        return most
    return f"even {most.world_size} GPUs together are too small"
