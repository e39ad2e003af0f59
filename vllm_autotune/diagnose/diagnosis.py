"""A vLLM log read to its end: what died, in which phase, with which numbers, and the cure."""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from ..errors import BadUsage
from ..outcome import Crashed, FailedOutcome, Phase, Readings
from .reader import LogReader, cures

CHUNK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """The verdict over one log; `outcome` None means that nothing went wrong in it.

    Without an outcome, a server that was not `ready` was killed, or its log is cut off.
    """

    outcome: FailedOutcome | None
    readings: Readings
    phase: Phase
    cures: tuple[str, ...]
    ready: bool

    @property
    def understood(self) -> bool:
        """Tell whether a known signature, or a normal run, explains the log."""
        if self.outcome is None:
            return self.ready
        return not isinstance(self.outcome, Crashed) or self.outcome.cause != "unknown"

    def to_json(self) -> str:
        """Return one JSON document."""
        found = self.outcome
        numbers = {k: v for k, v in asdict(self.readings).items() if v is not None}
        for name in ("shortfall_bytes", "limit", "where", "argument"):
            value = getattr(found, name, None)
            if value is not None:
                numbers[name] = value
        return json.dumps(
            {
                "outcome": found.kind if found else None,
                "phase": found.phase if found else self.phase,
                "ready": self.ready,
                "cause": found.cause if found else None,
                "reason": found.reason if found else None,
                "numbers": numbers,
                "evidence": list(found.evidence) if found else [],
                "cures": list(self.cures),
                "vllm_version": self.readings.version,
            }
        )


def read_log(name: str) -> Diagnosis:
    """Read a log file in bounded memory; `-` is stdin.

    Raises BadUsage when it cannot be read.
    """
    reader = LogReader()
    try:
        for text in _chunks(name):
            reader.feed(text)
    except OSError as error:
        raise BadUsage(f"{name} cannot be read: {error.strerror}", "check the path") from error
    outcome = reader.verdict()
    return Diagnosis(
        outcome=outcome,
        readings=reader.readings,
        phase=reader.phase,
        cures=cures(outcome) if outcome else (),
        ready=reader.ready or reader.phase == "serving",
    )


def _chunks(name: str) -> Iterator[str]:
    if name == "-":
        yield from _read(sys.stdin)
        return
    with Path(name).open(encoding="utf-8", errors="replace") as file:
        yield from _read(file)


def _read(file: IO[str]) -> Iterator[str]:
    while chunk := file.read(CHUNK):
        yield chunk
