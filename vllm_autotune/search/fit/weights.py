"""Where the weights come from, and where they lie."""

import math

from ...units import GIB
from ...vllm.config import LaunchConfig
from ..prediction import predict
from .context import shortest, shortest_fits
from .situation import Situation


def fit_checkpoint(now: Situation, config: LaunchConfig) -> LaunchConfig | str:
    """Take the largest quantized sibling that may fit, which gives up least."""
    siblings = sorted(
        (name for name in now.facts.checkpoints if name != now.facts.model),
        key=lambda name: -(now.facts.checkpoints[name].weight_bytes or 0),
    )
    failed = {trial.model for trial in now.failures("load")}
    for name in siblings:
        candidate = config.replace({"revision": None}, model=name)  # it is the other model's
        if name not in failed and shortest_fits(now, candidate):
            return candidate
    if siblings:
        return "no quantized checkpoint next to the model is small enough"
    return "no quantized checkpoint found next to the model"


def fit_offload(now: Situation, config: LaunchConfig) -> LaunchConfig | str:
    """Put as many whole GiB of the weights into host memory as the KV cache lacks."""
    if now.facts.devices[0].unified:
        return "CPU and GPU share memory: offloading frees nothing"
    original, weights = config, predict(now.facts, now.calibration, config).weights.high
    # Pinned host copies took 1.9 times the offloaded bytes (vLLM issue 56410), on each GPU.
    parts = len(now.facts.used(config))
    most = min(now.facts.host_free_bytes / 1.9 / parts, weights)
    failed = now.failures("load", "profile", "kv_cache")
    already = max((int(t.config.cpu_offload_gib) for t in failed), default=0)
    if already:  # what it lacked is measured, and a shorter context may be what is missing
        config = shortest(now, config.replace({"cpu-offload-gb": already}))
    lacking = _lacking(now, config)
    all_of_them = config.replace({"cpu-offload-gb": int(most / GIB)})
    if (
        lacking > most
        and predict(now.facts, now.calibration, all_of_them).chance < now.least_chance
    ):
        lacking = _lacking(now, shortest(now, config))
    if math.isinf(lacking):
        return "this architecture's memory cannot be estimated"
    if now.history and now.history[-1] in now.failures("load"):
        lacking = max(lacking, 2 * GIB)  # the weights are larger than estimated
    gib = min(already + max(0, math.ceil(lacking / GIB)), int(most / GIB))
    if gib == 0 and lacking <= 0:
        return "not needed: the weights already fit"
    if gib == 0:
        return "the weights are smaller than 1 GiB" if weights < GIB else "no host memory is free"
    return original.replace({"cpu-offload-gb": gib})


def _lacking(now: Situation, config: LaunchConfig) -> float:
    prediction = predict(now.facts, now.calibration, config)
    return prediction.kv_needed.high - prediction.kv_available.low
