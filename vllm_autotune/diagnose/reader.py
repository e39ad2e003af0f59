"""What a vLLM log says: how far it came, the numbers on the way, and what went wrong.

The phase is the last milestone; the cause is the strongest signature, the first of its strength.
Wrappers (`Engine core initialization failed`) never are a cause.
"""

from collections.abc import Iterable

from ..outcome import PHASES, Crashed, FailedOutcome, Hung, Phase, Readings
from . import lines
from .clues import TELLING, TELLING_BEFORE_READY, Clues, clues_of, lines_with
from .finding import MOST_EVIDENCE, SHOWN, Finding
from .milestones import Milestone, readings_of
from .signature import DEATH, Signature
from .signatures import OUT_OF_MEMORY_CURES, SIGNATURES

WINDOW = 1 << 18  # characters looked at in one go
LONGEST_LINE = 1 << 14  # a longer one is read in pieces that overlap
OVERLAP = 1 << 11
ATTENTIVE_FOR = 8  # lines among which the rest of a torn one, or what belongs to it, must come
MOST_UNKNOWN = 3
SIGKILLED = (-9, 137)
ASKED_TO_STOP = (-15, -2, 143, 130)


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
        self._finding: Finding | None = None
        self._unknown: list[str] = []
        self._last_word = ""
        self._memory_lines: dict[str, str] = {}
        self._torn: tuple[str, ...] = ()
        self._attentive = 0

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
            window = lines.without_ansi(self._partial + text[start : start + WINDOW])
            whole, newline, self._partial = window.rpartition("\n")
            if newline:
                self._read(whole)
            while len(self._partial) > LONGEST_LINE:
                self._read(self._partial[:LONGEST_LINE])
                self._partial = self._partial[LONGEST_LINE - OVERLAP :]

    def _read(self, text: str) -> None:
        """Take the telling ones of some whole lines."""
        starting = not self.ready or " version " in text
        telling = lines_with(TELLING_BEFORE_READY if starting else TELLING, text)
        if not telling and not self._attentive and not lines.may_be_torn(text):
            self._tail = text.rstrip().rpartition("\n")[2] or self._tail
            return
        telling.append(len(text) + 1)
        start, following = 0, iter(telling)
        next_one = next(following)
        for line in text.split("\n"):
            told = next_one == start
            if told:
                next_one = next(following, -1)
            start += len(line) + 1
            if (told and not lines.is_source(line)) or self._attentive or lines.may_be_torn(line):
                self._take(line)
            if line and " Route: " not in line:
                self._tail = line

    def _take(self, line: str) -> None:
        """Look at one line, and at what it makes together with lines torn before it."""
        if len(line) > LONGEST_LINE:
            for start in range(0, len(line), LONGEST_LINE - OVERLAP):
                self._take(line[start : start + LONGEST_LINE])
            return
        if "\r" in line:
            if "%|" in line and "Capturing CUDA graph" in line:
                self._reach("graphs")
            line = lines.without_bars(line)
        head, *others = lines.untangle(line) if lines.may_be_torn(line) else (line,)
        joined = tuple(start + head for start in self._torn)
        for text in (head, *joined, *others):
            self._look(text)
        if others:
            self._torn = (*self._torn, *joined, head)[-4:]
            self._attentive = ATTENTIVE_FOR
        elif self._attentive:
            self._attentive -= 1
            if not self._attentive:
                self._torn = ()

    def _look(self, line: str) -> None:
        clues = clues_of(line)
        if clues.is_source:
            return
        found = self._finding
        if found and found.may_go_on:
            said = line[clues.said_at :].strip()
            if found.is_followed_by(said):
                self._finding = found.followed_by(line, said)
        if "started again" in clues.marks and (
            self.ready or found or self._stopping or self._last_word
        ):
            self._restart()
        if not self.ready:
            self._eager = self._eager or "eager" in clues.marks
            self._measure(line, clues.milestones)
        self._stopping = self._stopping or "stopping" in clues.marks
        if not self._stopping:
            self._blame(line, clues)

    def _measure(self, line: str, milestones: Iterable[Milestone]) -> None:
        for milestone in milestones:
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
            if self._finding and self._finding.signature.survivable:
                self._finding = None
        if phase == "serving" and not self.ready:
            # Whatever it complained of, it survived.
            self.ready, self._finding, self._unknown, self._last_word = True, None, [], ""

    def _blame(self, line: str, clues: Clues) -> None:
        if "last word" in clues.marks:
            self._last_word = line[:SHOWN].strip()
        for signature in clues.signatures:
            if self.ready and not signature.serving:
                continue
            found = self._finding
            if found and found.is_beyond(signature):
                continue
            if found and found.has_all_of(signature):
                return
            match = signature.pattern.search(line)
            if match and not _harmless(line[: match.start()], signature):
                self._note(Finding.of(signature, match, self.phase, line))
                return
        if clues.is_exception and len(self._unknown) < MOST_UNKNOWN:
            self._unknown.append(line[:SHOWN].strip())

    def _note(self, new: Finding) -> None:
        old = self._finding
        if old is None or new.signature.strength > old.signature.strength:
            self._finding = new
            self._attentive = ATTENTIVE_FOR
        elif old.lacks(new):
            self._finding = old.completed(new)
        else:
            return
        self.readings = self.readings.updated(self._finding.readings)

    def terminal(self) -> FailedOutcome | None:
        """Return the verdict as soon as a line was seen that this start cannot survive."""
        found = self._finding
        if (found and found.signature.fatal) or (self._last_word and not self._stopping):
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
        found = self._finding
        if found and found.signature.strength > DEATH:
            return self._outcome(found, exit_code)
        if self._stopping and found is None:
            return None
        died = found is not None or self._last_word or exit_code not in (None, 0)
        if died and host_oom_kills > 0 and (found or not self._unknown):
            return self._death("killed_by_host", exit_code)
        if self.ready or not self._unknown:
            if exit_code in SIGKILLED or (found and found.groups.get("exit") == "-9"):
                return self._death("killed", exit_code)
            if found:
                return self._death("engine_died", exit_code)
        if self.ready and exit_code in (None, 0, *ASKED_TO_STOP):
            return None
        if died or exit_code is not None or self._unknown:
            return self._crashed(exit_code)
        return None

    def unexplained(self, exit_code: int) -> Crashed:
        """Return that the server ended, for a log with nothing wrong in it."""
        how = f"signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}"
        return Crashed(
            cause="unknown",
            phase=self.phase,
            reason=f"the server ended ({how}) and did not say why",
            evidence=(self.last_line,) if self.last_line else (),
            exit_code=exit_code,
        )

    def never_ready(self, seconds: float) -> Hung:
        """Return that the server was not ready in time, and the last that was heard of it."""
        return Hung(
            cause="never_ready",
            phase=self.phase,
            seconds=seconds,
            reason=f"it was not ready after {seconds:.0f} s",
            evidence=(self.last_line,) if self.last_line else (),
        )

    def _outcome(self, found: Finding, exit_code: int | None) -> FailedOutcome:
        memory = found.signature.kind == "out_of_memory"
        supporting = reversed(self._memory_lines.values()) if memory else ()
        return found.outcome(self.readings, supporting, exit_code)

    def _death(self, name: str, exit_code: int | None) -> FailedOutcome:
        """Return the verdict on a process that died without a word about the cause."""
        found = self._finding
        line = found.line if found else self.last_line
        said_first, *said = (*self._unknown, line)
        return Finding(
            signature=next(signature for signature in SIGNATURES if signature.name == name),
            phase=found.phase if found else self.phase,
            line=said_first,
            groups=found.groups if found else {},
            after=tuple(said),
        ).outcome(exit_code=exit_code)

    def _crashed(self, exit_code: int | None) -> Crashed:
        if self._unknown:
            reason = lines.body(self._unknown[0]).strip()
            evidence = (*self._unknown, self._last_word)
        else:
            words = lines.body(self.last_line).strip()
            reason = "it did not say why" + (f"; its last line: {words}" if words else "")
            evidence = (self.last_line,)
        return Crashed(
            cause="unknown",
            phase=self.phase,
            reason=reason if exit_code is None else f"{reason} (exit code {exit_code})",
            evidence=tuple(filter(None, evidence))[:MOST_EVIDENCE],
            exit_code=exit_code,
        )


def _harmless(lead: str, signature: Signature) -> bool:
    """Tell whether what follows `lead` is only talked about, or was survived."""
    if lines.quotes(lead):
        return True
    loudness = lines.level(lead)
    return loudness in ("DEBUG", "INFO") or (loudness == "WARNING" and signature.strength > DEATH)


def cures(outcome: FailedOutcome) -> tuple[str, ...]:
    """Return what helps against this failure, best first, in words for a person."""
    for signature in SIGNATURES:
        if signature.name == outcome.cause:
            return signature.cures or OUT_OF_MEMORY_CURES.get(outcome.phase, ())
    return ()
