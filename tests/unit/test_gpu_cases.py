"""What GPU cases ask of a report, and the page made of reports: tried on real ones."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import load_module

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "results" / "examples" / "h200"


@pytest.fixture(scope="module")
def cases() -> Any:
    return load_module("gpu_cases", ROOT / "tests" / "gpu" / "cases.py")


@pytest.fixture(scope="module")
def page() -> Any:
    return load_module("gpu_page", ROOT / "tests" / "gpu" / "page.py")


@pytest.fixture(scope="module")
def scrub() -> Any:
    return load_module("gpu_scrub", ROOT / "tests" / "gpu" / "scrub.py")


def report(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((EXAMPLES / name / "report.json").read_text())
    return document


SHOWN = ("7b-11GiB-fp8", "7b-11GiB-offload", "72b-fp8", "72b-tp2", "72b-2x48GiB", "72b-pp2")


@pytest.mark.parametrize("name", SHOWN)
def test_a_report_of_the_case_has_no_fault(name: str, cases: Any) -> None:
    assert cases.BY_NAME[name].faults(report(name)) == []


def test_names_and_rungs_of_cases_are_real(cases: Any) -> None:
    assert len(cases.BY_NAME) == len(cases.CASES)
    ladder = (ROOT / "strategies" / "default.toml").read_text()
    for case in cases.CASES:
        for rung in (*case.rungs, *case.one_of, *case.skipped):
            assert f'name = "{rung}"' in ladder, (case.name, rung)
    assert set(cases.QUICK) <= set(cases.BY_NAME)


def test_what_is_not_as_it_must_be_is_named(cases: Any) -> None:
    wrong = report("7b-prompt-logprobs-fixed")
    assert cases.BY_NAME["7b-11GiB-fp8"].faults(wrong) == [
        "rungs ['smaller-batches'], wanted ['fp8-weights']",
        "2 launches, 1 are enough",
    ]
    assert cases.BY_NAME["7b-16.8GiB-8bit-kv"].faults(report("7b-16.8GiB-shorter-context")) == [
        "rungs ['shorter-context', 'utilization'], wanted ['kv-cache-8bit']",
        "20096 of 32768 tokens",
    ]
    assert cases.BY_NAME["7b-kill-engine"].faults(report("7b-as-it-is")) == [
        "launch 1: stable in None: None"
    ]
    assert cases.BY_NAME["7b-27-heads-2x11GiB"].faults({**report("72b-pp2"), "winner": None}) == [
        "it ended as stable: the first configuration that survived the certificate",
        "tensor-parallel is passed over for `None`, not `divides 27 heads`",
    ]


@pytest.mark.parametrize(
    ("name", "launches"),
    [
        ("7b-as-it-is", 1),
        ("7b-16.8GiB-shorter-context", 3),  # as it is, utilization, shorter-context
        ("7b-16.8GiB-full-context", 4),  # no shorter one; fewer-sequences, smaller-batches
        ("7b-11GiB-fp8", 6),  # and kv-cache-8bit, fp8-weights; no-graphs is fixed
        ("7b-11GiB-offload", 6),  # the user skipped quantization
    ],
)
def test_the_naive_ladder_launches_every_rung_that_applies(
    name: str, launches: int, page: Any
) -> None:
    assert page.naive_launches(report(name)) == launches


def test_the_page_in_the_repository_is_the_one_the_reports_make(page: Any) -> None:
    text = (EXAMPLES.parent / "README.md").read_text()
    assert page.page(EXAMPLES.parent) in text


def test_a_run_is_taken_over_and_one_not_run_replaces_nothing(page: Any, tmp_path: Path) -> None:
    out, machine = tmp_path / "out", tmp_path / "h200"
    (out / "reports" / "a").mkdir(parents=True)
    (out / "reports" / "a" / "report.json").write_text(json.dumps(report("7b-as-it-is")))
    machine.mkdir()
    (machine / "table.json").write_text('[{"case": "b", "ok": true, "asks": "old"}]')
    rows = [
        {"case": "a", "ok": True, "asks": "new", "bare_start": 33.2, "check": "stable"},
        {"case": "b", "ok": None, "asks": "new"},
        {"case": "c", "ok": None, "asks": "more", "faults": ["not run: it needs 4 GPUs"]},
    ]
    (out / "table.json").write_text(json.dumps(rows))
    page.adopt(out, machine)

    text = page.page(tmp_path.joinpath("h200").parent)
    assert "| a | new | 140.4 GiB | 1 | 1 | 75 | as it is | 32,768 | 2,115,568 | 33 |" in text
    assert "| b | old |" in text
    assert "more" not in (machine / "table.json").read_text()


def test_a_kept_log_has_no_paths_and_no_progress_bars(scrub: Any) -> None:
    text = "".join(
        (
            "INFO /data/x/models/shape/qwen2.5-7b /opt/site/vllm/a.py 10.1.2.3\n",
            "Capturing:   0%\rCapturing:  50%\rCapturing: 100%\n",
            *(f"line {n}\n" for n in range(1000)),
        )
    )
    kept = scrub.scrubbed(scrub.trimmed(text), "/data/x/models")

    assert "INFO /models/qwen2.5-7b /site-packages/vllm/a.py 10.0.0.1" in kept
    assert "Capturing:   0%\rCapturing: 100%" in kept
    assert "50%" not in kept
    assert kept.count("\n") < 450
    assert "line 999\n" in kept
