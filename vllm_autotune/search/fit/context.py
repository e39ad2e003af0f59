"""The context: the longest that fits, down to the shortest the user accepts."""

from ...memory import Interval
from ...outcome import Hung, OutOfMemory
from ...vllm.config import AUTO, LaunchConfig
from ...vllm.versions import FITS_LENGTH
from ..auto_length import NOISE_BYTES, deployed
from ..prediction import predict
from ..trial import Trial
from .situation import Situation
from .utilization import most_utilization

# After a refusal, where in its interval the room for the KV cache is taken to be: low enough that
# the next launch succeeds, high enough to give no context away.
RETRY_SHARE = 0.4


def fit_context(now: Situation, config: LaunchConfig) -> LaunchConfig | str:
    """Serve the longest context that fits, down to the shortest the user accepts.

    Where nothing measured says what fits, vLLM is asked to find it.
    """
    facts, workload = now.facts, now.facts.workload
    wanted = facts.context
    if workload.min_context >= wanted:
        return f"you asked for at least {wanted:,} tokens"
    footprint = now.calibration.footprint(facts.setup(config))
    block = int(footprint.cache.block.low)
    # What runs out beside the KV cache does so by the batch, however long the context.
    hung = [t for t in now.failures("serving") if isinstance(t.outcome, Hung)]
    stuck = [t for t in hung if _differs_in_length(t, config)]
    prediction = predict(facts, now.calibration, config)
    # Asked for the length, vLLM goes up to the model's own.
    reaches = wanted <= facts.checkpoint.default_context and not workload.exact
    asks = facts.engine.release >= FITS_LENGTH and reaches and not stuck
    if prediction.fits == "unknown":
        alike = (t.outcome for t in reversed(now.history) if _differs_in_length(t, config))
        limit = next((o.limit for o in alike if isinstance(o, OutOfMemory)), None)
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
        most = facts.checkpoints[config.model].context
        sure, perhaps = footprint.cache.longest(room, workload.concurrency, block, most)
        length = sure if room.low == room.high else perhaps
        asks = asks and not prediction.measured
    if stuck:
        tried = facts.length(deployed(facts, stuck[-1].candidate, stuck[-1].readings).config)
        # A request that needs the last block there is may wait for it for ever.
        length = min(length, tried - block if len(stuck) == 1 else tried * 3 // 4)
    length = min(length, wanted) if length >= wanted else length // block * block
    if length == wanted and not asks:
        if now.history or prediction.chance >= now.least_chance:
            return "the whole context may fit"
        length -= block  # it hardly does: a refusal of this says what does
    if length < workload.min_context:
        return (
            f"at most {max(0, length):,} tokens fit, fewer than the {workload.min_context:,} "
            "you asked for"
        )
    return config.replace({"max-model-len": AUTO if asks else length})


def _differs_in_length(trial: Trial, config: LaunchConfig) -> bool:
    """Tell whether a trial's configuration is the same but for its length."""
    nothing = {"max-model-len": None}
    return trial.config.replace(nothing) == config.replace(nothing)


def shortest(now: Situation, config: LaunchConfig) -> LaunchConfig:
    """Return the configuration with the shortest acceptable context, if a rung may shorten it."""
    if "max-model-len" not in now.fitted:
        return config
    return config.replace({"max-model-len": min(now.facts.workload.min_context, now.facts.context)})


def shortest_fits(now: Situation, config: LaunchConfig, chance: float = 0.0) -> bool:
    """Tell whether the shortest acceptable context is not ruled out, at the share it may have.

    Where a `chance` is asked for, it has at least that.
    """
    if "gpu-memory-utilization" not in now.facts.fixed:
        most = most_utilization(now, config)
        raised = "gpu-memory-utilization" in now.fitted
        if raised or most < now.facts.engine.default_utilization:
            config = config.replace({"gpu-memory-utilization": max(0.0, most)})
    predicted = predict(now.facts, now.calibration, shortest(now, config))
    return predicted.fits != "no" and predicted.chance >= chance
