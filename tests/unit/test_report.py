"""The report: it says the same after a round trip, and its schema describes it."""

import json
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings

from tests.support.reports import OUTCOMES, STABLE, intervals, make_report, trial
from vllm_autotune.errors import BadReport
from vllm_autotune.memory.interval import Interval
from vllm_autotune.outcome import (
    Crashed,
    Outcome,
)
from vllm_autotune.report.report import (
    EXIT_CODES,
    Refused,
    from_json,
    read_report,
    schema,
    to_json,
    trial_line,
)


@pytest.fixture(scope="module")
def is_valid() -> Callable[[str], None]:
    validator = jsonschema.Draft202012Validator(schema())

    def check(text: str) -> None:
        validator.validate(json.loads(text))

    return check


def test_every_outcome_has_a_strategy_here() -> None:
    assert set(OUTCOMES) == set(get_args(Outcome))


@pytest.mark.parametrize("kind", list(OUTCOMES))
def test_an_outcome_says_the_same_after_a_round_trip(
    kind: type, is_valid: Callable[[str], None]
) -> None:
    @settings(max_examples=8, suppress_health_check=[HealthCheck.too_slow], deadline=None)
    @given(outcome=OUTCOMES[kind], interval=intervals)
    def round_trip(outcome: Outcome, interval: Interval) -> None:
        report = make_report(trial(outcome, interval))
        text = to_json(report)
        is_valid(text)
        assert to_json(from_json(text)) == text
        assert from_json(text).trials[0].outcome == outcome

    round_trip()


def test_what_is_unbounded_is_null_and_can_be_read_again(is_valid: Callable[[str], None]) -> None:
    report = make_report(trial(STABLE, Interval(-math.inf, math.inf)))
    text = to_json(report)
    assert json.loads(text)["trials"][0]["predicted"]["weights"] == {"low": None, "high": None}
    assert "Infinity" not in text
    is_valid(text)
    assert from_json(text) == report


def test_the_schema_is_a_json_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    assert schema()["$defs"]["Report"]["properties"]["status"]["enum"] == list(EXIT_CODES)


def test_what_is_printed_in_a_reports_place_has_a_schema_too(
    is_valid: Callable[[str], None],
) -> None:
    text = Refused(reason="no GPU", hint="get one").to_json()
    is_valid(text)
    assert json.loads(text)["trials"] == []
    with pytest.raises(ValueError, match="it is broken at"):
        from_json(text)


def test_the_schema_refuses_what_is_no_report(is_valid: Callable[[str], None]) -> None:
    document = json.loads(to_json(make_report()))
    everything: tuple[object, ...] = ({**document, "status": "fine"}, {**document, "trials": 3}, [])
    for broken in everything:
        with pytest.raises(jsonschema.ValidationError):
            is_valid(json.dumps(broken))


def test_a_journal_line_is_one_line() -> None:
    line = trial_line(trial(Crashed(cause="x", phase="load", reason="a\nb", evidence=("c\rd",))))
    assert line.splitlines() == [line]
    assert json.loads(line)["outcome"]["reason"] == "a\nb"


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", "3", '{"schema_version": null}', "{"])
def test_what_is_no_report_is_said_to_be_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"no autotune report|schema version"):
        from_json(text)


def test_a_report_that_is_broken_says_where() -> None:
    document: dict[str, Any] = json.loads(to_json(make_report(trial(STABLE))))
    document["winner"]["memory"]["reserved"] = "much"
    with pytest.raises(ValueError, match=r"winner\.memory\.reserved"):
        from_json(json.dumps(document))
    with pytest.raises(ValueError, match="schema version 2, this autotune reads 1"):
        from_json(json.dumps({**document, "schema_version": 2}))


def test_a_folder_stands_for_its_newest_report(tmp_path: Path) -> None:
    for number, name in enumerate(("b", "a")):
        path = tmp_path / name / "report.json"
        path.parent.mkdir()
        path.write_text(to_json(replace(make_report(), reason=name)))
        path.touch()

        os.utime(path, (number, number))
    assert read_report(tmp_path).reason == "a"
    assert read_report(tmp_path / "b" / "report.json").reason == "b"


def test_a_report_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_bytes(b"\xff\xfe")
    for path in (tmp_path, tmp_path / "missing.json", tmp_path / "broken.json"):
        with pytest.raises(BadReport, match=str(path)):
            read_report(path)
