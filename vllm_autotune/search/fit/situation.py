"""What a solver may look at."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeGuard

from ...memory import Calibration
from ...outcome import (
    IMAGES_OUT_OF_MEMORY,
    PREEMPTION_STORM,
    Ailment,
    Degraded,
    Hung,
    Outcome,
    OutOfMemory,
)
from ..facts import Facts
from ..trial import Trial

# Phases in which memory outside the KV cache ran out: there the KV cache must leave more room.
OUTSIDE_KV = ("graphs", "warmup", "serving")
# The least chance that a launch must have: little for the first one, which measures, and more after
# each that ran out of memory. Of recorded first launches (H200, results/examples) the three with
# 0.11 to 0.14 ran out, the seven with 0.44 to 0.87 were stable.
CHANCES = (0.2, 0.6, 0.9)


def lacked_memory(outcome: Outcome) -> TypeGuard[OutOfMemory | Hung | Degraded]:
    """Tell whether memory ran out, or requests had to wait for blocks of the KV cache too much."""
    if isinstance(outcome, Hung):
        return outcome.phase == "serving" and not waits(outcome)
    return isinstance(outcome, OutOfMemory) or is_storm(outcome)


def is_storm(outcome: Outcome) -> bool:
    """Tell whether requests pushed each other out of the KV cache again and again."""
    return isinstance(outcome, Degraded) and outcome.cause == PREEMPTION_STORM


def waits(failed: OutOfMemory | Hung) -> bool:
    """Tell whether a worker answered no more: it waits for something else than memory."""
    from ...diagnose import HANGS  # noqa: PLC0415  plans and recalled answers do without

    return failed.cause in HANGS


def ailment_of(failed: OutOfMemory | Hung | Degraded) -> Ailment:
    """Return what a rung must cure for this not to happen again."""
    if is_storm(failed):
        return "preemptions"
    over_images = failed.cause == IMAGES_OUT_OF_MEMORY and failed.phase == "profile"
    return "images" if over_images else failed.phase


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

    @property
    def least_chance(self) -> float:
        """The chance that the next launch must have to succeed."""
        return CHANCES[min(self.lacked, len(CHANCES) - 1)]

    @property
    def lacked(self) -> int:
        """How many launches ran out of memory, but over images: those tell nothing of the rest."""
        outcomes = [trial.outcome for trial in self.history]
        return sum(lacked_memory(found) and ailment_of(found) != "images" for found in outcomes)

    def storms(self) -> list[Trial]:
        """Return the trials in which requests pushed each other out again and again."""
        return [trial for trial in self.history if is_storm(trial.outcome)]

    def over_images(self) -> list[Trial]:
        """Return the trials whose memory ran out over images, videos or sounds."""
        return [t for t in self.history if getattr(t.outcome, "cause", "") == IMAGES_OUT_OF_MEMORY]

    def too_large_steps(self) -> list[Trial]:
        """Return the trials whose step was too large, and no lower utilization answers that."""
        lowered = "gpu-memory-utilization" in self.fitted
        return self.failures("profile", *(() if lowered else OUTSIDE_KV))
