"""Reports as a CI job shows them: Markdown, a table for pandas, JUnit's XML."""

import html
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from junitparser import Error, Failure, JUnitXml, Skipped

from tests.support.command import Autotune
from tests.support.paths import EXAMPLES
from vllm_autotune.console.frame import to_csv, to_frame
from vllm_autotune.console.junit import to_junit
from vllm_autotune.console.markdown import report_to_markdown, reports_to_markdown
from vllm_autotune.errors import BadReport
from vllm_autotune.outcome import Certificate, Crashed, Environment, Item, Stable
from vllm_autotune.report.read import read_report
from vllm_autotune.report.report import Report

H200 = EXAMPLES / "h200"
FOUND, LOST = (
    read_report(H200 / name / "report.json") for name in ("7b-11GiB-fp8", "7b-kill-engine")
)
HOSTILE = "a|b `c` ``` <script>x</script> [l](http://x) \n# h\x1b[2J\x00 *e* _u_ @everyone"


def table(markdown: str, header: str) -> list[list[str]]:
    """Return the cells of the table under a header, as GitHub's Markdown splits them."""
    lines = iter(markdown.split("\n"))
    next(line for line in lines if line.startswith(f"| {header} |"))
    width = next(lines).count("---")
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        cells = re.split(r"(?<!\\)\|", line)[1:-1]
        assert len(cells) == width, line
        rows.append([re.sub(r"\\(.)", r"\1", cell.strip()) for cell in cells])
    return rows


def test_a_report_is_a_verdict_a_line_to_paste_and_what_was_tried() -> None:
    assert FOUND.winner
    text = report_to_markdown(FOUND)
    assert text.startswith("### autotune: stable\n")
    line = re.search(r"```sh\n(.*)\n```", text)
    assert line
    assert line[1].split() == list(FOUND.winner.argv)
    assert [row[0] for row in table(text, "launch")] == ["1"]


def test_a_failure_is_shown_with_the_lines_it_rests_on() -> None:
    text = report_to_markdown(LOST)
    failed = [t.outcome for t in LOST.trials if not isinstance(t.outcome, Stable)]
    assert failed
    assert text.count("<details>") == sum(bool(outcome.evidence) for outcome in failed)
    for outcome in failed:
        assert all(line in text for line in outcome.evidence)
    assert "```sh" not in text


def test_a_report_that_is_not_trusted_has_no_line_to_paste() -> None:
    text = report_to_markdown(FOUND, BadReport("the report sets `x`", "add --trust-report"))
    assert "```sh" not in text
    assert "add --trust-report" in text


@settings(max_examples=30)
@given(st.text(max_size=60))
@example(HOSTILE)
def test_no_text_of_a_report_breaks_out_of_its_cell(text: str) -> None:
    crashed = Crashed(cause="c", phase="load", reason=text, evidence=(text, "```"))
    trial = replace(LOST.trials[0], outcome=crashed)
    report = replace(LOST, reason=text, trials=(trial,), model=replace(LOST.model, path=text))
    written = report_to_markdown(report)
    (launch,) = table(written, "launch")
    shown = "".join(c if c.isprintable() else " " for c in text).strip()
    assert launch[2].endswith(shown)
    assert len(table(reports_to_markdown([("r", report)]), "gpus")) == 1
    fence = re.search(r"^(````+)\n", written, re.MULTILINE)
    assert fence is not None, "longer than what is within"
    title = re.search("<summary>(.*)</summary>", written)
    assert title is not None, "within HTML"
    assert html.unescape(title[1]).rstrip().endswith(shown)
    assert "<" not in title[1]


def test_many_reports_are_one_table_that_pandas_reads() -> None:
    paths = sorted(EXAMPLES.rglob("report.json"))
    reports = [(str(path), read_report(path)) for path in paths]
    frame = pd.read_csv(io.StringIO(to_csv(reports)))
    assert sorted(frame["report"]) == sorted(map(str, paths))
    assert list(frame["gpu"]) == sorted(frame["gpu"])
    by_path = dict(reports)
    for row in frame.to_dict("records"):
        report = by_path[row["report"]]
        assert row["status"] == report.status
        context = report.winner and report.winner.max_model_len
        assert (None if pd.isna(row["context"]) else row["context"]) == context


def later(report: Report, version: str, created_at: str, **winner: Any) -> Report:
    assert report.winner
    versions = replace(report.versions, vllm=version)
    changed = replace(report.winner, **winner)
    return replace(report, versions=versions, created_at=created_at, winner=changed)


def test_what_changed_from_one_version_of_an_answer_to_the_next_is_said() -> None:
    assert FOUND.winner
    newer = later(FOUND, "0.32.0", "2030-01-01T00:00:00+00:00", max_model_len=16384)
    again = replace(newer, created_at="2031-01-01T00:00:00+00:00")
    other = replace(newer, model=replace(newer.model, path="/models/other"))
    named = [("new", newer), ("old", FOUND), ("again", again), ("other", other)]
    changes = dict(zip(*(to_frame(named)[name] for name in ("report", "changes")), strict=True))
    told = "vllm 0.26.0 -> 0.32.0; context 8192 -> 16384"
    assert changes == {"old": "", "new": told, "again": "", "other": ""}


def test_the_command_line_writes_them(autotune: Autotune) -> None:
    one = H200 / "7b-11GiB-fp8"
    assert autotune("show", one, "--as", "markdown").out == report_to_markdown(FOUND) + "\n"
    assert json.loads(autotune("show", one, "--as", "json").out)["status"] == "stable"
    reports = sorted(H200.rglob("report.json"))
    assert len(autotune("show", H200, "--as", "csv").out.splitlines()) == len(reports) + 1
    assert len(table(autotune("show", H200, "--as", "markdown").out, "gpus")) == len(reports)


def test_a_check_is_a_suite_of_the_items_it_survived() -> None:
    items = (
        Item(name="full context", requests=1, seconds=1.25),
        Item(name="chat", requests=0, seconds=0.0, note="the model has no chat template\x00"),
    )
    suite = read_junit(Stable(certificate=Certificate(checks=items, seconds=1.5)))
    assert (suite.tests, suite.failures, suite.errors, suite.skipped) == (2, 0, 0, 1)
    first, second = suite
    assert (first.name, first.time, first.result) == ("full context", 1.25, [])
    assert isinstance(second.result[0], Skipped)
    assert suite.time == 1.5


@pytest.mark.parametrize(("kind", "result"), [(Crashed, Failure), (Environment, Error)])
@given(text=st.text(max_size=40))
@example(text=HOSTILE)
def test_a_check_that_failed_is_a_test_that_failed(kind: Any, result: Any, text: str) -> None:
    suite = read_junit(kind(cause="c", phase="load", reason=text, evidence=(text, "last")))
    (case,) = suite
    (found,) = case.result
    assert type(found) is result
    assert found.type == "c"
    assert found.text.endswith("last")


def read_junit(outcome: Any) -> Any:
    (suite,) = JUnitXml.fromstring(to_junit(outcome, "/models/m").encode())
    return suite


def test_a_check_of_an_address_writes_no_file_when_nobody_answers(
    autotune: Autotune, tmp_path: Path
) -> None:
    file = tmp_path / "check.xml"
    autotune("check", "--url", "http://127.0.0.1:1", "--junit-xml", file).refused(3, "no server")
    assert not file.exists()
