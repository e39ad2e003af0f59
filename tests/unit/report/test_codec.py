"""JSON: what is written can be read again, and is written again the same, byte for byte."""

import json
import math
from pathlib import Path
from typing import Any, get_args

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings

from tests.support.reports import OUTCOMES, STABLE, intervals, make_report, trial
from vllm_autotune.memory import Interval
from vllm_autotune.outcome import Crashed, Outcome, Stable
from vllm_autotune.report.codec import dump, load, schema
from vllm_autotune.report.read import parse_report
from vllm_autotune.report.report import Refused, Report
from vllm_autotune.search.trial import Trial

EXAMPLES = Path(__file__).parents[3] / "results" / "examples"
RECORDED = sorted(EXAMPLES.glob("**/report.json"))

validator = jsonschema.Draft202012Validator(schema(Report | Refused, "report", 1))


def reduced(new: Any, old: Any) -> Any:
    """Return a document without the fields that an older one does not have."""
    if isinstance(new, dict) and isinstance(old, dict):
        return {name: reduced(value, old[name]) for name, value in new.items() if name in old}
    if isinstance(new, list) and isinstance(old, list) and len(new) == len(old):
        return [reduced(*pair) for pair in zip(new, old, strict=True)]
    return new


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.parent.name)
def test_a_recorded_report_is_written_again_as_it_was(path: Path) -> None:
    """Older ones lack fields that were added since, with what they mean where they are absent."""
    text = path.read_text(encoding="utf-8").rstrip("\n")
    again = dump(parse_report(text), indent=2)
    kept = reduced(json.loads(again), json.loads(text))
    assert json.dumps(kept, indent=2, ensure_ascii=False) == text
    assert dump(parse_report(again), indent=2) == again
    validator.validate(json.loads(again))


def test_every_outcome_has_a_strategy() -> None:
    assert set(OUTCOMES) == set(get_args(Outcome))


@pytest.mark.parametrize("kind", list(OUTCOMES))
def test_an_outcome_says_the_same_after_a_round_trip(kind: type) -> None:
    @settings(max_examples=8, suppress_health_check=[HealthCheck.too_slow], deadline=None)
    @given(outcome=OUTCOMES[kind], interval=intervals)
    def round_trip(outcome: Outcome, interval: Interval) -> None:
        report = make_report(trial(outcome, interval))
        text = dump(report, indent=2)
        validator.validate(json.loads(text))
        assert dump(parse_report(text), indent=2) == text
        assert parse_report(text).trials[0].outcome == outcome
        line = dump(outcome)
        assert "\n" not in line
        assert json.loads(line) == json.loads(text)["trials"][0]["outcome"]

    round_trip()


def test_what_is_unbounded_is_null_and_can_be_read_again() -> None:
    report = make_report(trial(STABLE, Interval(-math.inf, math.inf)))
    text = dump(report)
    assert json.loads(text)["trials"][0]["predicted"]["weights"] == {"low": None, "high": None}
    assert "Infinity" not in text
    assert parse_report(text) == report


def test_a_line_is_one_line_whatever_is_in_it() -> None:
    written = trial(Crashed(cause="x", phase="load", reason="a\nb", evidence=("c\rd",)))
    assert dump(written).splitlines() == [dump(written)]
    assert load(Trial, dump(written)) == written


def test_the_items_of_a_tuple_have_the_kind_they_are_given() -> None:
    trials = (trial(STABLE), trial(STABLE))
    assert load(tuple[Trial, ...], dump(trials, tuple[Trial, ...], indent=1)) == trials


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "property name"),
        ("[]", "Input should be an object"),
        ("[" * 10**5, "nested too deeply"),
        ('{"certificate": {"seconds": 1e999}}', "1e999 is not a number"),
        ('{"certificate": {"seconds": NaN}}', "NaN is not a number"),
        ('{"certificate": {"seconds": %s}}' % 10**400, "is too large"),
        ('{"certificate": {"checks": 3}}', "field `certificate.checks`"),
    ],
)
def test_the_first_field_that_is_wrong_is_named(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        load(Stable, text)
