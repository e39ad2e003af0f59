"""Results on a stdout that may be no terminal, or that nobody reads any more."""

import sys
from collections.abc import Iterable, Sequence
from typing import IO, cast

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.table import Table

from ..output import Output

# A file or a pipe has no width; tables then take what they need up to this.
PIPE_WIDTH = 160


def stdout(*, soft_wrap: bool = True) -> Console:
    """Return the console that results go to."""
    width = PIPE_WIDTH if soft_wrap and not sys.stdout.isatty() else None
    output = cast("IO[str]", Output(sys.stdout, needed=True))
    return Console(file=output, highlight=False, soft_wrap=soft_wrap, width=width)


def pairs_table() -> Table:
    """Return an empty table for names and what they stand for."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    return table


def headed_table(header: Sequence[str], rows: Iterable[Sequence[RenderableType]]) -> Table:
    """Return a table of rows under a header; no cell is read as markup."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in header:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell) if isinstance(cell, str) else cell for cell in row))
    return table
