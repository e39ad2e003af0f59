"""What became of one server, or of one log."""

from collections.abc import Sequence

from rich.markup import escape

from ..outcome import FailedOutcome, Outcome, Stable
from .tables import pairs_table, stdout
from .wording import clean, sentence, speed_rows


def print_outcome(outcome: Outcome) -> None:
    """Print what became of a server, and how fast it was, on stdout."""
    console = stdout()
    console.print(escape(clean(sentence(outcome))))
    if isinstance(outcome, Stable):
        table = pairs_table()
        for name, value in speed_rows(outcome.certificate):
            table.add_row(name, escape(value))
        console.print(table)


def print_diagnosis(name: str, outcome: FailedOutcome | None, cures: Sequence[str]) -> None:
    """Print what a log says went wrong, on stdout."""
    console = stdout()
    console.print(f"[bold]{escape(clean(name))}[/]")
    if outcome is None:
        console.print("  nothing went wrong that the log shows")
        return
    console.print(f"  {escape(clean(sentence(outcome)))}")
    console.print(f"  cause: {outcome.cause}, phase: {outcome.phase}")
    for line in outcome.evidence:
        console.print(f"  [dim]> {escape(clean(line))}[/]")
    for cure in cures:
        console.print(f"  cure: {escape(clean(cure))}")
