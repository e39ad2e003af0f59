"""A tuning, followed on stderr: one live line on a terminal, a line per phase elsewhere."""

import sys
from typing import IO, Self, cast

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.spinner import Spinner
from rich.text import Text

from ..errors import Refusal
from ..launch.launch import Progress
from ..output import Output
from ..search.trial import Candidate, Trial
from ..units import format_bytes
from .wording import PHASE_NAMES, clean, sentence

COLOURS = {"stable": "green", "environment": "yellow"}


class Screen:
    """Follows a tuning on stderr: one live line on a terminal, a line per phase elsewhere."""

    def __init__(self) -> None:
        # rich puts something else in the place of sys.stderr while a line is live
        output = cast("IO[str]", Output(sys.stderr, needed=False))
        self.console = Console(file=output, highlight=False, soft_wrap=True)
        self.live: Live | None = None
        self.shown = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._settle()

    def note(self, text: str) -> None:
        """Print a remark."""
        self.console.print(escape(clean(text)), style="yellow")

    def begin(self, number: int, candidate: Candidate) -> None:
        """Print what a launch tries."""
        rungs = ", ".join(applied.name for applied in candidate.rungs) or "as it is"
        flags = " ".join(candidate.config.flags())
        self.console.print(f"[bold]launch {number}[/]  {escape(rungs)}  [dim]{escape(flags)}[/]")
        self.shown = ""

    def progress(self, progress: Progress) -> None:
        """Show how far a launch is."""
        phase = f"probe: {progress.item}" if progress.item else PHASE_NAMES[progress.phase]
        if not self.console.is_terminal:
            if phase != self.shown:
                self.shown = phase
                self.console.print(f"  {progress.seconds:5.0f} s  {phase}")
            return
        free = f"{format_bytes(progress.free_bytes)} free" if progress.free_bytes else ""
        line = Text(f"{progress.seconds:4.0f} s  {phase}  {free}  ", no_wrap=True)
        line.append("" if progress.item else clean(progress.line)[:200], style="dim")
        line.overflow = "ellipsis"
        if self.live is None:
            self.live = Live(console=self.console, transient=True, refresh_per_second=8)
            self.live.start()
        self.live.update(Spinner("dots", line))

    def end(self, trial: Trial) -> None:
        """Print what became of a launch."""
        self._settle()
        style = COLOURS.get(trial.outcome.kind, "red")
        text = escape(clean(sentence(trial.outcome)))
        self.console.print(f"          [{style}]{text}[/]")

    def refuse(self, refusal: Refusal) -> None:
        """Print why a run cannot go on."""
        self._settle()
        self.console.print(f"[bold red]autotune:[/] {escape(clean(refusal.message))}")
        if refusal.hint:
            self.console.print(f"\nhint: {escape(clean(refusal.hint))}")

    def _settle(self) -> None:
        if self.live is not None:
            self.live.stop()
            self.live = None
