"""The whole context of a shortened winner, for fewer sequences."""

from collections.abc import Sequence

from ..vllm.config import LaunchConfig
from .facts import Facts
from .fit import FEWER_SEQUENCES, Situation, most_utilization
from .prediction import calibrate, predict
from .trial import Trial


def sequences_for_whole_context(
    facts: Facts, history: Sequence[Trial], winner: LaunchConfig
) -> int | None:
    """Return how many sequences at once leave room for the whole context of a shortened winner.

    None where the winner has it, or fewer sequences than it serves do not surely make room.
    """
    if "max-num-seqs" in facts.fixed or facts.length(winner) >= facts.context:
        return None
    calibration = calibrate(facts, history)
    now = Situation(facts, history, calibration)
    for sequences in (n for n in FEWER_SEQUENCES if facts.workload.concurrency <= n):
        if sequences >= facts.setup(winner).sequences:
            continue
        config = winner.replace({"max-num-seqs": sequences, "max-model-len": facts.context})
        if "gpu-memory-utilization" not in facts.fixed:
            share = max(0.0, most_utilization(now, config))
            config = config.replace({"gpu-memory-utilization": share})
        if predict(facts, calibration, config).fits == "yes":
            return sequences
    return None
