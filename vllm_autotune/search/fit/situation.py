"""What a solver may look at."""

from collections.abc import Sequence
from dataclasses import dataclass

from ...memory import Calibration
from ...outcome import IMAGES_OUT_OF_MEMORY, PREEMPTION_STORM, Hung, OutOfMemory
from ..facts import Facts
from ..trial import Trial

# Phases in which memory outside the KV cache ran out: there the KV cache must leave more room.
OUTSIDE_KV = ("graphs", "warmup", "serving")


@dataclass(frozen=True, slots=True)
class Situation:
    """What a solver may look at.

    `fitted` are the flags that rungs of this candidate solve, `offered` those that any rung of the
    ladder may.
    """

    facts: Facts
    history: Sequence[Trial]
    calibration: Calibration
    fitted: frozenset[str] = frozenset()
    offered: frozenset[str] = frozenset()

    def failures(self, *phases: str) -> list[Trial]:
        """Return the trials that ran out of memory (or hung) in one of these phases."""
        return [
            trial
            for trial in self.history
            if isinstance(trial.outcome, OutOfMemory | Hung)
            and trial.outcome.phase in phases
            and not waits(trial.outcome)
        ]

    def storms(self) -> list[Trial]:
        """Return the trials in which requests pushed each other out again and again."""
        return [t for t in self.history if getattr(t.outcome, "cause", "") == PREEMPTION_STORM]

    def over_images(self) -> list[Trial]:
        """Return the trials whose memory ran out over images, videos or sounds."""
        return [t for t in self.history if getattr(t.outcome, "cause", "") == IMAGES_OUT_OF_MEMORY]

    def too_large_steps(self) -> list[Trial]:
        """Return the trials whose step was too large, and no lower utilization answers that."""
        lowered = "gpu-memory-utilization" in self.fitted
        return self.failures("profile", *(() if lowered else OUTSIDE_KV))


def waits(failed: OutOfMemory | Hung) -> bool:
    """Tell whether a worker answered no more: it waits for something else than memory."""
    from ...diagnose import HANGS  # noqa: PLC0415  plans and recalled answers do without

    return failed.cause in HANGS
