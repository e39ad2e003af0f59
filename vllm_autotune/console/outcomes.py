"""What became of one server, or of one log, on stdout."""

from rich.text import Text

from ..diagnose import Diagnosis
from ..outcome import Outcome, Stable
from .tables import pairs_table, stdout
from .wording import PHASE_NAMES, clean, sentence, speed_rows


def print_outcome(outcome: Outcome) -> None:
    console = stdout()
    console.print(Text(clean(sentence(outcome))))
    if isinstance(outcome, Stable):
        console.print(pairs_table(speed_rows(outcome.certificate)))


def print_diagnosis(name: str, found: Diagnosis) -> None:
    console, outcome = stdout(), found.outcome
    console.print(Text(clean(name), style="bold"))
    if outcome is None:
        console.print(Text(f"  {clean(_without_failure(found))}"))
        return
    console.print(Text(f"  {clean(sentence(outcome))}"))
    console.print(f"  cause: {outcome.cause}, phase: {outcome.phase}")
    for line in outcome.evidence:
        console.print(Text(f"  > {clean(line)}", style="dim"))
    for cure in found.cures:
        console.print(Text(f"  cure: {clean(cure)}"))


def _without_failure(found: Diagnosis) -> str:
    if found.ready:
        return "nothing went wrong in this log"
    if found.readings.version is None and found.phase == "spawn":
        last = f"; the last error in it is: {found.last_error}" if found.last_error else ""
        return f"no vLLM start-up found in this log{last}"
    phase = PHASE_NAMES[found.phase]
    return f"the log ends while {phase}: vLLM was killed, or the log is incomplete"
