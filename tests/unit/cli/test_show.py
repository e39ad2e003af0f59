"""`autotune show`."""

from pathlib import Path

import pytest

from tests.support.command import Autotune
from tests.support.paths import ROOT


def test_a_broken_report_does_not_hide_the_others(
    autotune: Autotune, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = sorted((ROOT / "results" / "examples").rglob("report.json"))[:2]
    for number, text in enumerate([*(e.read_text() for e in examples), "{"]):
        folder = Path("kept") / str(number)
        folder.mkdir(parents=True)
        (folder / "report.json").write_text(text)
    monkeypatch.setenv("AUTOTUNE_RESULTS_DIR", "kept")
    ended = autotune("show")
    assert ended.code == 0
    assert "left out: kept/2/report.json" in ended.err
    assert "H200" in ended.out
