"""What a vLLM log says: how far it came, the numbers on the way, and what went wrong.

The phase is the last milestone; the cause is the strongest signature, the first of its strength.
Wrappers (`Engine core initialization failed`) never are a cause.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from . import lines
from .milestones import MILESTONES, readings_of, to_bytes
from .outcome import (
    PHASES,
    Crashed,
    Environment,
    FailedOutcome,
    OutOfMemory,
    Phase,
    Readings,
    Rejected,
)
from .signatures import DEATH, SIGNATURES, Signature

WINDOW = 1 << 20  # characters looked at in one go
LONGEST_LINE = 1 << 15  # a longer one is read in pieces that overlap
OVERLAP = 1 << 11
SHOWN = 600  # characters of a line kept as evidence
MOST_EVIDENCE = 5
TORN_FOR = 8  # lines after which the rest of a torn line is given up
SIGKILLED = (-9, 137)
ASKED_TO_STOP = (-15, -2, 143, 130)

EXCEPTION = re.compile(
    r"(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Interrupt|Exit|Fault|Timeout)(?::|$)"
)
WRAPPER = re.compile(
    r"Engine core initialization failed|Engine process failed to start|EngineCore failed to start|"
    r"WorkerProc (?:failed to start|hit an exception|initialization failed)|"
    r"Worker failed with error|EngineDeadError|EngineCore encountered|"
    r"KeyboardInterrupt|SystemExit|CancelledError"
)
LAST_WORD = re.compile(r"Error: Engine (?:core initialization failed|process failed to start)")
# Somebody asked the server to stop; what dies afterwards dies on purpose.
STOPPING = re.compile(
    r"\[shutdown\] API server: shutdown triggered|\[shutdown\] EngineCore: trigger received signal|"
    r"Shutting down FastAPI HTTP server"
)
STARTED_AGAIN = re.compile(r"(?:█|API server) +version v?\d")
EAGER = re.compile(r"Enforce eager set|'enforce_eager': True|Cudagraph is disabled")
IDENTIFIER = re.compile(r"[a-z_]+$")
INTERESTING = lines.any_of(
    ("rror", "xception", "ERROR", "nforce", "Cudagraph", "[shutdown] ", "Shutting down FastAPI")
    + tuple(milestone.needle for milestone in MILESTONES)
    + tuple(signature.needle for signature in SIGNATURES)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Hit:
    """One signature found: where the start had come to, and what the line said."""

    signature: Signature
    phase: Phase
    line: str = ""
    groups: dict[str, str]
    readings: Readings = Readings()
    after: tuple[str, ...] = ()


class LogReader:
    """Read a vLLM log as it grows, in bounded memory; ask at any time what it says so far."""

    def __init__(self) -> None:
        self._partial = ""
        self._tail = ""
        self._restart()

    def _restart(self) -> None:
        self.readings = Readings()
        self.phase: Phase = "spawn"
        self.ready = False
        self._eager = False
        self._stopping = False
        self._hit: _Hit | None = None
        self._unknown: list[str] = []
        self._last_word = ""
        self._memory_lines: dict[str, str] = {}
        self._torn: tuple[str, ...] = ()
        self._torn_for = 0

    @property
    def last_line(self) -> str:
        """The last line worth showing, without terminal codes."""
        for line in (self._partial, self._tail):
            shown = lines.without_ansi(line[-LONGEST_LINE:]).rstrip().rpartition("\r")[2].strip()
            if shown:
                return shown[:SHOWN]
        return ""

    def feed(self, text: str) -> None:
        """Take the next text of the log, cut wherever it was."""
        for start in range(0, len(text), WINDOW):
            data = lines.without_ansi(self._partial + text[start : start + WINDOW])
            *whole, self._partial = data.split("\n")
            for line in whole:
                if self._torn or INTERESTING.search(line) or lines.may_be_torn(line):
                    self._take(line)
            self._tail = next(
                (line for line in reversed(whole) if line.strip() and " Route: " not in line),
                self._tail,
            )[-LONGEST_LINE:]
            while len(self._partial) > LONGEST_LINE:
                self._take(self._partial[:LONGEST_LINE])
                self._partial = self._partial[LONGEST_LINE - OVERLAP :]

    def _take(self, line: str) -> None:
        """Look at one line, and at what it makes together with lines torn before it."""
        if len(line) > LONGEST_LINE:
            for start in range(0, len(line), LONGEST_LINE - OVERLAP):
                self._take(line[start : start + LONGEST_LINE])
            return
        if "%|" in line and "Capturing CUDA graph" in line:
            self._reach("graphs")
        if "\r" in line:
            line = lines.without_bars(line)
        head, *others = lines.untangle(line)
        joined = tuple(start + head for start in self._torn)
        for text in (head, *joined, *others):
            self._look(text)
        if others:
            self._torn = (*self._torn, *joined, head)[-4:]
            self._torn_for = TORN_FOR
        elif self._torn:
            self._torn_for -= 1
            if not self._torn_for:
                self._torn = ()

    def _look(self, line: str) -> None:
        self._continue(line)
        if not INTERESTING.search(line):
            return
        if (self._hit or self._stopping or self._last_word) and STARTED_AGAIN.search(line):
            self._restart()
        if not self.ready:
            self._measure(line)
        self._stopping = self._stopping or bool(STOPPING.search(line))
        if not self._stopping:
            self._blame(line)

    def _continue(self, line: str) -> None:
        """Add what pydantic says below its first line: the field, then what is wrong with it."""
        hit = self._hit
        if hit and len(hit.after) < 2 and "validation error" in hit.line and line.strip():
            said = lines.body(line).strip()
            groups = hit.groups
            if not hit.after and IDENTIFIER.match(said):
                groups = {**groups, "argument": said}
            self._hit = replace(hit, after=(*hit.after, line[:SHOWN].strip()), groups=groups)

    def _measure(self, line: str) -> None:
        self._eager = self._eager or bool(EAGER.search(line))
        for milestone in MILESTONES:
            if milestone.needle not in line:
                continue
            match = milestone.pattern.search(line)
            if not match:
                continue
            lead = line[: match.start()]
            if lines.quotes(lead) or lines.level(lead) == "ERROR":
                continue
            if milestone.phase:
                self._reach(milestone.phase)
            if match.re.groups and not lines.other_rank(line):
                self.readings = self.readings.updated(readings_of(match))
                if "_bytes" in match.re.pattern:
                    self._memory_lines[milestone.needle] = line[:SHOWN].strip()

    def _reach(self, phase: Phase) -> None:
        if phase == "graphs" and self._eager:
            phase = "warmup"
        if PHASES.index(phase) > PHASES.index(self.phase):
            self.phase = phase
        if phase == "serving" and not self.ready:
            # Whatever it complained of, it survived.
            self.ready, self._hit, self._unknown, self._last_word = True, None, [], ""

    def _blame(self, line: str) -> None:
        said = lines.body(line)
        if said.startswith("    "):  # source in a traceback
            return
        if LAST_WORD.search(line):
            self._last_word = line[:SHOWN].strip()
        for signature in SIGNATURES:
            if signature.needle in line and (signature.serving or not self.ready):
                match = signature.pattern.search(line)
                if match and not _harmless(line[: match.start()], signature):
                    self._note(signature, match, line)
                    return
        lead = line[: len(line) - len(said)]
        if len(self._unknown) < 3 and EXCEPTION.match(said) and not WRAPPER.search(line):
            if lines.level(lead) in (None, "ERROR", "CRITICAL"):
                self._unknown.append(line[:SHOWN].strip())

    def _note(self, signature: Signature, match: re.Match[str], line: str) -> None:
        hit = _Hit(
            signature=signature,
            phase=signature.phase or self.phase,
            line=line[:SHOWN].strip(),
            groups={name: text.strip() for name, text in match.groupdict().items() if text},
            readings=readings_of(match),
        )
        old = self._hit
        if old is None or signature.strength > old.signature.strength:
            self._hit = hit
        elif signature.name == old.signature.name:
            # Said twice; the first may have been torn.
            self._hit = replace(
                old,
                groups={**hit.groups, **old.groups},
                readings=hit.readings.updated(old.readings),
            )
        else:
            return
        self.readings = self.readings.updated(self._hit.readings)

    def terminal(self) -> FailedOutcome | None:
        """Return the verdict as soon as a line was seen that this start cannot survive."""
        hit = self._hit
        if hit and hit.signature.fatal:
            return _outcome(hit, self.readings, self._memory_lines, None)
        if self._last_word and not self._stopping:
            return self.verdict()
        return None

    def verdict(
        self, *, exit_code: int | None = None, host_oom_kills: int = 0
    ) -> FailedOutcome | None:
        """Return what went wrong, now that the process is gone or the log is all there is.

        None: the log shows no failure. `exit_code` as `subprocess` gives it, None where unknown;
        `host_oom_kills` is by how much `oom_kill` rose in the cgroup's `memory.events`.
        """
        if self._partial:
            self._take(self._partial)
        hit = self._hit
        if hit and hit.signature.strength > DEATH:
            return _outcome(hit, self.readings, self._memory_lines, exit_code)
        killed = exit_code in SIGKILLED or (hit is not None and hit.groups.get("exit") == "-9")
        died = hit is not None or self._last_word or exit_code not in (None, 0)
        if self._stopping and hit is None:
            return None
        if died and host_oom_kills > 0:
            return self._death("killed_by_host", exit_code)
        if killed and not self._unknown:
            return self._death("killed", exit_code)
        if hit and (self.ready or not self._unknown):
            return self._death("engine_died", exit_code)
        if self.ready and exit_code in (None, 0, *ASKED_TO_STOP):
            return None
        if died or exit_code is not None or self._unknown:
            return self._crashed(exit_code)
        return None

    def _death(self, name: str, exit_code: int | None) -> FailedOutcome:
        signature = next(s for s in SIGNATURES if s.name == name)
        hit = self._hit
        return _outcome(
            _Hit(
                signature=signature,
                phase=hit.phase if hit else self.phase,
                line=hit.line if hit else self.last_line,
                groups=hit.groups if hit else {},
                after=tuple(self._unknown),
            ),
            self.readings,
            {},
            exit_code,
        )

    def _crashed(self, exit_code: int | None) -> Crashed:
        said = lines.body(self._unknown[0]).strip() if self._unknown else "it did not say why"
        how = "" if exit_code is None else f" (exit code {exit_code})"
        evidence = tuple(filter(None, (*self._unknown, self._last_word)))
        return Crashed(
            cause="unknown",
            phase=self.phase,
            reason=said + how,
            evidence=evidence or tuple(filter(None, (self.last_line,))),
            exit_code=exit_code,
        )


def _harmless(lead: str, signature: Signature) -> bool:
    """Tell whether a signature after `lead` is only talked about, or survived."""
    if lines.quotes(lead):
        return True
    loudness = lines.level(lead)
    return loudness in ("DEBUG", "INFO") or (loudness == "WARNING" and signature.strength > DEATH)


def _outcome(
    hit: _Hit, readings: Readings, memory_lines: dict[str, str], exit_code: int | None
) -> FailedOutcome:
    signature = hit.signature
    out_of_memory = signature.kind == "out_of_memory"
    supporting = tuple(reversed(memory_lines.values())) if out_of_memory else ()
    evidence = dict.fromkeys(filter(None, (hit.line, *hit.after, *supporting)))
    common: dict[str, Any] = {
        "cause": signature.name,
        "phase": hit.phase,
        "reason": _sentence(hit),
        "evidence": tuple(evidence)[:MOST_EVIDENCE],
    }
    match signature.kind:
        case "out_of_memory":
            return OutOfMemory(
                **common,
                where=signature.where,
                shortfall_bytes=_shortfall(hit, readings),
                limit=hit.readings.estimated_max_model_len,
            )
        case "rejected":
            argument = hit.groups.get("argument") or signature.argument
            return Rejected(**common, argument=argument and argument.replace("_", "-"))
        case "environment":
            return Environment(**common)
        case "crashed":
            return Crashed(**common, exit_code=exit_code)


def _sentence(hit: _Hit) -> str:
    """Fill the signature's reason; a number that was cut off the log is `?`."""

    def shown(match: re.Match[str]) -> str:
        text = hit.groups.get(match[1], "?")
        return f"{text} GiB" if match[1].endswith("_bytes") and " " not in text else text

    return re.sub(r"\{(\w+)\}", shown, hit.signature.reason)[:SHOWN]


def _shortfall(hit: _Hit, readings: Readings) -> int | None:
    """How many bytes were missing, as far as the log tells."""
    wanted = hit.readings.kv_needed_bytes or hit.readings.tried_bytes
    left = hit.groups.get("left_bytes")
    if hit.readings.kv_needed_bytes is not None and hit.readings.kv_bytes is not None:
        return hit.readings.kv_needed_bytes - hit.readings.kv_bytes
    if "wanted_bytes" in hit.groups:
        wanted = to_bytes(hit.groups["wanted_bytes"])
    if wanted is not None and left:
        return max(wanted - to_bytes(left), 0)
    if hit.phase == "kv_cache" and readings.kv_bytes is not None and readings.kv_bytes < 0:
        return -readings.kv_bytes
    return None


def diagnose(
    log: Iterable[str], exit_code: int | None = None, host_oom_kills: int = 0
) -> FailedOutcome | None:
    """Return the verdict on a whole log, given as lines or as pieces of text."""
    reader = LogReader()
    for text in log:
        reader.feed(text)
    return reader.verdict(exit_code=exit_code, host_oom_kills=host_oom_kills)


def cures(outcome: FailedOutcome) -> tuple[str, ...]:
    """Return what helps against this failure, best first, in words for a person."""
    for signature in SIGNATURES:
        if signature.name == outcome.cause:
            return signature.cure_in(outcome.phase)
    return ()
