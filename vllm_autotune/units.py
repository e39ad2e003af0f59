"""Amounts of memory, and compute capabilities, as people write them."""

import math
import re

from .errors import BadUsage

GIB = 2**30

UNITS = {
    "": 1,
    **{letter + "iB": 2 ** (10 * i) for i, letter in enumerate("KMGT", 1)},
    **{letter: 2 ** (10 * i) for i, letter in enumerate("KMGT", 1)},
    **{letter + "B": 1000**i for i, letter in enumerate("KMGT", 1)},
    "B": 1,
}


def parse_bytes(text: str) -> int:
    """Read an amount of memory: `11GiB` and `11G` are binary, `11GB` is decimal.

    Raises BadUsage for anything else, and for nothing at all.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+)\s*([KMGT]?i?B?)", text.strip(), re.IGNORECASE)
    units = {unit.lower(): factor for unit, factor in UNITS.items()}
    factor = units.get(match[2].lower()) if match else None
    if match is None or factor is None or int(float(match[1]) * factor) < 1:
        raise BadUsage(
            f"`{text}` is not an amount of memory",
            "write a number and a unit: 11GiB, 24G, 512MiB",
        )
    return int(float(match[1]) * factor)


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
    """Read an NVIDIA GPU's compute capability: `8.9`.

    Raises ValueError, which says what it must be.
    """
    match = re.fullmatch(r"([0-9]{1,2})\.([0-9])", text) if isinstance(text, str) else None
    if match is None:
        raise ValueError('a compute capability such as "8.9"')
    return int(match[1]), int(match[2])
