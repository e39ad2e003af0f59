"""A plan as bars, within the terminal, and with the sentences that explain them."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.command import CODE, Autotune
from tests.support.paths import ROOT
from tests.support.planning import DUMMY, model, site
from vllm_autotune.console.plan import bar
from vllm_autotune.memory import Interval
from vllm_autotune.report.plan import PlannedCandidate
from vllm_autotune.search.trial import Prediction
from vllm_autotune.units import GIB

__all__ = ["model", "site"]

SOLID = "#=+"


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("model", ["qwen2.5-7b", "qwen2.5-72b", "jamba-mini"], indirect=True)
def test_bars_stay_within_the_terminal(
    autotune: Autotune, model: Path, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    ended = autotune("plan", "--model", model, "--device", "4 x 4090", *DUMMY)
    lines = ended.out.splitlines()
    command = next(i for i, line in enumerate(lines) if "vllm serve" in line)
    commands = [line for line in lines[command + 1 :] if ": autotune plan" in line]
    assert (
        max(len(line) for n, line in enumerate(lines) if n != command and line not in commands)
        <= columns
    )
    assert "\x1b" not in ended.out
    assert "…" not in ended.out
    for rung in ("as it is", "+ utilization", "+ tensor-parallel"):
        assert any(line.startswith(rung) and "┃" in line for line in lines)
    assert bool(re.search("needs GiB +weights +other KV cache", ended.out)) == (columns == 120)


def test_a_terminal_without_unicode_gets_plain_signs(model: Path) -> None:
    words = ("plan", "--model", str(model), "--device", "4090", *DUMMY)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-c", CODE, *words], env=environment, capture_output=True, check=True
    )
    assert "# weights  = activations, graphs  + KV cache" in done.stdout.decode("ascii")


sizes = st.floats(0, 200).map(lambda gib: gib * GIB)


@st.composite
def candidates(draw: st.DrawFn) -> PlannedCandidate:
    def interval() -> Interval:
        low, high = sorted((draw(sizes), draw(sizes)))
        return Interval(low, high)

    weights, overhead, reserved = interval(), interval(), int(draw(sizes))
    predicted = Prediction(
        reserved_bytes=reserved,
        weights=weights,
        overhead=overhead,
        kv_needed=interval(),
        kv_available=reserved - (weights + overhead),
    )
    return PlannedCandidate(
        model="m",
        flags=(),
        env={},
        max_model_len=1,
        devices=1,
        predicted=predicted,
        fits=predicted.fits,
        over_limit=False,
    )


@given(candidates(), st.integers(10, 100), st.floats(1, 400).map(lambda gib: gib * GIB))
def test_a_bar_and_its_verdict_say_the_same(
    candidate: PlannedCandidate, width: int, scale: float
) -> None:
    predicted = candidate.predicted
    drawn = bar(candidate, scale, width, ascii_only=True).plain
    assert len(drawn) == width
    assert (drawn[-1] == ">") == (predicted.needed.high > scale)
    if "|" not in drawn:  # the mark is beyond the bar
        return
    before, after = drawn.split("|")
    if candidate.fits == "yes":
        assert not after.strip()
    elif candidate.fits == "no" and before:
        assert before[-1] in SOLID


@given(candidates(), st.integers(10, 100))
def test_a_bar_is_solid_to_the_low_end_and_dotted_to_the_high(
    candidate: PlannedCandidate, width: int
) -> None:
    needed = candidate.predicted.needed
    scale = max(needed.high, candidate.predicted.reserved_bytes, 1.0) * 1.01
    drawn = bar(candidate, scale, width, ascii_only=True).plain
    cells = list(without_mark(drawn))
    assert sum(sign in SOLID for sign in cells) == pytest.approx(
        needed.low / scale * width, abs=1.6
    )
    assert sum(sign != " " for sign in cells) == pytest.approx(needed.high / scale * width, abs=1.6)


def without_mark(drawn: str) -> Iterator[str]:
    """Yield the signs of a bar, with that of its neighbour in the place of the mark."""
    at = drawn.find("|")
    yield from (drawn[i - 1 if i == at and i else i] for i in range(len(drawn)))
