"""What the log of one vLLM server says: how far it got, its numbers, and what went wrong.

The phase is the last milestone, or what the traceback shows; the cause is the strongest signature,
the first of its strength. Wrappers (`Engine core initialization failed`) are never a cause.
"""

from dataclasses import dataclass, replace

from ..outcome import PHASES, Crashed, FailedOutcome, Hung, Phase, Readings
from . import lines
from .faults import SIGNALS, signal_of
from .finding import MAX_EVIDENCE, Finding
from .lines import MAX_EXCERPT, excerpt
from .milestones import Milestone, readings_of
from .prefilter import WORTH_READING, WORTH_READING_AT_START, Shape, line_starts, shape_of, unlike
from .signature import PROCESS_DIED, Signature
from .signatures import BY_NAME, OF_MEDIA
from .trace import Trace, later

WINDOW = 1 << 18  # characters searched in one go
LONGEST_LINE = 1 << 14  # a longer one is read in pieces that overlap
OVERLAP = 1 << 11
FOLLOW_UP = 8  # lines among which the rest of a torn one, or what belongs to it, must come
MAX_TORN = 4
MAX_JOINED = 3  # lines over which one message may be broken
MAX_UNKNOWN = 3
MAX_STARTS = 8
ASKED_TO_STOP = (-15, -2, 143, 130)


@dataclass(frozen=True, slots=True)
class Unknown:
    """An exception without a signature: its line, its message, and the frame it came from."""

    line: str
    message: str
    phase: Phase
    where: str = ""
    code: str = ""

    @classmethod
    def of(cls, line: str, message: str, milestone: Phase, trace: Trace) -> "Unknown":
        phase = later(milestone, trace.phase)
        return cls(excerpt(line), message.strip(), phase, trace.where, trace.code)

    @property
    def reason(self) -> str:
        """The message, and where it was raised; without a message, the code that raised it."""
        bare = self.message.endswith(("Error", "Exception", ":"))
        code = f" at `{self.code}`" if bare and self.code else ""
        where = f" ({self.where})" if self.where else ""
        return f"{self.message.rstrip(':')}{code}{where}"

    @property
    def place(self) -> str:
        return f"{self.where}: {self.code}" if self.code else self.where


@dataclass(frozen=True, slots=True)
class Start:
    """What became of one start of a server; without an outcome and not `ready`, it was cut off."""

    outcome: FailedOutcome | None
    readings: Readings
    phase: Phase
    ready: bool
    of_vllm: bool


class LogReader:
    """Read a vLLM log as it grows, in bounded memory; ask at any time for its verdict so far."""

    def __init__(self) -> None:
        self._partial = ""
        self._read_partial = ""  # as much of it as was read already
        self._tail = ""
        self.earlier: list[Start] = []  # in the same log, one of each kind of end
        self._reset()

    def _reset(self) -> None:
        self.readings = Readings()
        self.phase: Phase = "spawn"
        self.ready = False
        self.last_error = ""
        self.of_vllm = False  # whether any line looks like one of vLLM's
        self._eager = False
        self._parallel = False
        self._quantized = False
        self._stopping = False
        self._interrupted = ""  # the line in which somebody pressed Ctrl-C
        self._finding: Finding | None = None
        self._trace = Trace()
        self._unknown: list[Unknown] = []
        self._start_failed = ""  # the line of a wrapper that says so
        self._failing = ""  # a line that says so before the cause does
        self._native: list[str] = []  # errors of compilers, drivers and runtimes
        self._memory_lines: dict[str, str] = {}
        self._torn: tuple[str, ...] = ()  # beginnings whose rest is still to come
        self._broken: tuple[str, ...] = ()  # a message whose rest the next lines may have
        self._joined = 0  # how many lines that is
        self._follow_up = 0  # how many more lines to read, worth reading or not

    @property
    def last_line(self) -> str:
        """The last line worth showing, without terminal codes."""
        for line in (self._partial, self._tail):
            shown = lines.without_ansi(line[-LONGEST_LINE:]).rstrip().rpartition("\r")[2].strip()
            if shown:
                return shown[:MAX_EXCERPT]
        return ""

    def feed(self, text: str) -> None:
        """Read the next text of the log, cut anywhere."""
        for start in range(0, len(text), WINDOW):
            window = lines.without_ansi(self._partial + text[start : start + WINDOW])
            whole, newline, self._partial = window.rpartition("\n")
            if newline:
                self._read_lines(whole)
            while len(self._partial) > LONGEST_LINE:
                self._read_lines(self._partial[:LONGEST_LINE])
                self._partial = self._partial[LONGEST_LINE - OVERLAP :]

    def _read_lines(self, text: str) -> None:
        starting = not self.ready or " version " in text
        needles = WORTH_READING_AT_START if starting else WORTH_READING
        shapes = unlike(text)
        starts, torn = line_starts(needles, text, shapes), any(map(lines.may_be_torn, shapes))
        if not starts and not self._follow_up and not torn:
            self._tail = text.rstrip().rpartition("\n")[2] or self._tail
            self._see_life(text)
            return
        start = 0
        for line in text.split("\n"):
            if start in starts or self._follow_up or (torn and lines.may_be_torn(line)):
                self._read_line(line)
            if self._unknown or self._finding:
                self._see_life(line)
            start += len(line) + 1
            if line and " Route: " not in line:
                self._tail = line

    def _see_life(self, text: str) -> None:
        """Forget what the server survived: it answered a request after that."""
        waits = self._finding is not None and self._finding.signature.survivable
        if not self.ready or not (self._unknown or waits) or not lines.shows_life(text):
            return
        self._unknown = []
        if waits:
            self._finding = None

    def _read_line(self, line: str) -> None:
        """Read one line, and what it makes together with the beginnings torn off before it."""
        if len(line) > LONGEST_LINE:
            for start in range(0, len(line), LONGEST_LINE - OVERLAP):
                self._read_line(line[start : start + LONGEST_LINE])
            return
        if "\r" in line:
            if "%|" in line and "Capturing CUDA graph" in line:
                self._enter("graphs")
            line = lines.without_progress_bars(line)
        head, *others = lines.split_torn(line) if lines.may_be_torn(line) else (line,)
        joined = tuple(start + head for start in self._torn)
        for whole in (head, *joined, *others):
            self._read_whole(whole)
        if others:
            self._torn = (*self._torn, *joined, head)[-MAX_TORN:]
            self._follow_up = FOLLOW_UP
        elif self._follow_up:
            self._follow_up -= 1
            if not self._follow_up:
                self._torn, self._broken = (), ()

    def _read_whole(self, line: str) -> None:
        shape = shape_of(line)
        text = line[shape.message_at :].strip()
        if shape.is_source:
            self._trace.read_code(text)
            return
        says_more = bool(shape.is_error or shape.milestones or shape.signatures)
        says_more = says_more and not text.startswith("assert ")
        if self._trace.read(text, may_be_code=not says_more):
            self._follow_up = max(self._follow_up, FOLLOW_UP)
            return
        self._note_events(line, text, shape)
        if self._finding:
            self._finding = self._finding.continued(line, text)
        if not self.ready:
            for milestone in shape.milestones:
                self._pass(milestone, line)
        if shape.is_error:
            self.last_error = excerpt(line)
        if self._stopping:
            return
        wholes = self._with_the_line_above(line, text)
        self._look_for_failure(line, text, shape)
        for whole in wholes:
            self._matches_any(whole, shape_of(whole), again=True)

    def _note_events(self, line: str, text: str, shape: Shape) -> None:
        events = shape.events
        if "start" in events and (
            self.ready or self._finding or self._unknown or self._stopping or self._start_failed
        ):
            self._begin_anew()
        self._eager = self._eager or ("eager" in events and not self.ready)
        self._parallel = self._parallel or "parallel" in events or lines.is_other_rank(line)
        self._quantized = self._quantized or "quantized" in events
        self._stopping = self._stopping or "shutdown" in events
        self.of_vllm = self.of_vllm or "ours" in events
        if "traceback" in events:
            self._trace.begin()
            self._follow_up = max(self._follow_up, FOLLOW_UP)
        if "method" in events:
            self._trace.read_method(text)
        if shape.of_request:
            self._trace.note_request()
        if "failing" in events and not self.ready and not self._failing:
            self._failing = excerpt(line)
        if lines.is_native_error(text) and len(self._native) < MAX_UNKNOWN and not self.ready:
            self._native.append(excerpt(line))
        if "interrupt" in events and "^C" in line and not self.ready:
            self._interrupted = excerpt(line)

    def _begin_anew(self) -> None:
        """Begin with another start of the server in the same log."""
        ended, ends = self._start_of(self._judged(None, 0)), [_end_of(s) for s in self.earlier]
        if _end_of(ended) not in ends and len(ends) < MAX_STARTS:
            self.earlier.append(ended)
        self._reset()

    def start(self) -> Start:
        """Return what became of the last start in the log."""
        return self._start_of(self.verdict())

    def _start_of(self, outcome: FailedOutcome | None) -> Start:
        ready = self.ready or self.phase == "serving"
        return Start(outcome, self.readings, self.phase, ready, self.of_vllm)

    def _with_the_line_above(self, line: str, text: str) -> tuple[str, ...]:
        """Return a message that is broken over several lines as one, if this is its rest."""
        if not self._broken or not text:
            return ()
        if lines.begins(line) or self._joined == MAX_JOINED:
            self._broken = ()
            return ()
        self._joined += 1
        self._broken = tuple(
            (start + between + text)[:LONGEST_LINE]
            for start in self._broken[:2]
            for between in ("", " ")
        )
        return self._broken

    def _pass(self, milestone: Milestone, line: str) -> None:
        match = milestone.pattern.search(line)
        if not match:
            return
        lead = line[: match.start()]
        if lines.quotes_request(lead) or lines.level(lead) == "ERROR":
            return
        if milestone.of_a_tail and (self.phase != "spawn" or self._finding or self._start_failed):
            return
        self.of_vllm = True
        if milestone.phase:
            self._enter(milestone.phase)
        if match.re.groups and not lines.is_other_rank(line):
            self.readings = self.readings.updated(readings_of(match))
            if "_bytes" in match.re.pattern:
                self._memory_lines[milestone.needle] = excerpt(line)

    def _enter(self, phase: Phase) -> None:
        if phase == "graphs" and self._eager:
            phase = "warmup"
        if PHASES.index(phase) > PHASES.index(self.phase):
            self.phase = phase
            if self._finding and self._finding.signature.survivable:
                self._finding = None
        if phase == "serving" and not self.ready:
            # It survived every error before this.
            self.ready, self._finding, self._unknown, self._start_failed = True, None, [], ""

    def _look_for_failure(self, line: str, text: str, shape: Shape) -> None:
        if "start failed" in shape.events:
            self._start_failed = excerpt(line)
        known = self._matches_any(line, shape)
        if shape.signatures or shape.is_error:
            self._broken, self._joined = (line[:LONGEST_LINE],), 0
            self._follow_up = max(self._follow_up, FOLLOW_UP)
        if not known and shape.is_exception and not (self.ready and shape.of_request):
            self._take_unknown(Unknown.of(line, text, self.phase, self._trace))

    def _matches_any(self, line: str, shape: Shape, *, again: bool = False) -> bool:
        """Tell whether a signature matches the line, and keep what it says.

        `again`: it is a line that was read, with the rest of its message.
        """
        for signature in shape.signatures:
            if not self._may_mean(signature, shape):
                continue
            found = self._finding
            if found and found.outranks(signature):
                continue
            if found and found.is_complete_for(signature):
                return True
            match = signature.pattern.search(line)
            if match and not _is_harmless(line[: match.start()], signature):
                of_media = OF_MEDIA.get(signature.name) if self._trace.of_media else None
                means = of_media or signature
                new = Finding.of(means, match, line, self.phase, self._trace.phase)
                self._record(new, again=again)
                return True
        return False

    def _may_mean(self, signature: Signature, shape: Shape) -> bool:
        """Tell whether the line can mean this here: after readiness a request may be at fault."""
        of_a_start = signature.fatal and signature.kind in ("rejected", "out_of_memory")
        if self.ready and not signature.serving and (shape.of_request or not of_a_start):
            return False
        match signature.given:
            case "parallel":
                return self._parallel
            case "single":
                return not self._parallel
            case "quantized":
                return self._quantized
            case None:
                return True

    def _take_unknown(self, new: Unknown) -> None:
        """Keep an exception, unless where it was raised says what it is."""
        before = self._finding
        if self._matches_any(new.reason, shape_of(new.reason), again=True):
            if self._finding and self._finding is not before:
                self._finding = replace(self._finding, line=new.line, after=(new.place,))
            return
        if len(self._unknown) < MAX_UNKNOWN:
            self._unknown.append(new)

    def _record(self, new: Finding, *, again: bool) -> None:
        old = self._finding
        if old is None or new.signature.strength > old.signature.strength:
            self._finding = new
            self._follow_up = FOLLOW_UP
        elif new.signature is old.signature and new.signature.at_any_level:
            self._finding = replace(old, times=old.times + (not again))
        else:
            self._finding = old.completed(new)
        if self._finding is not old:
            self.readings = self.readings.updated(self._finding.readings)

    def terminal(self) -> FailedOutcome | None:
        """Return the verdict as soon as a line was read that this start cannot survive."""
        found = self._finding
        if (found and found.signature.fatal) or (self._start_failed and not self._stopping):
            return self.verdict()
        return None

    def verdict(
        self, *, exit_code: int | None = None, host_oom_kills: int = 0
    ) -> FailedOutcome | None:
        """Return the outcome, now that the process is gone or the log is all there is.

        None: the log shows no failure. `exit_code` as `subprocess` gives it, None where unknown;
        `host_oom_kills` is by how much `oom_kill` rose in the cgroup's `memory.events`.
        """
        self._read_the_rest()
        return self._judged(exit_code, host_oom_kills)

    def _judged(self, exit_code: int | None, host_oom_kills: int) -> FailedOutcome | None:
        found = self._finding
        if found and found.signature.strength != PROCESS_DIED:
            is_memory = found.signature.kind == "out_of_memory"
            supporting = reversed(self._memory_lines.values()) if is_memory else ()
            found = replace(found, shown=found.shown or self._trace.phase)
            return found.outcome(self.readings, supporting, exit_code)
        if self._stopping and found is None:
            return None
        died = found is not None or bool(self._start_failed) or exit_code not in (None, 0)
        if died and host_oom_kills > 0 and (found or not self._unknown):
            return self._died("killed_by_host", exit_code)
        if (self.ready or not self._unknown) and (how := self._died_how(exit_code)):
            return how
        if self.ready and not self._unknown and exit_code in (None, 0, *ASKED_TO_STOP):
            return None
        return self._unnamed(exit_code, died=died)

    def _died_how(self, exit_code: int | None) -> FailedOutcome | None:
        """Return how a process ended: by a signal, with its engine, or by somebody's Ctrl-C."""
        found = self._finding
        signal = signal_of(exit_code) or signal_of(found.groups.get("exit") if found else None)
        if signal is not None and signal in SIGNALS:
            return self._died(SIGNALS[signal][1], exit_code, SIGNALS[signal][0])
        if found:
            return self._died("engine_died", exit_code)
        if self._interrupted and exit_code is None:
            return self._died("interrupted", None)
        return None

    def _unnamed(self, exit_code: int | None, *, died: bool) -> FailedOutcome | None:
        """Return a crash by the first line that says something, None where nothing failed."""
        if self._unknown:
            first = self._unknown[0]
            more = (*(each.line for each in self._unknown), self._start_failed)
            return self._crashed(first.reason, exit_code, *more, phase=first.phase)
        if self._failing and (self._native or exit_code is None) and not self.ready:
            told = (*self._native, self._failing)
            return self._crashed(lines.message(told[0]).strip(), exit_code, *told)
        if died or exit_code is not None:
            last = lines.message(self.last_line).strip()
            reason = "the log does not say why" + (f"; its last line: {last}" if last else "")
            return self._crashed(reason, exit_code, self.last_line)
        return None

    def _read_the_rest(self) -> None:
        """Read a last line that has no end, once."""
        if self._partial != self._read_partial:
            self._read_partial = self._partial
            self._read_line(self._partial)

    def unexplained(self, exit_code: int) -> Crashed:
        reason = "the server ended without an error in its log"
        return self._crashed(reason, exit_code, self.last_line)

    def never_ready(self, seconds: float) -> Hung:
        reason = f"the server was not ready after {seconds:.0f} s"
        shown = (self.last_line,) if self.last_line else ()
        return Hung(
            cause="never_ready", phase=self.phase, seconds=seconds, reason=reason, evidence=shown
        )

    def _died(self, name: str, exit_code: int | None, detail: str = "") -> FailedOutcome:
        found = self._finding
        unknown = [each.line for each in self._unknown]
        first, *after = (*unknown, found.line if found else self._interrupted or self.last_line)
        groups = {**(found.groups if found else {}), "detail": detail}
        if self._unknown:
            groups["because"] = f" of this: {self._unknown[0].reason}"
        elif found and name == "engine_died":
            told = not lines.is_wrapper(found.line)
            why = f": {lines.message(found.line).strip()}" if told else "; the log does not say why"
            groups["because"] = why
        died = Finding(
            signature=BY_NAME[name],
            milestone=found.phase if found else self.phase,
            shown=(found.shown if found else None) or self._trace.phase,
            line=first,
            groups=groups,
            after=tuple(after),
        )
        return died.outcome(exit_code=exit_code)

    def _crashed(
        self, reason: str, exit_code: int | None, *evidence: str, phase: Phase | None = None
    ) -> Crashed:
        if exit_code is not None:
            how = f"signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}"
            reason = f"{reason} ({how})"
        return Crashed(
            cause="unknown",
            phase=phase or later(self.phase, self._trace.phase),
            reason=reason[:MAX_EXCERPT],
            evidence=tuple(filter(None, evidence))[:MAX_EVIDENCE],
            exit_code=exit_code,
        )


def _end_of(start: Start) -> tuple[str, Phase, bool]:
    outcome = start.outcome
    return (
        (outcome.cause, outcome.phase, start.ready) if outcome else ("", start.phase, start.ready)
    )


def _is_harmless(lead: str, signature: Signature) -> bool:
    """Tell whether what follows `lead` is only talked about, or was survived."""
    if lines.quotes_request(lead):
        return True
    if signature.at_any_level:
        return False
    level = lines.level(lead)
    return level in ("DEBUG", "INFO") or (level == "WARNING" and signature.strength > PROCESS_DIED)
