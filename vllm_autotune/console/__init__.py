"""What a person sees. The only module that knows rich; talk goes to stderr, results to stdout."""

import os
import sys
from collections.abc import Iterable, Sequence
from typing import IO, Self, TextIO, cast

from rich.console import Console, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from ..accuracy import Accuracy
from ..errors import Refusal
from ..facts import Candidate
from ..memory import format_bytes
from ..memory.units import GIB
from ..outcome import Certificate, FailedOutcome, Outcome, Phase, Speed, Stable
from ..render import command_line
from ..report import Report, Trial, Winner
from ..trial import Progress

PHASE_NAMES: dict[Phase, str] = {
    "spawn": "starting",
    "config": "reading the configuration",
    "load": "loading weights",
    "profile": "profiling",
    "kv_cache": "sizing the KV cache",
    "graphs": "capturing graphs",
    "warmup": "warming up",
    "serving": "serving",
}
COLOURS = {"stable": "green", "environment": "yellow"}


# A file or a pipe has no width; tables then take what they need up to this.
PIPE_WIDTH = 160


def _stdout() -> Console:
    width = None if sys.stdout.isatty() else PIPE_WIDTH
    return Console(highlight=False, soft_wrap=True, width=width)


class _Stderr:
    """Our stderr for as long as somebody holds its other end; nothing after that.

    A terminal that was closed or a pipe into `head` must not end a run, nor leave a server.
    """

    def __init__(self) -> None:
        self._stream = sys.stderr  # rich puts something else there while a line is live

    @property
    def encoding(self) -> str:
        return self._stream.encoding

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            let_go(self._stream)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            let_go(self._stream)


def let_go(stream: TextIO) -> None:
    """Send what is still to be written to a stream nowhere: after EPIPE or EIO nobody reads."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


class Screen:
    """Follows a tuning on stderr: one live line on a terminal, a line per phase elsewhere."""

    def __init__(self) -> None:
        self.console = Console(file=cast("IO[str]", _Stderr()), highlight=False, soft_wrap=True)
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
        phase = PHASE_NAMES[progress.phase]
        if progress.line.startswith("probe: "):
            phase = progress.line
        if not self.console.is_terminal:
            if phase != self.shown:
                self.shown = phase
                self.console.print(f"  {progress.seconds:5.0f} s  {phase}")
            return
        free = f"{format_bytes(progress.free_bytes)} free" if progress.free_bytes else ""
        line = Text(f"{progress.seconds:4.0f} s  {phase}  {free}  ", no_wrap=True)
        line.append(clean(progress.line)[:200] if phase != progress.line else "", style="dim")
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


def clean(text: str) -> str:
    """Return text without control characters: a log or a name must not steer the terminal."""
    return "".join(c if c.isprintable() else " " for c in text)


def sentence(outcome: Outcome) -> str:
    """Return an outcome in a sentence."""
    if isinstance(outcome, Stable):
        certificate = outcome.certificate
        requests = sum(check.requests for check in certificate.checks)
        return f"stable: {requests} requests came back right in {certificate.seconds:.0f} s"
    kind = outcome.kind.replace("_", " ")
    return f"{kind} while {PHASE_NAMES[outcome.phase]}: {outcome.reason}"


def print_outcome(outcome: Outcome) -> None:
    """Print what became of a server, and how fast it was, on stdout."""
    console = _stdout()
    console.print(escape(clean(sentence(outcome))))
    if isinstance(outcome, Stable):
        table = _facts_table()
        for name, value in _speed_rows(outcome.certificate):
            table.add_row(name, escape(value))
        console.print(table)


def print_report(report: Report, path: str | None) -> None:
    """Print a report on stdout for a person; the last line starts the winner."""
    console = _stdout()
    style = "green" if report.status == "stable" else "red"
    model, device = report.model, report.devices[0]
    count = f"{len(report.devices)} x " if len(report.devices) > 1 else ""
    console.print(f"[bold {style}]{report.status}[/]  {escape(clean(report.reason))}")
    if report.hint:
        console.print(f"hint: {escape(clean(report.hint))}")
    table = _facts_table()
    table.add_row("model", f"{clean(model.path)} ({model.architecture})")
    table.add_row("device", f"{count}{clean(device.name)}, {format_bytes(device.memory_bytes)}")
    table.add_row("launches", _launches(report))
    if report.winner:
        for name, value in _winner_rows(report.winner, report.model.context):
            table.add_row(name, escape(value))
    for trial in [trial for trial in report.trials if trial.accuracy][-1:]:
        table.add_row("predicted", _accuracy(trial.accuracy))
    console.print(table)
    if not report.cache.hit:
        console.print(_trial_table(report.trials))
        for skip in report.skipped:
            console.print(f"[dim]not taken: {skip.rung}: {escape(clean(skip.reason))}[/]")
    if path:
        console.print(f"report    {path}")
    if report.winner:
        console.print("\nstart it with:")
        console.print(Text(command_line(report.winner)))


def print_reports(reports: Iterable[Report]) -> None:
    """Print several reports as one table on stdout."""
    import pandas as pd  # noqa: PLC0415  it takes half a second to load

    rows = [
        {
            "device": f"{len(r.devices)} x {r.devices[0].name}",
            "memory": format_bytes(r.devices[0].limit_bytes or r.devices[0].memory_bytes),
            "model": r.model.path.rstrip("/").rpartition("/")[2],
            "status": r.status,
            "rungs": ", ".join(r.winner.rungs) or "as it is" if r.winner else "",
            "context": r.winner.max_model_len if r.winner else None,
            "kv tokens": r.winner.kv_cache_tokens if r.winner else None,
            "launches": r.launches,
            "seconds": round(r.elapsed_seconds),
        }
        for r in reports
    ]
    frame = pd.DataFrame(rows).convert_dtypes().sort_values(["model", "device", "memory"])
    cells = frame.astype("string").fillna("").to_numpy().tolist()
    _stdout().print(_table(list(frame.columns), cells))


def print_diagnosis(name: str, outcome: FailedOutcome | None, cures: Sequence[str]) -> None:
    """Print what a log says went wrong, on stdout."""
    console = _stdout()
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


def _launches(report: Report) -> str:
    if report.cache.hit:
        return f"0 (recalled from the cache in {report.elapsed_seconds:.2f} s)"
    return f"{report.launches} in {report.elapsed_seconds:.0f} s"


def _winner_rows(winner: Winner, context: int) -> list[tuple[str, str]]:
    memory = winner.memory
    parts = {
        "reserved": memory.reserved,
        "weights": memory.weights,
        "KV cache": memory.kv_cache,
        "activations": memory.activations,
        "graphs": memory.graphs,
        "least free": memory.least_free,
    }
    tokens = f", {winner.kv_cache_tokens:,} tokens of KV cache" if winner.kv_cache_tokens else ""
    rows = [
        ("context", f"{winner.max_model_len:,} of {context:,} tokens{tokens}"),
        ("memory", ", ".join(f"{n} {format_bytes(b)}" for n, b in parts.items() if b is not None)),
        ("proven by", _proof(winner.certificate)),
        *_speed_rows(winner.certificate),
        ("ready in", f"{winner.startup_seconds:.0f} s"),
    ]
    return [*rows, *(("gives up", text) for text in winner.gives_up)]


def _accuracy(accuracy: Accuracy | None) -> str:
    names = {"weights": "weights", "kv_available": "KV cache", "overhead": "other"}
    parts = []
    for field, name in {**names, "graphs": "graphs"}.items():
        against = getattr(accuracy, field)
        if against is not None:
            low, high = against.predicted.low / GIB, against.predicted.high / GIB
            parts.append(f"{name} {low:.2f} to {high:.2f} (was {against.measured / GIB:.2f})")
    return f"GiB: {', '.join(parts)}"


def _proof(certificate: Certificate) -> str:
    requests = sum(check.requests for check in certificate.checks)
    tokens = sum(check.prompt_tokens + check.output_tokens for check in certificate.checks)
    proof = f"{requests} requests, {tokens:,} tokens in {certificate.seconds:.0f} s"
    if certificate.kv_usage_peak is not None:
        proof += f", KV cache {certificate.kv_usage_peak:.0%} full at most"
    if certificate.preemptions:
        proof += f", {certificate.preemptions} preemptions"
    return proof


def _speed_rows(certificate: Certificate) -> list[tuple[str, str]]:
    """Return the speed of one request, and of those at the proven concurrency."""
    return [("speed", _speed(speed)) for speed in certificate.speeds[:2]]


def _speed(speed: Speed) -> str:
    alone = speed.requests == 1
    who = "alone" if alone else f"{speed.requests} at once"
    worst = "" if alone else f" (worst {_seconds(speed.worst_ttft_seconds)})"
    parts = [
        f"{who}, {speed.prompt_tokens:,} tokens each: "
        f"first token after {_seconds(speed.ttft_seconds)}{worst}"
    ]
    if speed.inter_token_seconds is not None:
        parts.append(f"then one every {_seconds(speed.inter_token_seconds)}")
    parts.append(f"{speed.prefill_tokens_per_second:,.0f} tokens/s read")
    if speed.decode_tokens_per_second is not None:
        parts.append(f"{speed.decode_tokens_per_second:,.0f} written")
    return ", ".join(parts)


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def _trial_table(trials: Sequence[Trial]) -> Table:
    rows = [
        [
            str(trial.number),
            ", ".join(applied.name for applied in trial.rungs) or "as it is",
            clean(sentence(trial.outcome)),
        ]
        for trial in trials
    ]
    return _table(["launch", "rungs", "outcome"], rows)


def _facts_table() -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    return table


def _table(header: Sequence[str], rows: Iterable[Sequence[RenderableType]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in header:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell) if isinstance(cell, str) else cell for cell in row))
    return table
