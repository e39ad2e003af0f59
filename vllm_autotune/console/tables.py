"""Results on a stdout that may be no terminal, or that nobody reads any more."""

import sys
from collections.abc import Iterable, Sequence
from typing import IO, cast

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..output import Output
from .wording import clean

# A file or a pipe has no width; tables then take what they need up to this.
PIPE_WIDTH = 160


def stdout(*, soft_wrap: bool = True) -> Console:
    width = PIPE_WIDTH if soft_wrap and not sys.stdout.isatty() else None
    output = cast("IO[str]", Output(sys.stdout, needed=True))
    return Console(file=output, highlight=False, soft_wrap=soft_wrap, width=width)


def pairs_table(rows: Iterable[tuple[str, str]]) -> Table:
    """Return a table of names and values; a name that repeats is shown once."""
    table, last = Table(box=None, show_header=False, pad_edge=False), ""
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row("" if name == last else name, Text(clean(value)))
        last = name
    return table


def headed_table(
    header: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[str] = ()
) -> Table:
    """Return a table of rows under a header; the columns of `numbers` are aligned right."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in header:
        table.add_column(name, overflow="fold", justify="right" if name in numbers else "left")
    for row in rows:
        table.add_row(*(Text(clean(cell)) for cell in row))
    return table
