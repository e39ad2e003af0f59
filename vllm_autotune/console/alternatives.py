"""What else could be served: a short table, and the command for each."""

import math
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.text import Text

from ..command_line import command_line
from ..memory import Interval
from ..report.report import PlannedAlternative, PlannedHelp
from .tables import headed_table
from .wording import FITS, clean

HEADER = ("alternative", "context", "at once", "GPUs", "bits", "", "gives up")
NUMBERS = ("context", "at once", "GPUs")


def print_alternatives(
    console: Console, alternatives: Sequence[PlannedAlternative], *, instead: bool, commands: bool
) -> None:
    """Print what else could be served, or, where nothing else can be, what could `instead`."""
    if not alternatives:
        return
    what = "what would fit instead" if instead else "what else could be served here"
    console.print(Text(f"\n{what} (expected; `at once`: sequences of the full length):"))
    console.print(headed_table(HEADER, alternative_rows(alternatives), NUMBERS))
    for line in _lines(alternatives) if commands else ():
        console.print(Text(clean(line)), soft_wrap=True)


def alternative_rows(alternatives: Sequence[PlannedAlternative]) -> list[tuple[str, ...]]:
    """Return the cells of the table, by HEADER."""
    return [
        (
            each.name,
            _amount(each.max_model_len),
            _amount(each.full_length_sequences),
            str(each.devices),
            f"{each.weight_bits or '?'}, KV {each.kv_bits}",
            "proven" if each.proven else FITS[each.fits],
            "; ".join(dict.fromkeys(text.partition(":")[0] for text in each.gives_up)) or "nothing",
        )
        for each in alternatives
    ]


def print_helps(console: Console, helps: Sequence[PlannedHelp]) -> None:
    """Print what is not here and would help, a line for each."""
    for each in helps:
        tokens, at_once = _amount(each.max_model_len), _amount(each.full_length_sequences)
        bits = f"{each.weight_bits or '?'}-bit weights"
        numbers = f"{tokens} tokens, {at_once} at once, {bits} ({FITS[each.fits]})"
        line = Text(clean(f"would help: {each.what}: {numbers}"))
        console.print(line, soft_wrap=True)


def _lines(alternatives: Sequence[PlannedAlternative]) -> Iterator[str]:
    for each in alternatives:
        yield f"{each.name}: {command_line(each.command, {})}"


def _amount(number: Interval) -> str:
    """Write how much surely fits and how much perhaps does; nothing sure is `up to`."""
    low, high = int(number.low), int(number.high) if math.isfinite(number.high) else 0
    if low == high:
        return f"{high:,}"
    return f"{low:,}-{high:,}" if low else f"up to {high:,}"
