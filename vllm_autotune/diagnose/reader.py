"""What a vLLM log says: how far the start got, the numbers on the way, and what went wrong.

The phase is the last milestone; the cause is the strongest signature, the first of its strength.
Wrappers (`Engine core initialization failed`) are never a cause.
"""

from ..outcome import PHASES, Crashed, FailedOutcome, Hung, Phase, Readings
from . import lines
from .finding import MAX_EVIDENCE, Finding
from .lines import MAX_EXCERPT, excerpt
from .milestones import Milestone, readings_of
from .prefilter import WORTH_READING, WORTH_READING_AT_START, Shape, line_starts, shape_of
from .signature import PROCESS_DIED, Signature
from .signatures import BY_NAME

WINDOW = 1 << 18  # characters searched in one go
LONGEST_LINE = 1 << 14  # a longer one is read in pieces that overlap
OVERLAP = 1 << 11
FOLLOW_UP = 8  # lines among which the rest of a torn one, or what belongs to it, must come
MAX_TORN = 4
MAX_UNKNOWN = 3
SIGKILLED = (-9, 137)
ASKED_TO_STOP = (-15, -2, 143, 130)


class LogReader:
    """Read a vLLM log as it grows, in bounded memory; ask at any time for its verdict so far."""

    def __init__(self) -> None:
        self._partial = ""
        self._tail = ""
        self._reset()

    def _reset(self) -> None:
        self.readings = Readings()
        self.phase: Phase = "spawn"
        self.ready = False
        self.last_error = ""
        self._eager = False
        self._stopping = False
        self._finding: Finding | None = None
        self._unknown: list[str] = []  # exceptions without a signature
        self._start_failed = ""  # the line of a wrapper that says so
        self._memory_lines: dict[str, str] = {}
        self._torn: tuple[str, ...] = ()  # beginnings whose rest is still to come
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
        starts = line_starts(needles, text)
        if not starts and not self._follow_up and not lines.may_be_torn(text):
            self._tail = text.rstrip().rpartition("\n")[2] or self._tail
            return
        start = 0
        for line in text.split("\n"):
            worth_it = start in starts and not lines.is_source(line)
            if worth_it or self._follow_up or lines.may_be_torn(line):
                self._read_line(line)
            start += len(line) + 1
            if line and " Route: " not in line:
                self._tail = line

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
                self._torn = ()

    def _read_whole(self, line: str) -> None:
        shape = shape_of(line)
        if shape.is_source:
            return
        if self._finding:
            self._finding = self._finding.continued(line, line[shape.message_at :].strip())
        if "start" in shape.events and (
            self.ready or self._finding or self._stopping or self._start_failed
        ):
            self._reset()
        if not self.ready:
            self._eager = self._eager or "eager" in shape.events
            for milestone in shape.milestones:
                self._pass(milestone, line)
        if shape.is_error:
            self.last_error = excerpt(line)
        self._stopping = self._stopping or "shutdown" in shape.events
        if not self._stopping:
            self._look_for_failure(line, shape)

    def _pass(self, milestone: Milestone, line: str) -> None:
        match = milestone.pattern.search(line)
        if not match:
            return
        lead = line[: match.start()]
        if lines.quotes_request(lead) or lines.level(lead) == "ERROR":
            return
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

    def _look_for_failure(self, line: str, shape: Shape) -> None:
        if "start failed" in shape.events:
            self._start_failed = excerpt(line)
        for signature in shape.signatures:
            if self.ready and not signature.serving:
                continue
            found = self._finding
            if found and found.outranks(signature):
                continue
            if found and found.is_complete_for(signature):
                return
            match = signature.pattern.search(line)
            if match and not _is_harmless(line[: match.start()], signature):
                self._record(Finding.of(signature, match, self.phase, line))
                return
        if shape.is_exception and len(self._unknown) < MAX_UNKNOWN:
            self._unknown.append(excerpt(line))

    def _record(self, new: Finding) -> None:
        old = self._finding
        if old is None or new.signature.strength > old.signature.strength:
            self._finding = new
            self._follow_up = FOLLOW_UP
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
        if self._partial:
            self._read_line(self._partial)
        found = self._finding
        if found and found.signature.strength > PROCESS_DIED:
            is_memory = found.signature.kind == "out_of_memory"
            supporting = reversed(self._memory_lines.values()) if is_memory else ()
            return found.outcome(self.readings, supporting, exit_code)
        if self._stopping and found is None:
            return None
        died = found is not None or self._start_failed or exit_code not in (None, 0)
        if died and host_oom_kills > 0 and (found or not self._unknown):
            return self._died("killed_by_host", exit_code)
        if self.ready or not self._unknown:
            if exit_code in SIGKILLED or (found and found.groups.get("exit") == "-9"):
                return self._died("killed", exit_code)
            if found:
                return self._died("engine_died", exit_code)
        if self.ready and exit_code in (None, 0, *ASKED_TO_STOP):
            return None
        if self._unknown:
            reason = lines.message(self._unknown[0]).strip()
            return self._crashed(reason, exit_code, *self._unknown, self._start_failed)
        if died or exit_code is not None:
            last = lines.message(self.last_line).strip()
            reason = "the log does not say why" + (f"; its last line: {last}" if last else "")
            return self._crashed(reason, exit_code, self.last_line)
        return None

    def unexplained(self, exit_code: int) -> Crashed:
        reason = "the server ended without an error in its log"
        return self._crashed(reason, exit_code, self.last_line)

    def never_ready(self, seconds: float) -> Hung:
        reason = f"the server was not ready after {seconds:.0f} s"
        shown = (self.last_line,) if self.last_line else ()
        return Hung(
            cause="never_ready", phase=self.phase, seconds=seconds, reason=reason, evidence=shown
        )

    def _died(self, name: str, exit_code: int | None) -> FailedOutcome:
        found = self._finding
        first, *after = (*self._unknown, found.line if found else self.last_line)
        phase, groups = (found.phase, found.groups) if found else (self.phase, {})
        died = Finding(
            signature=BY_NAME[name], phase=phase, line=first, groups=groups, after=tuple(after)
        )
        return died.outcome(exit_code=exit_code)

    def _crashed(self, reason: str, exit_code: int | None, *evidence: str) -> Crashed:
        if exit_code is not None:
            how = f"signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}"
            reason = f"{reason} ({how})"
        shown = tuple(filter(None, evidence))[:MAX_EVIDENCE]
        return Crashed(
            cause="unknown", phase=self.phase, reason=reason, evidence=shown, exit_code=exit_code
        )


def _is_harmless(lead: str, signature: Signature) -> bool:
    """Tell whether what follows `lead` is only talked about, or was survived."""
    if lines.quotes_request(lead):
        return True
    level = lines.level(lead)
    return level in ("DEBUG", "INFO") or (level == "WARNING" and signature.strength > PROCESS_DIED)
