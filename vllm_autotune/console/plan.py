"""A plan, bar by bar: solid up to the low end, dotted up to the high end, a mark at the budget."""

import math
from collections.abc import Iterator

from rich.table import Table
from rich.text import Text

from ..deploy import command_line
from ..memory import Interval
from ..report.plan import Fits, Plan, Proposal
from ..units import GIB, format_bytes
from .tables import stdout
from .wording import clean

VERDICTS: dict[Fits, tuple[str, str]] = {
    "yes": ("fits", "green"),
    "perhaps": ("may fit", "yellow"),
    "no": ("too big", "red"),
    "unknown": ("unknown", "magenta"),
}
# What a bar is drawn of: name, sign, sign where the terminal has ASCII only, colour.
PARTS = (
    ("weights", "█", "#", "blue"),
    ("activations, graphs", "▓", "=", "cyan"),
    ("KV cache", "▒", "+", "green"),
    ("perhaps", "░", ".", "bright_black"),
)
MARK, BEYOND = ("┃", "|"), ("▶", ">")
NARROWEST, WIDEST = 12, 60  # cells of a bar
# Bars end here at the latest, in sizes of the device or of what may be used of it.
LONGEST = 1.5


def print_plan(plan: Plan, headline: str) -> None:
    """Print what each rung of the ladder would bring, on stdout."""
    console = stdout(soft_wrap=False)
    ascii_only = not console.encoding.lower().startswith("utf")
    console.print(Text(clean(headline)))
    if plan.devices[0].imagined:
        console.print(Text(_assumed(plan), style="dim"))
    console.print()
    console.print(_bars(plan, console.width, ascii_only=ascii_only))
    console.print(_legend(ascii_only=ascii_only))
    console.print()
    rows = Table.grid(padding=(0, 2, 0, 0))
    rows.add_column(style="bold", no_wrap=True)
    rows.add_column(overflow="fold")
    for name, said in (*_not_taken(plan), *_first(plan)):
        rows.add_row(name, Text(clean(said)))
    console.print(rows)
    if plan.first:
        proposal = plan.first.proposal
        command = command_line(["vllm", "serve", proposal.model, *proposal.flags], proposal.env)
        console.print()
        console.print(Text(clean(command)), soft_wrap=True)


def bar(proposal: Proposal, scale: float, width: int, *, ascii_only: bool = False) -> Text:
    """Return what a proposal needs, drawn in `width` cells that stand for `scale` bytes."""
    predicted = proposal.predicted
    ends, total = [], 0.0
    for part in (predicted.weights, predicted.overhead, predicted.kv_needed):
        total += part.low
        ends.append(total)
    ends.append(predicted.needed.high)
    mark = min(width - 1, int(predicted.reserved_bytes / scale * width))
    text = Text()
    for cell in range(width):
        middle = (cell + 0.5) * scale / width
        found = next((PARTS[i] for i, end in enumerate(ends) if middle < end), None)
        if cell == width - 1 and predicted.needed.high > scale:
            text.append(BEYOND[ascii_only], style="red")
        elif cell == mark:
            text.append(MARK[ascii_only], style="bold")
        elif found is None:
            text.append(" ")
        else:
            text.append(found[1 + ascii_only], style=found[3])
    return text


def _bars(plan: Plan, columns: int, *, ascii_only: bool) -> Table:
    proposals = list(_proposals(plan))
    device = plan.devices[0]
    size = min(device.memory_bytes, device.limit_bytes or device.memory_bytes)
    largest = max(proposal.predicted.needed.high for _, proposal in proposals)
    scale = min(max(size, largest), LONGEST * size)
    sequences = plan.workload.concurrency
    header = ["rung", "needs GiB", "weights", "other", "KV cache"]
    header += [f"{sequences} x tokens" if sequences > 1 else "tokens", ""]
    rows = [_row(name, proposal) for name, proposal in proposals]
    if columns < _width([header, *rows]) + 2 * NARROWEST:
        header, *rows = ([*row[:2], *row[5:]] for row in (header, *rows))
    width = max(NARROWEST, min(columns - _width([header, *rows]), WIDEST))
    each = " per GPU" if len(plan.devices) > 1 else ""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    table.add_column(header[0], no_wrap=True)
    digits = 0 if scale >= 10 * GIB else 1
    table.add_column(f"0 to {scale / GIB:.{digits}f} GiB{each}"[:width], no_wrap=True)
    for name in header[1:]:
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    for (_, proposal), (name, *numbers, verdict) in zip(proposals, rows, strict=True):
        drawn = bar(proposal, scale, width, ascii_only=ascii_only)
        colour = _verdict(proposal)[1]
        table.add_row(Text(name), drawn, *numbers, Text(verdict, style=colour))
    return table


def _row(name: str, proposal: Proposal) -> list[str]:
    predicted = proposal.predicted
    parts = (predicted.needed, predicted.weights, predicted.overhead, predicted.kv_needed)
    tokens = f"{proposal.max_model_len:,}"
    return [clean(name), *map(_gib, parts), tokens, _verdict(proposal)[0]]


def _verdict(proposal: Proposal) -> tuple[str, str]:
    return ("over limit", "red") if proposal.over_limit else VERDICTS[proposal.fits]


def _width(rows: list[list[str]]) -> int:
    """Return the columns that a table takes beside the bar, gaps included."""
    return sum(max(map(len, column)) + 1 for column in zip(*rows, strict=True)) + 1


def _proposals(plan: Plan) -> Iterator[tuple[str, Proposal]]:
    yield "as it is", plan.as_it_is
    for row in plan.rungs:
        if row.proposal is not None:
            yield f"+ {row.rung}", row.proposal


def _gib(amount: Interval) -> str:
    ends = (amount.low, amount.high)
    low, high = (f"{end / GIB:.1f}" if math.isfinite(end) else "?" for end in ends)
    return low if low == high else f"{low}-{high}"


def _assumed(plan: Plan) -> str:
    rules = "" if plan.vllm_installed else f", the rules of vLLM {plan.vllm} (none is installed)"
    host = format_bytes(plan.host_free_bytes)
    return f"assumed: nothing else on the GPU, {host} of free host memory as here{rules}"


def _legend(*, ascii_only: bool) -> Text:
    text = Text()
    for name, *signs, colour in PARTS:
        text.append(signs[ascii_only], style=colour).append(f" {name}  ")
    return text.append(MARK[ascii_only], style="bold").append(" what vLLM may take")


def _not_taken(plan: Plan) -> Iterator[tuple[str, str]]:
    name = "not taken"
    for row in plan.rungs:
        if row.proposal is None:
            yield name, f"{row.rung}: {row.expectation}"
            name = ""


def _first(plan: Plan) -> Iterator[tuple[str, str]]:
    first = plan.first
    if first is None:
        yield "no launch", plan.reason
        return
    predicted, (verdict, _) = first.proposal.predicted, _verdict(first.proposal)
    yield "first launch", ", ".join(first.rungs) or "as it is"
    budget = format_bytes(predicted.reserved_bytes)
    yield "expected", f"{verdict}: needs {_gib(predicted.needed)} GiB of {budget}"
    for i, price in enumerate(first.gives_up):
        yield "" if i else "gives up", price
