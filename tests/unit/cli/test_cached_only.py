"""`--cached-only`, and what the cache takes in: an answer that holds, or a reason at once."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.command import Autotune, child
from tests.support.paths import ROOT
from tests.support.reports import answer_for, make_report
from tests.support.users import as_nobody, only_root, open_folder
from vllm_autotune.errors import CannotWrite
from vllm_autotune.report.codec import dump
from vllm_autotune.report.read import parse_report
from vllm_autotune.report.report import Report
from vllm_autotune.search.ladder_file import find_ladder, read_ladder
from vllm_autotune.tuning.cache import AnswerCache, default_cache
from vllm_autotune.tuning.gather import Request, gather_facts
from vllm_autotune.workload import Effort

Remember = Callable[..., Report]


@pytest.fixture
def remember(autotune: Autotune, model: Path) -> Remember:
    """Put an answer into the user's cache, as a tuning with the quick effort would."""

    def put(changed: Callable[[Report], Report] = lambda report: report) -> Report:
        request = Request(
            model=str(model),
            ladder=read_ladder(find_ladder("default")),
            memory_limit=2**31,
            probe=Effort(effort="quick"),
        )
        report = changed(answer_for(gather_facts(request)))
        AnswerCache(default_cache()).remember(report.cache.key, report)
        return report

    return put


OPTIONS = ("--memory-limit", "2GiB", "--probe", "quick", "--cached-only")


def test_an_answer_is_recalled_and_nothing_is_launched(
    autotune: Autotune, model: Path, remember: Remember
) -> None:
    report = remember()
    ended = autotune("--model", model, *OPTIONS, "--json")
    assert ended.code == 0, ended.err
    found = parse_report(ended.out)
    assert found.winner
    assert report.winner
    assert found.winner.args == report.winner.args
    assert (found.launches, found.cache.hit) == (0, True)
    assert parse_report(next(Path("results").rglob("report.json")).read_text()) == found


@pytest.mark.parametrize("command", ["tune", "serve"])
def test_without_an_answer_it_fails_at_once_with_a_code_of_its_own(
    autotune: Autotune, model: Path, command: str
) -> None:
    autotune(command, "--model", model, *OPTIONS).refused(5, "nothing is cached")
    assert not Path("results").exists()


def test_an_answer_that_does_not_hold_is_refused_with_the_reason(
    autotune: Autotune, model: Path, remember: Remember
) -> None:
    remember(lambda report: replace(report, ladder="other"))
    ended = autotune("--model", model, *OPTIONS, "--json")
    ended.refused(5, "cannot be used", "ladder")
    assert json.loads(ended.out)["status"] == "refused"


@pytest.mark.parametrize("other", ["--refresh", "--resume"])
def test_it_contradicts_what_would_launch_something(
    autotune: Autotune, model: Path, other: str
) -> None:
    autotune("--model", model, *OPTIONS, other).refused(2, "--cached-only")


LOADS = """
import sys
from contextlib import suppress
from vllm_autotune.cli import main
with suppress(SystemExit):
    main()
needless = ("httpx", "asyncio", "psutil", "huggingface_hub", "torch", "vllm", "pandas")
rooms = ("launch.launch", "certificate.certify", "diagnose.reader", "server.server", "deploy")
names = (*needless, *(f"vllm_autotune.{room}" for room in rooms))
print([name for name in names if name in sys.modules])
"""


def test_it_loads_nothing_that_only_a_launch_needs(
    model: Path, site: Path, remember: Remember
) -> None:
    """So it answers in less than half a second, which depends on what else runs."""
    remember()
    words = ("--model", str(model), *OPTIONS, "--json")
    ended = child(*words, code=LOADS, PYTHONPATH=f"{site}:{ROOT}")
    assert ended.out.endswith("}\n[]\n"), ended.out + ended.err


# What the cache takes in.


def test_a_newer_answer_is_kept_unless_the_older_one_is_wanted(
    autotune: Autotune, tmp_path: Path
) -> None:
    key = "gpu-1g-x1/m@local/0123456789abcdef"
    report = make_report()
    report = replace(report, cache=replace(report.cache, key=key))
    for name, time_zone in (("old", "+02:00"), ("new", "+00:00")):
        created = f"2026-01-01T00:00:00{time_zone}"
        (tmp_path / name).write_text(dump(replace(report, reason=name, created_at=created)))

    def kept() -> object:
        return json.loads(autotune("cache", "export", key).out)["reason"]

    assert autotune("cache", "import", tmp_path / "new").out == f"{key}\n"
    ended = autotune("cache", "import", tmp_path / "old")
    assert (ended.code, ended.out) == (0, "")
    assert "--force" in ended.err
    assert kept() == "new"
    assert autotune("cache", "import", "--force", tmp_path / "old").out == f"{key}\n"
    assert kept() == "old"
    assert autotune("cache", "import", tmp_path / "new").out == f"{key}\n"
    assert kept() == "new"


def test_what_is_refused_is_named_and_the_rest_is_taken_in(
    autotune: Autotune, tmp_path: Path
) -> None:
    key = "gpu-1g-x1/m@local/0123456789abcdef"
    good = make_report()
    good = replace(good, cache=replace(good.cache, key=key))
    tricky = replace(good, cache=replace(good.cache, key="../../etc/passwd"))
    lost = replace(good, status="exhausted", winner=None, reason="it does not fit")
    for name, report in (("lost", lost), ("tricky", tricky), ("good", good)):
        (tmp_path / name).write_text(dump(report))
    ended = autotune("cache", "import", *(tmp_path / n for n in ("lost", "tricky", "good", "no")))
    assert (ended.code, ended.out) == (2, f"{key}\n")
    for reason in ("has no winner: it does not fit", "is not the key of an answer", "No such file"):
        assert reason in ended.err


# Odd users.


def test_a_user_without_a_home_is_told_to_name_a_cache(
    autotune: Autotune, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # no entry in passwd either
    autotune("cache", "list").refused(3, "no home folder", "--cache-dir")
    assert not list(Path().iterdir())


@only_root
def test_a_cache_of_another_user_is_said_to_be_one() -> None:
    with open_folder() as folder:
        answers = AnswerCache(folder / "cache")
        key = "gpu-1g-x1/m@local/0123456789abcdef"
        answers.remember(key, make_report())
        assert "not yours to read" in as_nobody(answers.keys)
        reasons: list[str] = []

        def recall() -> None:
            reasons.append(str(answers.recall(key)))
            raise CannotWrite(reasons[0])

        assert "cannot be read: Permission denied" in as_nobody(recall)


def test_what_cannot_be_removed_is_said(
    autotune: Autotune, remember: Remember, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system that may not be written to refuses even root."""
    remember()

    def read_only(path: Path, *_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "unlink", read_only)
    for words in (("prune", "--days", "0"), ("clear",)):
        autotune("cache", *words).refused(3, "cannot remove", "Read-only file system")
    monkeypatch.undo()
