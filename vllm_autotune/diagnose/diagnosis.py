"""A vLLM log read to its end: what failed, in which phase, with which numbers, and the cures.

A file may hold several servers: services of a compose file, or starts one after the other. Each is
read by itself; the worst one's verdict is the file's.
"""

import sys
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from ..errors import BadUsage
from ..outcome import Crashed, FailedOutcome, Phase, Readings
from .envelope import Envelope
from .reader import LogReader, Start
from .signature import ANNOUNCEMENT
from .signatures import STRENGTH, cures

CHUNK = 1 << 20
MAX_LINE = 1 << 16  # what is longer is passed on in pieces
MAX_SOURCES = 32


@dataclass(frozen=True, slots=True)
class Server:
    """One start of a server in the file; `name` is its service's, empty where none is told."""

    name: str
    start: Start

    @property
    def is_vllm(self) -> bool:
        """Whether vLLM wrote this: by its words, or by how it failed."""
        outcome = self.start.outcome
        return self.start.of_vllm or (outcome is not None and outcome.cause != "unknown")

    @property
    def badness(self) -> int:
        """How much worse this is than others: a cause that is named counts most."""
        outcome = self.start.outcome
        if outcome is None:
            return -2 if self.start.ready else -1
        return STRENGTH.get(outcome.cause, ANNOUNCEMENT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """The verdict over one file: its worst server, and the others.

    `last_error` is the last line that looks like an error, whoever wrote it; empty if none does.
    """

    server: Server
    others: tuple[Server, ...] = ()
    cures: tuple[str, ...] = ()
    last_error: str = ""

    @property
    def outcome(self) -> FailedOutcome | None:
        return self.server.start.outcome

    @property
    def readings(self) -> Readings:
        return self.server.start.readings

    @property
    def phase(self) -> Phase:
        return self.server.start.phase

    @property
    def ready(self) -> bool:
        return self.server.start.ready

    @property
    def understood(self) -> bool:
        """Whether a known signature, or a normal run, explains the log."""
        if self.outcome is None:
            return self.ready
        return not isinstance(self.outcome, Crashed) or self.outcome.cause != "unknown"

    def document(self) -> "Document":
        return Document.of(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The verdict over one server, as JSON."""

    name: str
    outcome: str | None
    phase: Phase
    ready: bool
    cause: str | None
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A diagnosis as JSON; memory is in bytes, times are in seconds.

    `decisive` are the lines to read where no signature explains the log.
    """

    schema_version: Literal[1] = 1
    outcome: str | None
    phase: Phase
    ready: bool
    cause: str | None
    reason: str | None
    numbers: dict[str, str | int | float]
    evidence: tuple[str, ...]
    decisive: tuple[str, ...]
    cures: tuple[str, ...]
    vllm_version: str | None
    others: tuple[Verdict, ...]

    @classmethod
    def of(cls, found: Diagnosis) -> "Document":
        outcome = found.outcome
        more = ("shortfall_bytes", "limit", "where", "argument", "seconds")
        numbers = asdict(found.readings) | {name: getattr(outcome, name, None) for name in more}
        evidence = outcome.evidence if outcome else ()
        last = (found.last_error,) if found.last_error else ()
        return cls(
            outcome=outcome.kind if outcome else None,
            phase=outcome.phase if outcome else found.phase,
            ready=found.ready,
            cause=outcome.cause if outcome else None,
            reason=outcome.reason if outcome else None,
            numbers={name: value for name, value in numbers.items() if value is not None},
            evidence=evidence,
            decisive=() if found.understood else evidence or last,
            cures=found.cures,
            vllm_version=found.readings.version,
            others=tuple(verdict_of(server) for server in found.others),
        )


def verdict_of(server: Server) -> Verdict:
    start, outcome = server.start, server.start.outcome
    return Verdict(
        name=server.name,
        outcome=outcome.kind if outcome else None,
        phase=outcome.phase if outcome else start.phase,
        ready=start.ready,
        cause=outcome.cause if outcome else None,
        reason=outcome.reason if outcome else None,
    )


@dataclass(slots=True)
class FileReader:
    """Read a file as it comes: take its envelope off, and read each source by itself."""

    envelope: Envelope = field(default_factory=Envelope)
    readers: dict[str, LogReader] = field(default_factory=dict)
    _partial: str = ""
    _cut: LogReader | None = None  # who has the beginning of the line that goes on

    def feed(self, text: str) -> None:
        if self._cut is not None:
            rest, newline, text = text.partition("\n")
            self._cut.feed(rest + newline)
            if not newline:
                return
            self._cut = None
        whole, newline, self._partial = (self._partial + text).rpartition("\n")
        if newline:
            self._open(whole, "\n")
        if len(self._partial) > MAX_LINE:
            self._cut = self._open(self._partial, "")
            self._partial = ""

    def close(self) -> None:
        """Read the last line, which has no end."""
        if self._partial:
            self._open(self._partial, "")
            self._partial = ""

    def _open(self, text: str, end: str) -> LogReader | None:
        """Read the lines of each source; return the reader of the last one."""
        reader = None
        for source, inside in self.envelope.opened(text):
            reader = self._reader_of(source)
            reader.feed(inside + end)
        return reader

    def _reader_of(self, source: str) -> LogReader:
        if len(self.readers) >= MAX_SOURCES:
            return self.readers.get(source, next(iter(self.readers.values())))
        return self.readers.setdefault(source, LogReader())

    def diagnosis(self) -> Diagnosis:
        self.close()
        servers = [
            Server(name, start)
            for name, reader in (self.readers or {"": LogReader()}).items()
            for start in (*reader.earlier, reader.start())
        ]
        candidates = [server for server in servers if server.is_vllm] or servers
        worst = max(candidates, key=lambda server: server.badness)
        outcome = worst.start.outcome
        errors = [reader.last_error for reader in self.readers.values() if reader.last_error]
        return Diagnosis(
            server=worst,
            others=tuple(server for server in candidates if server is not worst),
            cures=cures(outcome) if outcome else (),
            last_error=errors[-1] if errors else "",
        )


def read_log(name: str) -> Diagnosis:
    """Read a log file in bounded memory; `-` is stdin. Raises BadUsage if it cannot be read."""
    reader, path = FileReader(), Path(name)
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
    return reader.diagnosis()
