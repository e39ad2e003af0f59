"""Reports from anywhere: read as they are, or refused in a sentence that names what is wrong."""

import json
import os
import socket
from contextlib import redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.command import Autotune
from tests.support.paths import EXAMPLES
from tests.support.reports import Way, changed, leaves, make_report
from vllm_autotune.console.reports import print_report, print_reports
from vllm_autotune.deploy import FORMATS, Service
from vllm_autotune.errors import BadReport, BadUsage
from vllm_autotune.report.codec import dump
from vllm_autotune.report.read import parse_report, read_report
from vllm_autotune.report.trust import distrusted

RECORDED = EXAMPLES / "h200" / "7b-11GiB-left" / "report.json"
DEEP = '{"schema_version": 1, "winner": ' + "[" * 200_000 + "]" * 200_000 + "}"

BROKEN: dict[str, object] = {
    "winner.valid_for.count": 0,
    "winner.valid_for.count ": -1,
    "winner.valid_for.count  ": 2,
    "winner.valid_for.device": "NVIDIA H100",
    "devices": [],
    "winner.argv": [],
    "winner.argv ": ["vllm"],
    "winner.argv.0": "/bin/sh",
    "winner.args.max-model-len": 1,
    "winner.args.seed": "1",
    "winner.args.a b": 1,
    "winner.args.x; rm -rf ~": 1,
    "winner.env.A B": "1",
    "winner.env.VLLM_X": "\0",
    "winner.left_out": ["host\nrm -rf ~"],
    "winner.max_model_len": 7,
    "winner.max_num_seqs": 7,
    "winner.model": "/other",
    "winner": None,
    "status": "exhausted",
    "trials": [],
    "schema_version": "1",
    "schema_version ": 1.5,
    "schema_version  ": True,
    "elapsed_seconds": float("inf"),
    "elapsed_seconds ": float("nan"),
    "created_at": "yesterday",
    "launches": 10**40,
}


def broken(field: str) -> str:
    document: dict[str, Any] = json.loads(RECORDED.read_text())
    way = (int(part) if part.isdigit() else part for part in field.strip().split("."))
    changed(document, tuple(way), BROKEN[field])
    return json.dumps(document)


TEXTS = {
    **{field: broken(field) for field in BROKEN},
    "1e999": RECORDED.read_text().replace('"launches": 1', '"launches": 1e999'),
    "deep": DEEP,
    "not UTF-8": "\udcff",
}


@pytest.mark.parametrize("what", TEXTS)
def test_a_report_that_contradicts_itself_is_refused(what: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        parse_report(TEXTS[what])
    assert "\n" not in str(refused.value)


def test_no_command_takes_a_broken_report_for_a_fault_of_its_own(
    autotune: Autotune, tmp_path: Path
) -> None:
    path = tmp_path / "report.json"
    commands = [
        *(("render", path, "--as", form) for form in FORMATS),
        *(("show", path), ("show", path, "--json"), ("check", path), ("cache", "import", path)),
    ]
    for number, text in enumerate(TEXTS.values()):
        path.write_bytes(text.encode(errors="surrogateescape"))
        for words in commands if number % 8 == 0 else commands[number % 8 :: 8]:
            ended = autotune(*words)
            ended.refused(2, "report.json")
            assert "bug" not in ended.err


def test_what_is_no_file_is_refused_and_not_waited_for(autotune: Autotune, tmp_path: Path) -> None:
    pipe, listening = tmp_path / "pipe", tmp_path / "socket"
    os.mkfifo(pipe)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(listening))
        for path in (pipe, listening, Path("/dev/zero")):
            for command in ("render", "show", "check"):
                autotune(command, path).refused(2, "cannot be read")


def test_a_file_that_is_too_large_is_refused(autotune: Autotune, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    with path.open("wb") as file:
        file.truncate(2**40)  # nothing but a hole
    autotune("render", path).refused(2, "larger than 256 MiB")


@pytest.mark.parametrize(
    "path", sorted(EXAMPLES.glob("**/report.json")), ids=lambda p: p.parent.name
)
def test_every_recorded_report_is_still_shown_and_rendered(autotune: Autotune, path: Path) -> None:
    report = read_report(path)
    assert autotune("show", path).code == 0
    if report.winner:
        assert report.winner.argv[-1] in autotune("render", path).out


def test_a_report_can_be_read_that_was_just_written() -> None:
    assert parse_report(dump(make_report())) == make_report()


ODD: tuple[object, ...] = (
    *(None, True, 0, -1, 1, 2**64, 2**70, -0.5, 1e300, "", "x", "\x1b[31m", "--x", "\0", "é"),
    *([], ["a"], [[]], {}, {"a": 1}, "a\nb", "/", "-1"),
)


def test_whatever_one_field_says_is_shown_rendered_or_refused() -> None:
    text = RECORDED.read_text()
    ways = leaves(json.loads(text))

    @settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow], deadline=None)
    @given(way=st.sampled_from(ways), value=st.sampled_from(ODD))
    def shown_or_refused(way: Way, value: object) -> None:
        document = json.loads(text)
        changed(document, way, value)
        try:
            report = parse_report(json.dumps(document))
        except ValueError:
            return
        with redirect_stdout(StringIO()) as out:
            print_report(report, "report.json", distrusted(report))
            print_reports([report, report])
        assert "\x1b" not in out.getvalue()
        if report.winner:
            for form in FORMATS:
                with suppress(BadReport, BadUsage):
                    assert FORMATS[form](Service(report))

    shown_or_refused()
