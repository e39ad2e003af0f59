"""Several GPUs: layers split over them, or dealt out to them."""

from collections.abc import Sequence

from ..config import LaunchConfig
from .context import shortest_fits
from .situation import Situation


def fit_tensor_parallel(now: Situation, config: LaunchConfig) -> LaunchConfig | str:
    """Split layers over the fewest GPUs that divide the heads and may fit."""
    checkpoint = now.facts.checkpoints[config.model]
    heads, kv_heads = checkpoint.heads, max(1, checkpoint.kv_heads)
    most = len(now.facts.devices) // now.facts.world(config)
    if most < 2:
        return "your arguments use every GPU already"
    sizes = [
        n for n in range(2, most + 1) if heads % n == 0 and (kv_heads % n == 0 or n % kv_heads == 0)
    ]
    if not sizes:
        return f"no number of GPUs up to {most} divides {heads} heads"
    return _first_that_fits(now, config, "tensor-parallel-size", sizes)


def fit_pipeline_parallel(now: Situation, config: LaunchConfig) -> LaunchConfig | str:
    """Deal layers out to the GPUs that tensor parallel leaves."""
    layers = now.facts.checkpoints[config.model].layers
    alone = config.replace({"tensor-parallel-size": None})
    tried = [config] if "tensor-parallel-size" in now.facts.fixed else [config, alone]
    for split in tried:
        groups = len(now.facts.devices) // now.facts.world(split)
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
        if size > failed and shortest_fits(now, candidate):
            return candidate
    if "cpu-offload-gb" in now.fitted and sizes[-1] > failed:
        return config.replace({flag: sizes[-1]})  # host memory takes the rest
    return f"even {sizes[-1]} GPUs are too small together"
