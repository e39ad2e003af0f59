"""A plan: what fits on a GPU that may not be here, as a document."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.support.command import CODE, Autotune, Ended, computing_seconds
from tests.support.memory_model import install
from tests.support.planning import DUMMY, model, site
from vllm_autotune.report.codec import dump, load, schema
from vllm_autotune.report.documents import DOCUMENTS
from vllm_autotune.report.plan import Plan
from vllm_autotune.units import GIB

__all__ = ["model", "site"]


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
    assert "no launch: every rung of the ladder was tried or ruled out" in ended.out
    assert "skipped tensor-parallel: " in ended.out
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
    jsonschema.validate(document(ended), schema(DOCUMENTS["plan"], "plan", 1))
    assert dump(load(Plan, ended.out), indent=2) == ended.out.rstrip()
    assert json.loads(autotune("schema", "plan").out) == schema(DOCUMENTS["plan"], "plan", 1)


def test_the_document_says_what_each_rung_needs(autotune: Autotune, model: Path) -> None:
    ended = autotune("plan", "--json", "--model", model, "--device", "4090", *DUMMY)
    plan = load(Plan, ended.out)
    assert plan.vllm_installed is False
    assert plan.first
    assert plan.first.proposal.fits == "yes"
    proposals = [plan.as_it_is, *(row.proposal for row in plan.rungs if row.proposal)]
    for proposal in proposals:
        predicted = proposal.predicted
        rest = predicted.reserved_bytes - predicted.weights.high - predicted.overhead.high
        assert rest == pytest.approx(predicted.kv_available.low)
    assert all(row.expectation for row in plan.rungs)


@pytest.mark.parametrize("model", ["qwen2.5-72b"], indirect=True)
def test_a_plan_is_quick(model: Path) -> None:
    """In computing time, by the pace of a machine whose `--help` takes 0.1 to 0.2 s."""
    plan = ("plan", "--model", str(model), "--device", "4 x 4090", *DUMMY)
    runs = [(computing_seconds(CODE, *plan), computing_seconds(CODE, "--help")) for _ in range(3)]
    fastest, pace = (min(seconds) for seconds in zip(*runs, strict=True))
    assert fastest < 16 * pace, runs


def document(ended: Ended) -> dict[str, Any]:
    assert ended.code == 0, ended.err
    found: dict[str, Any] = json.loads(ended.out)
    return found
