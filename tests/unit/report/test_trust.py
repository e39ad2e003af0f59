"""A report from somebody else: it reaches no shell, unit, container or mount but as data."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import Autotune, child
from tests.support.paths import EXAMPLES
from tests.support.users import only_root
from vllm_autotune.deploy import FORMATS
from vllm_autotune.memory import Interval
from vllm_autotune.report.codec import dump
from vllm_autotune.report.read import parse_report, read_report
from vllm_autotune.report.report import PlannedAlternative, Report
from vllm_autotune.report.trust import distrusted, distrusted_alternatives
from vllm_autotune.vllm.config import LaunchConfig, Value

# How each format is asked for; KAITO takes no model of this machine, KServe one in a claim.
RENDERED = {
    form: ("--as", form, *(("--model-volume", "pvc:m") if form.startswith("kserve") else ()))
    for form in FORMATS
    if form != "kaito"
}
RECORDED = read_report(EXAMPLES / "h200" / "7b-as-it-is" / "report.json")


def foreign(
    args: Mapping[str, Value] = {},
    env: Mapping[str, str] = {},
    model: str = "/models/qwen2.5-7b",
    command: tuple[str, ...] = ("/usr/bin/python3", "-m", "vllm.entrypoints.cli.main", "serve"),
) -> Report:
    """Return a report that says in every place that this was proven."""
    winner, (trial,) = RECORDED.winner, RECORDED.trials
    assert winner
    config = LaunchConfig(model, {**winner.args, **args}, {**winner.env, **env})
    argv = (*command, model, *config.flags())
    settings: dict[str, Any] = {"argv": argv, "args": dict(config.args), "env": dict(config.env)}
    return replace(
        RECORDED,
        model=replace(RECORDED.model, path=model),
        winner=replace(winner, model=model, **settings),
        trials=(replace(trial, **settings),),
    )


ATTACKS: dict[str, Report] = {
    "LD_PRELOAD": foreign(env={"LD_PRELOAD": "/tmp/x.so"}),
    "PATH": foreign(env={"PATH": "/tmp"}),
    "VLLM_PLUGINS": foreign(env={"VLLM_PLUGINS": "evil"}),
    "middleware": foreign({"middleware": "evil.Middleware"}),
    "lora-modules": foreign({"lora-modules": ("x=/",)}),
    "chat-template": foreign({"chat-template": "/etc/shadow"}),
    "trust-remote-code": foreign({"trust-remote-code": True}),
    "an abbreviation": foreign({"trust-remote": True}),
    "a value that is a flag": foreign({"async-scheduling": "--trust-remote-code"}),
    "a word that is a flag": foreign({"cudagraph-capture-sizes": ("1", "--middleware=a")}),
    "speculative-config": foreign({"speculative-config": '{"model": "/etc"}'}),
    "hf-overrides": foreign({"hf-overrides": '{"auto_map": {"AutoConfig": "evil.Config"}}'}),
    "another program": foreign(command=("/bin/sh", "-c", "evil", "--")),
    "another module": foreign(command=("python3", "-m", "evil")),
    "another python": foreign(command=("./python3", "-m", "vllm.entrypoints.cli.main", "serve")),
    "a system folder": foreign(model="/etc"),
    "the root": foreign(model="/"),
    "a flag for a model": foreign(model="--middleware=evil"),
    "a way out of the hub": foreign(model="../../etc"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_of_a_foreign_report_is_run_opened_or_mounted(
    autotune: Autotune, tmp_path: Path, attack: str
) -> None:
    path = tmp_path / "report.json"
    path.write_text(dump(ATTACKS[attack]))
    for form in FORMATS:
        ended = autotune("render", path, "--as", form)
        ended.refused(2, "the report ", "--trust-report")
        assert ended.out == ""
    shown = autotune("show", path)
    assert shown.code == 0
    assert "start it with" not in shown.out
    assert "--trust-report" in shown.out
    assert json.loads(autotune("show", path, "--json").out)["winner"]


@pytest.mark.parametrize("attack", ["chat-template", "trust-remote-code", "another module"])
def test_the_user_can_say_that_the_report_is_his(
    autotune: Autotune, tmp_path: Path, attack: str
) -> None:
    path = tmp_path / "report.json"
    path.write_text(dump(ATTACKS[attack]))
    for words in RENDERED.values():
        assert autotune("render", path, *words, "--trust-report").code == 0
    assert "start it with" in autotune("show", path, "--trust-report").out


def test_a_check_distrusts_the_same_settings(autotune: Autotune, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    for attack in ("LD_PRELOAD", "middleware", "an abbreviation", "a value that is a flag"):
        path.write_text(dump(ATTACKS[attack]))
        autotune("check", path).refused(2, "the report sets", "--trust-report")


def test_what_a_tuning_itself_writes_is_trusted() -> None:
    for path in sorted(EXAMPLES.glob("**/report.json")):
        assert distrusted(read_report(path)) is None


@only_root
def test_a_python_that_anybody_could_replace_is_distrusted(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    python = f"{shared}/venv/bin/python3"
    report = foreign(command=(python, "-m", "vllm.entrypoints.cli.main", "serve"))
    assert "anybody may put a program into" in str(distrusted(report))
    (shared / "venv").mkdir()
    assert distrusted(report) is None


@pytest.mark.parametrize("text", ["\x1b[31mred", "a\x9b31mb", "\u202eback", "\x07", "a\nb"])
def test_nothing_in_a_report_steers_a_terminal(
    autotune: Autotune, tmp_path: Path, text: str
) -> None:
    report = foreign({"seed": text}, {"VLLM_X": text})
    winner = report.winner
    assert winner
    winner = replace(winner, gives_up=(text,), rungs=(text,))
    report = replace(report, reason=text, hint=text, ladder=text, winner=winner)
    path = tmp_path / "report.json"
    path.write_text(dump(report))
    for words in (
        *(("render", path, *words) for form, words in RENDERED.items() if form != "env"),
        *(("show", path), ("show", path, path), ("show", path, "--json")),
    ):
        ended = autotune(*words)
        assert ended.code == 0, ended.err
        assert [c for c in ended.out + ended.err if not (c.isprintable() or c == "\n")] == [], words


def test_a_line_that_the_output_cannot_hold_is_refused_and_not_changed(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(dump(foreign({"seed": "é"})))
    for form, words in RENDERED.items():
        ended = child("render", str(path), *words, PYTHONIOENCODING="ascii")
        if form == "env":
            assert ended.out.isascii()
        else:
            ended.refused(2, "PYTHONIOENCODING=utf-8")
    shown = child("show", str(path), PYTHONIOENCODING="ascii")
    assert shown.code == 0
    assert "start it with" not in shown.out


def with_alternative(*words: str) -> Report:
    """Return a report with an alternative that is asked for so."""
    command = ("autotune", "tune", "--model", "/models/qwen2.5-7b", *words)
    trial = RECORDED.trials[0]
    other = PlannedAlternative(
        name="all-gpus",
        gives_up=(),
        command=command,
        model="m",
        args={},
        env={},
        max_model_len=Interval(1, 2),
        full_length_sequences=Interval(1, 2),
        devices=2,
        weight_bits=16,
        kv_bits=16,
        fits="yes",
        predicted=trial.predicted,
    )
    return replace(RECORDED, alternatives=(other,))


@pytest.mark.parametrize(
    "words",
    [
        ("--vllm-command", "evil"),
        ("--vllm-python=/tmp/python",),
        ("--probe-file", "/etc/shadow"),
        ("--results-dir", "/etc"),
        ("--context", "4096", "--", "--trust-remote-code"),
        ("--", "--middleware", "evil.Middleware"),
        ("--", "stray"),
    ],
)
def test_nobody_is_told_to_run_a_command_that_does_more(
    autotune: Autotune, tmp_path: Path, words: tuple[str, ...]
) -> None:
    report = with_alternative(*words)
    assert distrusted_alternatives(report)
    path = tmp_path / "report.json"
    path.write_text(dump(report))
    shown = autotune("show", path)
    assert shown.code == 0
    assert "all-gpus" in shown.out
    assert "autotune tune" not in shown.out
    assert "autotune tune" in autotune("show", "--trust-report", path).out


def test_a_harmless_command_is_told(autotune: Autotune, tmp_path: Path) -> None:
    report = with_alternative("--min-gpus", "2", "--", "--dtype", "half")
    assert distrusted_alternatives(report) is None
    path = tmp_path / "report.json"
    path.write_text(dump(report))
    assert "all-gpus: autotune tune --model" in autotune("show", path).out


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("command", ["sh", "-c", "evil"], "not a command of autotune"),
        ("command", ["autotune", "cache", "clear"], "not a command of autotune"),
        ("command", ["autotune", "tune", "\0"], "not a command of autotune"),
    ],
)
def test_an_alternative_that_is_no_request_is_refused(field: str, value: Any, words: str) -> None:
    document = json.loads(dump(with_alternative()))
    document["alternatives"][0][field] = value
    with pytest.raises(ValueError, match=words):
        parse_report(json.dumps(document))


def test_alternatives_contradict_neither_each_other_nor_the_launches() -> None:
    document = json.loads(dump(with_alternative()))
    twice = {**document, "alternatives": document["alternatives"] * 2}
    with pytest.raises(ValueError, match="the same name"):
        parse_report(json.dumps(twice))
    (other,) = document["alternatives"]
    proven = {**document, "alternatives": [{**other, "proven": document["winner"]}]}
    assert parse_report(json.dumps(proven))
    changed = {**document["winner"], "env": {"VLLM_X": "1"}}
    proven["alternatives"][0]["proven"] = changed
    with pytest.raises(ValueError, match="no launch in `trials`"):
        parse_report(json.dumps(proven))
