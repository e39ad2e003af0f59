"""The page: one file, in which nothing of a report is at work, and as wide as its reader's."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.support.command import Autotune
from tests.support.paths import EXAMPLES
from vllm_autotune.console.page import report_to_html, reports_to_html
from vllm_autotune.errors import BadReport
from vllm_autotune.outcome import Crashed, Moment, Stable
from vllm_autotune.report.read import read_report
from vllm_autotune.report.report import Report
from vllm_autotune.units import GIB

PATHS = sorted(EXAMPLES.rglob("report.json"))
NAMED = [(str(path), read_report(path)) for path in PATHS]
FOUND, LOST = (
    read_report(EXAMPLES / "h200" / name / "report.json")
    for name in ("7b-16.8GiB-shorter-context", "7b-kill-engine")
)
EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)> \"'&\x1b]0;x\x07 \u202e"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def hostile(report: Report) -> Report:
    crashed = Crashed(cause=EVIL, phase="load", reason=EVIL, evidence=(EVIL, "x" * 400))
    trial = replace(report.trials[0], outcome=crashed, argv=(EVIL, "y" * 400))
    device = replace(report.devices[0], name=EVIL)
    model = replace(report.model, path=EVIL + "z" * 300)
    return replace(report, reason=EVIL, hint=EVIL, model=model, devices=(device,), trials=(trial,))


PAGES = {
    "found": report_to_html(FOUND),
    "exhausted": report_to_html(LOST),
    "many": reports_to_html(NAMED),
    "hostile": report_to_html(hostile(LOST)),
    "hostile many": reports_to_html([("a", hostile(LOST)), ("b", FOUND)]),
}
every_page = pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)


class Tags(HTMLParser):
    """What a page has of tags and attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}


@every_page
def test_a_page_loads_nothing_runs_nothing_and_is_small(page: str) -> None:
    assert '<meta http-equiv="Content-Security-Policy" content="default-src \'none\';' in page
    tags = Tags()
    tags.feed(page)
    assert tags.names.isdisjoint({"script", "link", "img", "iframe", "object", "embed", "a"})
    assert not [name for name in tags.attributes if re.fullmatch("src|.*href|on.*", name)]
    assert "@import" not in page
    assert "url(" not in page
    assert len(page.encode()) < 1_000_000
    assert all(c.isprintable() or c == "\n" for c in page)


@pytest.mark.parametrize("report", [report for _, report in NAMED], ids=[p for p, _ in NAMED])
def test_every_recorded_report_is_a_page(report: Report) -> None:
    page = report_to_html(report)
    assert f">{report.status}</span>" in page
    assert page.count("<svg") == page.count("</svg>") >= 1
    for trial in report.trials:
        assert f"launch {trial.number}<" in page or f"launch {trial.number} needs" in page


def test_a_found_report_has_the_line_the_memory_and_the_probe() -> None:
    assert FOUND.winner
    page = PAGES["found"]
    assert " ".join(FOUND.winner.argv) in page
    assert "launch 1 needs" in page
    assert "launch 1 had" in page
    assert "KV cache up to 100% full, 9 preempted" in page
    for item in FOUND.winner.certificate.checks:
        assert (item.name in page) == bool(item.requests)


def test_the_kv_cache_and_the_memory_are_drawn_over_time_where_they_were_watched() -> None:
    assert "of the KV cache in use" not in PAGES["found"]  # recorded before there was a timeline
    assert FOUND.winner
    moments = tuple(
        Moment(seconds=n, kv_usage=n / 10, requests=n, preemptions=n, free_bytes=GIB * (20 - n))
        for n in range(10)
    )
    stable = Stable(certificate=replace(FOUND.winner.certificate, timeline=moments))
    page = report_to_html(replace(FOUND, trials=(replace(FOUND.trials[0], outcome=stable),)))
    assert "The server meanwhile: 9 preemptions" in page
    for words in ("% of the KV cache in use (left)", "GiB free (right)"):
        assert words in page
    alone = Stable(certificate=replace(FOUND.winner.certificate, timeline=moments[:1]))
    page = report_to_html(replace(FOUND, trials=(replace(FOUND.trials[0], outcome=alone),)))
    assert "The server meanwhile" not in page


def test_what_else_could_be_served_is_in_the_page() -> None:
    report = read_report(EXAMPLES / "h200" / "7b-two-replicas" / "report.json")
    page = report_to_html(report)
    assert "What else could be served here" in page
    row = next(line for line in page.split("<tr>") if "<td>replicas</td>" in line)
    assert "<td>proven</td>" in row


def test_a_failed_launch_is_shown_with_its_evidence() -> None:
    assert "Launch 1: crashed while serving: the engine process died" in PAGES["exhausted"]
    assert "engine core exited unexpectedly" in PAGES["exhausted"]
    assert "Start it with" not in PAGES["exhausted"]


def test_a_report_that_is_not_trusted_has_no_line_to_paste() -> None:
    page = report_to_html(FOUND, BadReport("the report sets `x`", "add --trust-report"))
    assert "Start it with" not in page
    assert "add --trust-report" in page


def test_many_reports_are_a_matrix_with_the_best_of_each_place() -> None:
    page = PAGES["many"]
    row = next(line for line in page.split("<tr>") if "1 x NVIDIA H200, 16.8 GiB" in line)
    assert "32,768 (utilization" in row
    assert "20,096" not in row


def test_the_command_line_writes_the_page(autotune: Autotune) -> None:
    one = EXAMPLES / "h200" / "7b-16.8GiB-shorter-context"
    assert autotune("show", one, "--as", "html").out == PAGES["found"] + "\n"
    assert "<h1>2 reports</h1>" in autotune("show", one, one, "--as", "html").out


@pytest.mark.skipif(CHROMIUM is None, reason="no headless browser is here")
def test_a_browser_shows_each_page_without_an_error_and_none_is_too_wide(tmp_path: Path) -> None:
    """In frames of the width of a phone and of a screen."""
    assert CHROMIUM
    frames = []
    for number, (name, page) in enumerate(PAGES.items()):
        (tmp_path / f"{number}.html").write_text(page, encoding="utf-8")
        frames += [
            f'<iframe src="{number}.html" width="{width}" height="900" title="{name}"></iframe>'
            for width in (390, 1440)
        ]
    measure = """onload = () => { document.body.textContent = JSON.stringify([...document.
        querySelectorAll("iframe")].map(f => [f.title, f.clientWidth,
        f.contentDocument.documentElement.scrollWidth, f.contentDocument.scripts.length,
        f.contentDocument.querySelectorAll("h1").length])) }"""
    outer = tmp_path / "outer.html"
    outer.write_text(f"<!doctype html><body>{''.join(frames)}<script>{measure}</script>")
    done = subprocess.run(
        [
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"),
            *("--allow-file-access-from-files", "--enable-logging=stderr"),
            *(f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=20000"),
            outer.as_uri(),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert "CONSOLE" not in done.stderr
    said = re.search(r"<body>(\[.*\])", done.stdout)
    assert said, done.stdout[:500]
    measured = json.loads(said[1])
    assert len(measured) == 2 * len(PAGES)
    for name, width, needed, scripts, headings in measured:
        assert needed <= width, f"{name}: {needed} pixels at {width}"
        assert (scripts, headings) == (0, 1)
