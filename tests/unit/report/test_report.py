"""The report: its schema, what is refused as one, and where it is found."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.support.command import Autotune
from tests.support.reports import STABLE, make_report, trial
from vllm_autotune.errors import BadReport
from vllm_autotune.report.codec import dump, schema
from vllm_autotune.report.documents import DOCUMENTS
from vllm_autotune.report.read import parse_report, read_report
from vllm_autotune.report.report import EXIT_CODES, Checked, Refused, Report

validator = jsonschema.Draft202012Validator(schema(Report | Refused, "report", 1))


def test_the_schema_is_a_json_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(schema(Report | Refused, "report", 1))
    statuses = schema(Report | Refused, "report", 1)["$defs"]["Report"]["properties"]["status"][
        "enum"
    ]
    assert statuses == list(EXIT_CODES)


def test_what_is_printed_in_a_reports_place_has_a_schema_too() -> None:
    document = json.loads(dump(Refused(reason="no GPU", hint="get one")))
    validator.validate(document)
    assert document["trials"] == []
    with pytest.raises(ValueError, match="field `status`"):
        parse_report(json.dumps(document))


def test_the_schema_refuses_what_is_no_report() -> None:
    document = json.loads(dump(make_report()))
    everything: tuple[object, ...] = ({**document, "status": "fine"}, {**document, "trials": 3}, [])
    for broken in everything:
        with pytest.raises(jsonschema.ValidationError):
            validator.validate(broken)


NOT_REPORTS = ("", "[]", "null", "{}", "3", '{"schema_version": null}', "{", "[" * 10**5)


@pytest.mark.parametrize("text", NOT_REPORTS, ids=range(len(NOT_REPORTS)))
def test_what_is_no_report_is_said_to_be_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"not an autotune report|schema version"):
        parse_report(text)


def test_a_report_that_is_broken_says_where() -> None:
    document: dict[str, Any] = json.loads(dump(make_report(trial(STABLE))))
    document["winner"]["memory"]["reserved"] = "much"
    with pytest.raises(ValueError, match=r"field `winner\.memory\.reserved`: .*integer"):
        parse_report(json.dumps(document))
    with pytest.raises(ValueError, match="schema version 2, but this autotune reads 1"):
        parse_report(json.dumps({**document, "schema_version": 2}))


def test_a_folder_stands_for_its_newest_report(tmp_path: Path) -> None:
    for number, name in enumerate(("b", "a")):
        path = tmp_path / name / "report.json"
        path.parent.mkdir()
        path.write_text(dump(replace(make_report(), reason=name)))
        os.utime(path, (number, number))
    assert read_report(tmp_path).reason == "a"
    assert read_report(tmp_path / "b" / "report.json").reason == "b"


def test_a_report_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_bytes(b"\xff\xfe")
    for path in (tmp_path, tmp_path / "missing.json", tmp_path / "broken.json"):
        with pytest.raises(BadReport, match=str(path)):
            read_report(path)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_schema_says_what_it_is_and_of_which_version(autotune: Autotune, name: str) -> None:
    described = json.loads(autotune("schema", name).out)
    jsonschema.Draft202012Validator.check_schema(described)
    assert described["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert described["$id"] == f"urn:vllm-autotune:{name}:1"
    assert name in described["title"]
    documents = [described["$defs"][one["$ref"].rpartition("/")[2]] for one in described["anyOf"]]
    for document in documents:
        assert document["properties"]["schema_version"]["const"] == 1
        assert set(document["required"]) == set(document["properties"])


def test_what_a_check_prints_has_a_schema() -> None:
    check = jsonschema.Draft202012Validator(schema(DOCUMENTS["check"], "check", 1))
    for document in (
        Checked(outcome=STABLE, trial=trial(STABLE)),
        Checked(outcome=STABLE, url="x"),
    ):
        check.validate(json.loads(dump(document)))
    with pytest.raises(jsonschema.ValidationError):
        check.validate(json.loads(dump(make_report())))
