"""Amounts of memory, and compute capabilities, as people write them."""

import math
import re

from .errors import BadUsage

GIB = 2**30


def parse_bytes(text: str) -> int:
    """Read an amount of memory: `11GiB` and `11G` are binary, `11GB` is decimal.

    Raises BadUsage for anything else, and for less than a byte.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+)\s*(?:([KMGT])(B|iB)?|B)?", text.strip(), re.I)
    amount = 0
    if match:
        number, letter, rest = match.groups(default="")
        base = 1000 if rest in ("B", "b") else 1024
        amount = int(float(number) * base ** " KMGT".index(letter.upper() or " "))
    if amount < 1:
        hint = "write a number and a unit: 11GiB, 24G, 512MiB"
        raise BadUsage(f"`{text}` is not an amount of memory", hint)
    return amount


def format_bytes(number: float) -> str:
    """Write an amount of memory for a person: `11.0 GiB`, `512 MiB`."""
    if not math.isfinite(number):
        return "unknown"
    size = abs(number)
    if size >= GIB:
        return f"{number / GIB:.1f} GiB"
    if size >= 2**20:
        return f"{number / 2**20:.0f} MiB"
    return f"{number / 2**10:.0f} KiB" if size >= 2**10 else f"{number:.0f} B"


def parse_capability(text: object) -> tuple[int, int]:
    """Read an NVIDIA GPU's compute capability: `8.9`; a ValueError says what it must be."""
    match = re.fullmatch(r"([0-9]{1,2})\.([0-9])", text) if isinstance(text, str) else None
    if match is None:
        raise ValueError('a compute capability such as "8.9"')
    return int(match[1]), int(match[2])
