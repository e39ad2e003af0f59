"""A plan: what fits on a GPU that may not be here, as a document and as bars."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.command_line import CODE, ROOT, Autotune, Ended
from tests.unit.memory_model import SHAPES, install
from tests.unit.test_packaging import computing_seconds
from vllm_autotune.console.plan import bar
from vllm_autotune.memory import Interval
from vllm_autotune.report.plan import Proposal, from_json, schema, to_json
from vllm_autotune.search.trial import Prediction
from vllm_autotune.units import GIB

DUMMY = ("--", "--load-format", "dummy")
SOLID = "#=+"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No vLLM anywhere: not for this Python, and not on the PATH."""
    monkeypatch.setitem(sys.modules, "vllm", None)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    return tmp_path


@pytest.fixture
def model(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    shape = getattr(request, "param", "qwen2.5-7b")
    (folder / "config.json").write_text((SHAPES / f"{shape}.json").read_text())
    return folder


def test_a_plan_needs_neither_the_gpu_nor_vllm(autotune: Autotune, model: Path) -> None:
    ended = autotune("plan", "--model", model, "--device", "4090", *DUMMY)
    assert ended.code == 0
    assert "RTX 4090 (23.5 GiB), as vLLM 0.32.0 would run it" in ended.out
    assert "(none is installed)" in ended.out
    assert ended.err == ""


def test_an_installed_vllm_is_what_a_plan_is_for(
    autotune: Autotune, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path / "here-is-one", ["max-model-len"], version="0.16.0")
    monkeypatch.delitem(sys.modules, "vllm")
    monkeypatch.syspath_prepend(tmp_path / "here-is-one")
    ended = autotune("plan", "--model", model, "--device", "4090", *DUMMY)
    assert "as the installed vLLM 0.16.0 would run it" in ended.out
    assert "vLLM 0.16.0 has no --gpu-memory-utilization" in ended.out


def test_without_a_card_vllm_must_be_installed(autotune: Autotune, model: Path) -> None:
    autotune("plan", "--model", model, *DUMMY).refused(3, "no vLLM is installed")


def test_a_card_can_be_given_in_numbers(autotune: Autotune, model: Path) -> None:
    card = ("--memory-limit", "24GiB", "--capability", "8.9")
    plan = document(autotune("plan", "--json", "--model", model, *card, *DUMMY))
    assert plan["devices"][0]["memory_bytes"] == 24 * GIB
    assert plan["devices"][0]["capability"] == [8, 9]
    older = ("--memory-limit", "24GiB", "--capability", "7.0")
    rows = {
        row["rung"]: row
        for row in document(autotune("plan", "--json", "--model", model, *older, *DUMMY))["rungs"]
    }
    assert "compute capability 8.0" in rows["kv-cache-8bit"]["expectation"]
    autotune("plan", "--model", model, "--capability", "8.9", *DUMMY).refused(2, "--memory-limit")
    autotune("plan", "--model", model, "--capability", "eight").refused(2, "eight", hint=False)


def test_a_card_can_be_limited_too(autotune: Autotune, model: Path) -> None:
    card = ("--device", "H100", "--memory-limit", "11GiB")
    plan = document(autotune("plan", "--json", "--model", model, *card, *DUMMY))
    assert plan["budget_bytes"] == 11 * GIB
    first = plan["first"]["proposal"]
    assert first["predicted"]["reserved_bytes"] <= 11 * GIB
    assert (plan["as_it_is"]["over_limit"], first["over_limit"]) == (True, False)
    shown = autotune("plan", "--model", model, *card, *DUMMY).out
    assert re.search("as it is .* over limit", shown)


@pytest.mark.parametrize("model", ["qwen2.5-72b"], indirect=True)
def test_what_cannot_fit_is_exit_code_1(autotune: Autotune, model: Path) -> None:
    ended = autotune("plan", "--model", model, "--device", "3060", "--skip", "cpu-offload", *DUMMY)
    assert ended.code == 1
    assert re.search("no launch +every rung of the ladder was tried or ruled out", ended.out)
    assert autotune("plan", "--model", model, "--device", "8 x H100", *DUMMY).code == 0


def test_nothing_can_be_launched_on_a_card_that_is_not_here(
    autotune: Autotune, model: Path
) -> None:
    autotune("--model", model, "--device", "4090").refused(2, "nothing can start on it")
    autotune("--model", model, "--device", "4090", "--gpus", "0", "--dry-run", *DUMMY).refused(
        2, "--gpus", "2 x A100 80GB"
    )


def test_the_document_is_what_its_schema_says(autotune: Autotune, model: Path) -> None:
    ended = autotune("plan", "--json", "--model", model, "--device", "2 x A100 80GB", *DUMMY)
    jsonschema.validate(document(ended), schema())
    assert to_json(from_json(ended.out)) == ended.out.rstrip()
    assert json.loads(autotune("schema", "plan").out) == schema()


def test_the_document_says_what_each_rung_needs(autotune: Autotune, model: Path) -> None:
    plan = from_json(autotune("plan", "--json", "--model", model, "--device", "4090", *DUMMY).out)
    assert plan.vllm_installed is False
    assert plan.first
    assert plan.first.proposal.fits == "yes"
    proposals = [plan.as_it_is, *(row.proposal for row in plan.rungs if row.proposal)]
    for proposal in proposals:
        predicted = proposal.predicted
        rest = predicted.reserved_bytes - predicted.weights.high - predicted.overhead.high
        assert rest == pytest.approx(predicted.kv_available.low)
    assert all(row.expectation for row in plan.rungs)


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("model", ["qwen2.5-7b", "qwen2.5-72b", "jamba-mini"], indirect=True)
def test_bars_stay_within_the_terminal(
    autotune: Autotune, model: Path, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    ended = autotune("plan", "--model", model, "--device", "4 x 4090", *DUMMY)
    lines = ended.out.splitlines()
    command = next(i for i, line in enumerate(lines) if "vllm serve" in line)
    assert max(map(len, lines[:command])) <= columns
    assert len(lines) == command + 1
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
def proposals(draw: st.DrawFn) -> Proposal:
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
    return Proposal(
        model="m",
        flags=(),
        env={},
        max_model_len=1,
        devices=1,
        predicted=predicted,
        fits=predicted.fits,
        over_limit=False,
    )


@given(proposals(), st.integers(10, 100), st.floats(1, 400).map(lambda gib: gib * GIB))
def test_a_bar_and_its_verdict_say_the_same(proposal: Proposal, width: int, scale: float) -> None:
    predicted = proposal.predicted
    drawn = bar(proposal, scale, width, ascii_only=True).plain
    assert len(drawn) == width
    assert (drawn[-1] == ">") == (predicted.needed.high > scale)
    if "|" not in drawn:  # the mark is beyond the bar
        return
    before, after = drawn.split("|")
    if proposal.fits == "yes":
        assert not after.strip()
    elif proposal.fits == "no" and before:
        assert before[-1] in SOLID


@given(proposals(), st.integers(10, 100))
def test_a_bar_is_solid_to_the_low_end_and_dotted_to_the_high(
    proposal: Proposal, width: int
) -> None:
    needed = proposal.predicted.needed
    scale = max(needed.high, proposal.predicted.reserved_bytes, 1.0) * 1.01
    drawn = bar(proposal, scale, width, ascii_only=True).plain
    cells = list(without_mark(drawn))
    assert sum(sign in SOLID for sign in cells) == pytest.approx(
        needed.low / scale * width, abs=1.6
    )
    assert sum(sign != " " for sign in cells) == pytest.approx(needed.high / scale * width, abs=1.6)


def without_mark(drawn: str) -> Iterator[str]:
    """Yield the signs of a bar, with that of its neighbour in the place of the mark."""
    at = drawn.find("|")
    yield from (drawn[i - 1 if i == at and i else i] for i in range(len(drawn)))


@pytest.mark.parametrize("model", ["qwen2.5-72b"], indirect=True)
def test_a_plan_is_quick(model: Path) -> None:
    """In computing time, by the pace of a machine that loads click in 0.05 s."""
    plan = ("plan", "--model", str(model), "--device", "4 x 4090", *DUMMY)
    runs = [(computing_seconds(CODE, *plan), computing_seconds("import click")) for _ in range(3)]
    fastest, pace = (min(seconds) for seconds in zip(*runs, strict=True))
    assert fastest < 36 * pace, runs


def document(ended: Ended) -> dict[str, Any]:
    assert ended.code == 0, ended.err
    found: dict[str, Any] = json.loads(ended.out)
    return found
