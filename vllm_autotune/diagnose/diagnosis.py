"""A vLLM log read to its end: what failed, in which phase, with which numbers, and the cures."""

import json
import sys
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

from ..errors import BadUsage
from ..outcome import Crashed, FailedOutcome, Phase, Readings
from .reader import LogReader
from .signatures import cures

CHUNK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """The verdict over one log; `outcome` None means that no failure is in it.

    Without an outcome, a server that was not `ready` was killed, or its log is incomplete.
    `last_error` is the last line that looks like an error, whoever wrote it; empty if none does.
    """

    outcome: FailedOutcome | None
    readings: Readings
    phase: Phase
    cures: tuple[str, ...]
    ready: bool
    last_error: str

    @property
    def understood(self) -> bool:
        """Whether a known signature, or a normal run, explains the log."""
        if self.outcome is None:
            return self.ready
        return not isinstance(self.outcome, Crashed) or self.outcome.cause != "unknown"

    def to_json(self) -> str:
        found = self.outcome
        more = ("shortfall_bytes", "limit", "where", "argument")
        numbers = asdict(self.readings) | {name: getattr(found, name, None) for name in more}
        return json.dumps(
            {
                "outcome": found.kind if found else None,
                "phase": found.phase if found else self.phase,
                "ready": self.ready,
                "cause": found.cause if found else None,
                "reason": found.reason if found else None,
                "numbers": {name: value for name, value in numbers.items() if value is not None},
                "evidence": list(found.evidence) if found else [],
                "cures": list(self.cures),
                "vllm_version": self.readings.version,
            }
        )


def read_log(name: str) -> Diagnosis:
    """Read a log file in bounded memory; `-` is stdin. Raises BadUsage if it cannot be read."""
    reader, path = LogReader(), Path(name)
    try:
        with (
            nullcontext(sys.stdin)
            if name == "-"
            else path.open(encoding="utf-8", errors="replace") as file
        ):
            while chunk := file.read(CHUNK):
                reader.feed(chunk)
    except OSError as error:
        raise BadUsage(f"{name} cannot be read: {error.strerror}", "check the path") from error
    outcome = reader.verdict()
    return Diagnosis(
        outcome=outcome,
        readings=reader.readings,
        phase=reader.phase,
        cures=cures(outcome) if outcome else (),
        ready=reader.ready or reader.phase == "serving",
        last_error=reader.last_error,
    )
