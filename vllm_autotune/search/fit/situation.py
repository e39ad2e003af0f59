"""What a solver may look at."""

from collections.abc import Sequence
from dataclasses import dataclass

from ...memory import Calibration, batch_defaults
from ...outcome import Hung, OutOfMemory
from ...vllm.config import LaunchConfig
from ..facts import Attempt, Facts

# Phases in which memory outside the KV cache ran out: there the KV cache must leave more room.
OUTSIDE_KV = ("graphs", "warmup", "serving")


@dataclass(frozen=True, slots=True)
class Situation:
    """What a solver may look at.

    `fitted` are the flags that rungs of this draft solve.
    """

    facts: Facts
    history: Sequence[Attempt]
    calibration: Calibration
    fitted: frozenset[str] = frozenset()

    def failures(self, *phases: str) -> list[Attempt]:
        """Return the attempts that ran out of memory (or hung) in one of these phases."""
        return [
            a
            for a in self.history
            if isinstance(a.outcome, OutOfMemory | Hung) and a.outcome.phase in phases
        ]

    def unanswered(self) -> list[Attempt]:
        """Return the attempts whose step was too large, and no lower utilization answers that."""
        lowered = "gpu-memory-utilization" in self.fitted
        return self.failures("profile", *(() if lowered else OUTSIDE_KV))

    def defaults(self, config: LaunchConfig) -> tuple[int, int]:
        """Return batched tokens and sequences as this vLLM would choose them."""
        return batch_defaults(self.facts.devices[0], config, self.facts.engine.release)
