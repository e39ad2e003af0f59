"""Amounts of memory, read and written."""

import math

import pytest

from vllm_autotune.errors import BadUsage
from vllm_autotune.units import GIB, format_bytes, parse_bytes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("11GiB", 11 * GIB),
        ("24G", 24 * GIB),
        ("24GB", 24 * 10**9),
        ("512MiB", 512 * 2**20),
        ("1.5 GiB", 3 * GIB // 2),
        ("12345678", 12345678),
        ("8gib", 8 * GIB),
        (" 2T ", 2 * 2**40),
        ("100KB", 100_000),
    ],
)
def test_amounts_of_memory_are_read(text: str, expected: int) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "abc", "-5G", "0", "0GiB", "11 apples", "1e9", "GiB", "inf"])
def test_what_is_no_amount_of_memory_is_refused(text: str) -> None:
    with pytest.raises(BadUsage) as refusal:
        parse_bytes(text)
    assert refusal.value.hint


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (11 * GIB, "11.0 GiB"),
        (-4.59 * GIB, "-4.6 GiB"),
        (512 * 2**20, "512 MiB"),
        (2048, "2 KiB"),
        (12, "12 B"),
        (math.inf, "unknown"),
    ],
)
def test_amounts_of_memory_are_written(number: float, expected: str) -> None:
    assert format_bytes(number) == expected
