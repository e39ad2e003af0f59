"""Several GPUs: layers split over them, or dealt out to them."""

from collections.abc import Sequence
from math import gcd

from ...outcome import Rejected
from ...vllm.config import LaunchConfig
from ...vllm.versions import REFINES_FP8_BLOCKS
from .context import shortest_fits
from .situation import Situation

# What a rejection is called that another number of GPUs answers (diagnose/rejections.py).
INDIVISIBLE = "tensor_parallel_indivisible"
# Blocks of experts in fp8 are made no smaller than this (`refine_fp8_moe_block_shape`).
LEAST_BLOCK = 32


def fit_tensor_parallel(now: Situation, config: LaunchConfig) -> LaunchConfig | str:
    """Split layers over the fewest GPUs that divide heads and MLPs and may fit."""
    checkpoint = now.facts.checkpoints[config.model]
    heads, kv_heads = checkpoint.heads, max(1, checkpoint.kv_heads)
    most = len(now.facts.devices) // config.world_size
    if most < 2:
        return "your arguments already use every GPU"
    sizes = [
        n for n in range(2, most + 1) if heads % n == 0 and (kv_heads % n == 0 or n % kv_heads == 0)
    ]
    if not sizes:
        return f"no GPU count up to {most} divides {heads} attention heads"
    refused = _refused(now, config)
    sizes = [n for n in sizes if _divides_mlps(now, config, n) and n not in refused]
    if not sizes:
        blocks = f" into whole blocks of {checkpoint.block}" if checkpoint.block > 1 else ""
        return f"no GPU count up to {most} divides {heads} heads and the MLPs{blocks}"
    return _first_that_fits(now, config, "tensor-parallel-size", sizes)


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
        and trial.model == config.model
        and trial.config.quantization == config.quantization
    }


def fit_pipeline_parallel(now: Situation, config: LaunchConfig) -> LaunchConfig | str:
    """Deal layers out to the GPUs that tensor parallel leaves."""
    layers = now.facts.checkpoints[config.model].layers
    alone = config.replace({"tensor-parallel-size": None})
    tried = [config] if "tensor-parallel-size" in now.facts.fixed else [config, alone]
    for split in tried:
        groups = len(now.facts.devices) // split.world_size
        sizes = list(range(2, min(groups, layers) + 1))
        if sizes:
            return _first_that_fits(now, split, "pipeline-parallel-size", sizes)
    return "tensor parallel already uses every GPU"


def _first_that_fits(
    now: Situation, config: LaunchConfig, flag: str, sizes: Sequence[int]
) -> LaunchConfig | str:
    # A size that ran out of memory before is not tried again: the next one splits finer.
    failed = max((t.config.integer(flag, 1) for t in now.failures("load")), default=1)
    for size in sizes:
        candidate = config.replace({flag: size})
        if size > failed and shortest_fits(now, candidate):
            return candidate
    if "cpu-offload-gb" in now.fitted and sizes[-1] > failed:
        return config.replace({flag: sizes[-1]})  # host memory takes the rest
    return f"even {sizes[-1]} GPUs together are too small"
