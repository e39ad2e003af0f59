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
from hypothesis import strategies as st

from vllm_autotune.errors import BadReport
from vllm_autotune.machine.device import Device
from vllm_autotune.memory.interval import Interval
from vllm_autotune.outcome import (
    PHASES,
    Certificate,
    Check,
    Crashed,
    Degraded,
    Environment,
    Hung,
    Outcome,
    OutOfMemory,
    Readings,
    Rejected,
    Stable,
)
from vllm_autotune.report.report import (
    EXIT_CODES,
    CacheUse,
    Memory,
    Model,
    Refused,
    Report,
    Status,
    ValidFor,
    Versions,
    Winner,
    from_json,
    read_report,
    schema,
    to_json,
    trial_line,
)
from vllm_autotune.search.step import Skip
from vllm_autotune.search.trial import Applied, Prediction, Trial
from vllm_autotune.workload import Workload

words = st.text(max_size=20)
counts = st.integers(0, 2**63)
seconds = st.floats(0, 1e9)
failure = {
    "cause": words,
    "phase": st.sampled_from(PHASES),
    "reason": words,
    "evidence": st.lists(words, max_size=3).map(tuple),
}
checks = st.builds(
    Check,
    name=words,
    requests=counts,
    seconds=seconds,
    ttft_seconds=st.none() | seconds,
    tokens_per_second=st.none() | seconds,
    note=st.none() | words,
)
certificates = st.builds(
    Certificate,
    checks=st.lists(checks, max_size=3).map(tuple),
    seconds=seconds,
    least_free_bytes=st.none() | counts,
)
OUTCOMES: dict[type, st.SearchStrategy[Outcome]] = {
    Stable: st.builds(Stable, certificate=certificates),
    OutOfMemory: st.builds(
        OutOfMemory,
        **failure,
        where=st.sampled_from(("gpu", "host")),
        shortfall_bytes=st.none() | counts,
        limit=st.none() | counts,
    ),
    Rejected: st.builds(Rejected, **failure, argument=st.none() | words),
    Degraded: st.builds(Degraded, **failure),
    Hung: st.builds(Hung, **failure, seconds=seconds),
    Crashed: st.builds(Crashed, **failure, exit_code=st.none() | st.integers(-64, 255)),
    Environment: st.builds(Environment, **failure),
}
ends = st.floats(allow_nan=False, allow_infinity=False)
intervals = st.builds(Interval, low=ends | st.just(-math.inf), high=ends | st.just(math.inf))
NARROW = Interval(1, 2)


def prediction(interval: Interval) -> Prediction:
    return Prediction(reserved_bytes=7, weights=interval, kv_needed=interval, kv_available=interval)


def trial(outcome: Outcome, interval: Interval = NARROW) -> Trial:
    return Trial(
        number=1,
        fingerprint="0123",
        argv=("vllm", "serve", "m"),
        env={"VLLM_USE_V2_MODEL_RUNNER": "0"},
        rungs=(Applied(name="a", gives_up="b", args={"max-model-len": 16, "x": True}, env={}),),
        predicted=prediction(interval),
        outcome=outcome,
        readings=Readings(weights_bytes=1, concurrency=2.5, model_runner="v2"),
        log="trial-01.log",
    )


STABLE = Stable(certificate=Certificate(checks=(), seconds=1.5))


def make_report(*trials: Trial, status: Status = "stable") -> Report:
    winner = Winner(
        argv=("vllm", "serve", "it's here", "--max-model-len", "16"),
        model="it's here",
        args={"max-model-len": 16, "enforce-eager": True, "middleware": ("a", "b"), "r": 0.5},
        env={"VLLM_X": "a b"},
        rungs=("shorter-context",),
        gives_up=("context",),
        max_model_len=16,
        max_num_seqs=4,
        kv_cache_tokens=None,
        memory=Memory(reserved=3),
        certificate=STABLE.certificate,
        startup_seconds=2.0,
        valid_for=ValidFor(device="x", count=1, memory_bytes=9, needed_bytes=3, budget_bytes=8),
    )
    return Report(
        status=status,
        reason="because",
        model=Model(
            path="m", revision=None, architecture="A", weight_bytes=None, quantization=None,
            context=32,
        ),
        devices=(
            Device(
                kind="cuda", index=0, name="NVIDIA H200", uuid="GPU-0", memory_bytes=9,
                free_bytes=8, capability=(9, 0), driver="570",
            ),
        ),
        versions=Versions(autotune="0", vllm="0.32.0", torch=None, driver="570"),
        workload=Workload(),
        ladder="default",
        fixed={"dtype": "half"},
        winner=winner if status == "stable" else None,
        trials=trials,
        skipped=(Skip(rung="r", reason="so"),),
        launches=len(trials),
        elapsed_seconds=3.0,
        cache=CacheUse(key="a/b/c", hit=False),
        created_at="2026-01-01T00:00:00+00:00",
    )  # fmt: skip


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
