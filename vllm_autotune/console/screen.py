"""What a tuning does, on stderr."""

import sys
from collections.abc import Callable
from typing import IO, Self, cast

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from ..errors import Refusal
from ..launch.progress import Progress, UsualTimes
from ..output import Output
from ..search.trial import Candidate, Trial
from ..units import format_bytes
from .wording import PHASE_NAMES, clean, duration, rung_names, sentence

BAR_CELLS = 16
COLOURS = {"stable": "green", "environment": "yellow"}


class Screen:
    """Follows a tuning on stderr: one live line on a terminal, a line per phase elsewhere.

    The live line has a bar where `usual` knows what launches over so many devices took before.
    """

    def __init__(self) -> None:
        # rich replaces sys.stderr while a line is live
        output = cast("IO[str]", Output(sys.stderr, needed=False))
        self.console = Console(file=output, highlight=False, soft_wrap=True)
        self.live: Live | None = None
        self.shown = ""
        self.usual: Callable[[int], UsualTimes | None] = lambda _: None
        self.times: UsualTimes | None = None
        self.devices = 1
        self.ready_after: float | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_line()

    def note(self, text: str) -> None:
        self.console.print(Text(clean(text)), style="yellow")

    def begin(self, number: int, candidate: Candidate) -> None:
        rungs = rung_names(applied.name for applied in candidate.rungs)
        flags = clean(" ".join(candidate.config.flags()))
        line = Text.assemble((f"launch {number}", "bold"), f"  {rungs}  ", (flags, "dim"))
        self.console.print(line)
        self.shown, self.ready_after = "", None
        self.devices = max(1, candidate.config.world_size)

    def progress(self, progress: Progress) -> None:
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
            self.times = self.usual(self.devices)
            self.live = Live(console=self.console, transient=True, refresh_per_second=8)
            self.live.start()
        self.live.update(self._with_bar(line, progress))

    def _with_bar(self, line: Text, progress: Progress) -> RenderableType:
        if progress.item and self.ready_after is None:
            self.ready_after = progress.seconds
        if self.times is None:
            return Spinner("dots", line)
        usual = self.times.probe if progress.item else self.times.start
        passed = progress.seconds - (self.ready_after or 0.0)
        bar = ProgressBar(total=usual, completed=min(passed, usual), width=BAR_CELLS)
        grid = Table.grid(padding=(0, 1))
        grid.add_row(bar, Text(f"usually {duration(usual)}"), Spinner("dots", line))
        return grid

    def end(self, trial: Trial) -> None:
        self._stop_line()
        style = COLOURS.get(trial.outcome.kind, "red")
        self.console.print(Text(f"          {clean(sentence(trial.outcome))}", style=style))

    def refuse(self, refusal: Refusal) -> None:
        self._stop_line()
        self.console.print(Text.assemble(("autotune:", "bold red"), f" {clean(refusal.message)}"))
        if refusal.hint:
            self.console.print(Text(f"\nhint: {clean(refusal.hint)}"))

    def _stop_line(self) -> None:
        if self.live is not None:
            self.live.stop()
            self.live = None
