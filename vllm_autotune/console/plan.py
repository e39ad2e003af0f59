"""A plan, bar by bar: solid up to the low end, dotted up to the high end, a mark at the limit."""

import math
from collections.abc import Iterator, Sequence
from itertools import accumulate

from rich.table import Table
from rich.text import Text

from ..command_line import command_line
from ..machine.device import Device
from ..memory import Interval
from ..report.plan import FirstLaunch, Plan, PlannedCandidate
from ..search.trial import Fits
from ..units import GIB, format_bytes
from .alternatives import print_alternatives, print_helps
from .tables import pairs_table, stdout
from .wording import FITS, clean, rung_names

COLOURS: dict[Fits, str] = {"yes": "green", "perhaps": "yellow", "no": "red", "unknown": "magenta"}
# What a bar is drawn of: name, sign, sign where the terminal has ASCII only, colour.
PARTS = (
    ("weights", "█", "#", "blue"),
    ("activations, graphs", "▓", "=", "cyan"),
    ("KV cache", "▒", "+", "green"),
    ("uncertain", "░", ".", "bright_black"),
)
MARK = ("what vLLM may use", "┃", "|", "bold")
BEYOND, EMPTY = ("", "▶", ">", "red"), ("", " ", " ", "")
NARROWEST, WIDEST = 12, 60  # cells of a bar
# Bars end here at the latest, in sizes of the device or of what may be used of it.
LONGEST = 1.5


def print_plan(plan: Plan, headline: str) -> None:
    console = stdout(soft_wrap=False)
    ascii_only = not console.encoding.lower().startswith("utf")
    console.print(Text(clean(headline)))
    if plan.devices[0].imagined:
        borrowed = f", the rules of vLLM {plan.vllm} (none is installed)"
        rules = "" if plan.vllm_installed else borrowed
        host = f"{format_bytes(plan.host_free_bytes)} of free host memory, as on this machine"
        console.print(Text(f"assumed: nothing else runs on the GPU; {host}{rules}", style="dim"))
    for reason in plan.left_alone:
        console.print(Text(clean(reason), style="dim"))
    console.print()
    console.print(_bars(plan, console.width, ascii_only=ascii_only))
    signs = [(signs[ascii_only], f" {name}", style) for name, *signs, style in (*PARTS, MARK)]
    legend = [Text.assemble((sign, style), name) for sign, name, style in signs]
    console.print(Text("  ").join(legend))
    console.print()
    for row in plan.rungs:
        if row.proposal is None:
            console.print(Text(f"skipped {row.rung}: {clean(row.expectation)}", style="dim"))
    console.print()
    if plan.first is None:
        console.print(Text(f"no launch: {clean(plan.reason)}"))
        print_alternatives(console, plan.alternatives, instead=True, commands=True)
        print_helps(console, plan.would_help)
        return
    console.print(pairs_table(_first_rows(plan.first, plan.devices)))
    first = plan.first.proposal
    command = command_line(["vllm", "serve", first.model, *first.flags], first.env)
    console.print()
    console.print(Text(clean(command)), soft_wrap=True)
    print_alternatives(console, plan.alternatives, instead=False, commands=True)
    print_helps(console, plan.would_help)


def _first_rows(first: FirstLaunch, devices: Sequence[Device]) -> Iterator[tuple[str, str]]:
    predicted, (verdict, _) = first.proposal.predicted, _verdict(first.proposal)
    limit = format_bytes(predicted.reserved_bytes)
    yield "first launch", rung_names(first.rungs)
    yield "expected", f"{verdict}: needs {_gib(predicted.needed)} GiB, vLLM may use {limit}"
    for stage, device in zip(predicted.stages, devices, strict=False):
        may, needs = format_bytes(stage.reserved_bytes), _gib(stage.needed)
        yield "stage", f"{stage.layers} layers on {device.name}: needs {needs} GiB of {may}"
    yield from (("gives up", text) for text in first.gives_up)


def bar(candidate: PlannedCandidate, scale: float, width: int, *, ascii_only: bool = False) -> Text:
    """Draw what a candidate needs, in `width` cells that stand for `scale` bytes."""
    predicted, text = candidate.predicted, Text()
    parts = (predicted.weights, predicted.overhead, predicted.kv_needed)
    ends = [*accumulate(part.low for part in parts), predicted.needed.high]
    mark = min(width - 1, int(predicted.reserved_bytes / scale * width))
    for cell in range(width):
        middle = (cell + 0.5) * scale / width
        drawn = next((p for p, end in zip(PARTS, ends, strict=True) if middle < end), EMPTY)
        if cell == width - 1 and predicted.needed.high > scale:
            drawn = BEYOND
        elif cell == mark:
            drawn = MARK
        text.append(drawn[1 + ascii_only], style=drawn[3])
    return text


def _bars(plan: Plan, columns: int, *, ascii_only: bool) -> Table:
    rungs = [(f"+ {row.rung}", row.proposal) for row in plan.rungs if row.proposal]
    named = [("as it is", plan.as_it_is), *rungs]
    sequences = plan.workload.concurrency
    size = max(min(d.memory_bytes, d.limit_bytes or d.memory_bytes) for d in plan.devices)
    largest = max(candidate.predicted.needed.high for _, candidate in named)
    scale = min(max(size, largest), LONGEST * size)
    tokens = f"{sequences} x tokens" if sequences > 1 else "tokens"
    rows = [["rung", "needs GiB", "weights", "other", "KV cache", tokens, ""]]
    rows += [_cells(name, candidate) for name, candidate in named]
    if columns < _width(rows) + 2 * NARROWEST:
        rows = [[*row[:2], *row[5:]] for row in rows]
    width = max(NARROWEST, min(columns - _width(rows), WIDEST))
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    each = " per GPU" if len(plan.devices) > 1 else ""
    title = f"0 to {scale / GIB:.{0 if scale >= 10 * GIB else 1}f} GiB{each}"
    table.add_column(rows[0][0], no_wrap=True)
    table.add_column(title[:width], no_wrap=True)
    for name in rows[0][1:]:
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    for (_, candidate), (name, *numbers, verdict) in zip(named, rows[1:], strict=True):
        drawn = bar(candidate, scale, width, ascii_only=ascii_only)
        table.add_row(Text(name), drawn, *numbers, Text(verdict, style=_verdict(candidate)[1]))
    return table


def _cells(name: str, candidate: PlannedCandidate) -> list[str]:
    predicted = candidate.predicted
    parts = (predicted.needed, predicted.weights, predicted.overhead, predicted.kv_needed)
    return [clean(name), *map(_gib, parts), f"{candidate.max_model_len:,}", _verdict(candidate)[0]]


def _verdict(candidate: PlannedCandidate) -> tuple[str, str]:
    return (
        ("over limit", "red")
        if candidate.over_limit
        else (FITS[candidate.fits], COLOURS[candidate.fits])
    )


def _width(rows: list[list[str]]) -> int:
    """Return the columns that a table takes beside the bar, gaps included."""
    return sum(max(map(len, column)) + 1 for column in zip(*rows, strict=True)) + 1


def _gib(amount: Interval) -> str:
    ends = (amount.low, amount.high)
    low, high = (f"{end / GIB:.1f}" if math.isfinite(end) else "?" for end in ends)
    return low if low == high else f"{low}-{high}"
