"""The page made of the reports of GPU cases."""

import json
from pathlib import Path

import pytest

from tests.gpu import page
from tests.support.paths import EXAMPLES
from tests.support.reports import recorded


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
def test_the_naive_ladder_launches_every_rung_that_applies(name: str, launches: int) -> None:
    assert page.naive_launches(recorded(name)) == launches


def test_the_page_in_the_repository_is_the_one_the_reports_make() -> None:
    text = (EXAMPLES / "README.md").read_text()
    assert page.page(EXAMPLES) in text


def test_adopting_a_run_keeps_the_rows_of_cases_that_did_not_run(tmp_path: Path) -> None:
    out, machine = tmp_path / "out", tmp_path / "h200"
    (out / "reports" / "a").mkdir(parents=True)
    (out / "reports" / "a" / "report.json").write_text(json.dumps(recorded("7b-as-it-is")))
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
