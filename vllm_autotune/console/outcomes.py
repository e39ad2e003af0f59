"""What became of one server, or of one log."""

from rich.markup import escape

from ..diagnose import Diagnosis
from ..outcome import Outcome, Stable
from .tables import pairs_table, stdout
from .wording import PHASE_NAMES, clean, sentence, speed_rows


def print_outcome(outcome: Outcome) -> None:
    """Print what became of a server, and how fast it was, on stdout."""
    console = stdout()
    console.print(escape(clean(sentence(outcome))))
    if isinstance(outcome, Stable):
        table = pairs_table()
        for name, value in speed_rows(outcome.certificate):
            table.add_row(name, escape(value))
        console.print(table)


def print_diagnosis(name: str, found: Diagnosis) -> None:
    """Print what a log says went wrong, on stdout."""
    console, outcome = stdout(), found.outcome
    console.print(f"[bold]{escape(clean(name))}[/]")
    if outcome is None:
        console.print(f"  {escape(clean(_without_failure(found)))}")
        return
    console.print(f"  {escape(clean(sentence(outcome)))}")
    console.print(f"  cause: {outcome.cause}, phase: {outcome.phase}")
    for line in outcome.evidence:
        console.print(f"  [dim]> {escape(clean(line))}[/]")
    for cure in found.cures:
        console.print(f"  cure: {escape(clean(cure))}")


def _without_failure(found: Diagnosis) -> str:
    if found.ready:
        return "nothing went wrong in this log"
    if found.readings.version is None and found.phase == "spawn":
        last = f"; the last error in it is: {found.last_error}" if found.last_error else ""
        return f"no vLLM start-up found in this log{last}"
    phase = PHASE_NAMES[found.phase]
    return f"the log ends while {phase}: vLLM was killed, or the log is incomplete"
