"""A run's folder: what was journaled is there again, whatever happened to the one that wrote it."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.paths import EXAMPLES
from tests.support.reports import OUTCOMES, STABLE, intervals, make_report, trial
from vllm_autotune.outcome import Outcome
from vllm_autotune.report.report import Status
from vllm_autotune.tuning.journal import Run, find_unfinished, usual_times

KEY = "nvidia-l4-23g-x1/model@local/0123456789abcdef"
BEGAN = "2026-01-01T00:00:00+00:00"


def abandoned(results: Path, began: str = BEGAN, key: str = KEY) -> Run:
    """Begin a run, and let a process that is dead be its owner."""
    run = Run.create(results, key, began, host_free_bytes=7)
    head = json.loads((run.folder / "run.json").read_text())
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    (run.folder / "run.json").write_text(json.dumps({**head, "pid": done.pid}))
    return run


def test_the_journal_grows_by_a_line_per_trial(tmp_path: Path) -> None:
    run = Run.create(tmp_path, KEY, BEGAN)
    run.add_trial(trial(STABLE))
    run.add_trial(trial(STABLE))
    lines = (run.folder / "journal.jsonl").read_text().splitlines()
    assert [json.loads(line)["outcome"]["kind"] for line in lines] == ["stable", "stable"]
    assert run.write_report(make_report()).name == "report.json"


def test_what_is_written_is_private(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "results", KEY, BEGAN)
    run.add_trial(trial(STABLE))
    run.write_report(make_report())
    for path in (run.folder, *run.folder.iterdir()):
        assert path.stat().st_mode & 0o077 == 0, path


def test_two_runs_of_one_second_have_two_folders(tmp_path: Path) -> None:
    one = Run.create(tmp_path, KEY, BEGAN)
    two = Run.create(tmp_path, KEY, BEGAN)
    assert one.folder != two.folder
    assert one.folder.name == "20260101-000000-012345"


@given(st.lists(st.one_of(*OUTCOMES.values()), max_size=4), intervals, st.integers(0, 10**6))
@settings(deadline=None, max_examples=60)
def test_a_journal_torn_anywhere_gives_back_every_whole_line(
    tmp_path_factory: pytest.TempPathFactory, outcomes: list[Outcome], interval: object, cut: int
) -> None:
    run = Run.create(tmp_path_factory.mktemp("results"), KEY, BEGAN)
    written = [trial(outcome, interval) for outcome in outcomes]  # type: ignore[arg-type]
    for each in written:
        run.add_trial(each)
    path = run.folder / "journal.jsonl"
    whole = path.read_bytes() if path.exists() else b""
    kept = whole[: cut % (len(whole) + 1)]
    path.write_bytes(kept)
    trials, note = run.read_trials()
    count = kept.count(b"\n")
    assert trials[:count] == written[:count]
    assert len(trials) - count in (0, 1)  # a line that lacks only its end is whole
    assert bool(note) is (bool(kept.rpartition(b"\n")[2]) and len(trials) == count)
    run.add_trial(trial(STABLE))
    assert run.read_trials() == ([*trials, trial(STABLE)], "")


@pytest.mark.parametrize("status", ["interrupted", "budget", "environment", None])
def test_a_run_without_an_answer_can_be_gone_on_with(tmp_path: Path, status: Status | None) -> None:
    run = abandoned(tmp_path)
    if status:
        run.write_report(make_report(status=status))
    found = find_unfinished(tmp_path, KEY)
    assert found is not None
    assert (found.folder, found.began, found.host_free_bytes) == (run.folder, BEGAN, 7)


@pytest.mark.parametrize("status", ["stable", "exhausted"])
def test_a_run_with_an_answer_is_finished(tmp_path: Path, status: Status) -> None:
    abandoned(tmp_path).write_report(make_report(status=status))
    assert find_unfinished(tmp_path, KEY) is None


def test_a_run_that_still_runs_is_left_alone(tmp_path: Path) -> None:
    Run.create(tmp_path, KEY, BEGAN)
    assert find_unfinished(tmp_path, KEY) is None


def test_a_run_of_another_question_is_not_mistaken_for_this_one(tmp_path: Path) -> None:
    """The folder's name shows only the beginning of the key."""
    abandoned(tmp_path, key=KEY[:-1] + "0")
    assert find_unfinished(tmp_path, KEY) is None


def test_the_newest_unfinished_run_is_the_one(tmp_path: Path) -> None:
    abandoned(tmp_path, "2026-01-02T00:00:00+00:00")
    newest = abandoned(tmp_path, "2026-01-03T00:00:00+00:00")
    abandoned(tmp_path)
    found = find_unfinished(tmp_path, KEY)
    assert found is not None
    assert found.folder == newest.folder


@pytest.mark.parametrize("text", ["", "{", "null", "[]", '{"key": 1}', "\udc80"])
def test_a_broken_head_hides_a_run_and_breaks_nothing(tmp_path: Path, text: str) -> None:
    run = abandoned(tmp_path)
    (run.folder / "run.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    assert find_unfinished(tmp_path, KEY) is None


def test_a_run_of_another_autotune_is_not_gone_on_with(tmp_path: Path) -> None:
    run = abandoned(tmp_path)
    head = json.loads((run.folder / "run.json").read_text())
    (run.folder / "run.json").write_text(json.dumps({**head, "autotune": "0.0.0"}))
    assert find_unfinished(tmp_path, KEY) is None


def test_numbers_and_free_memory_survive_the_journal(tmp_path: Path) -> None:
    run = Run.create(tmp_path, KEY, BEGAN)
    written = replace(trial(STABLE), number=3, free_bytes=(5, 6), log_cut_bytes=9)
    run.add_trial(written)
    assert run.read_trials() == ([written], "")


def test_what_is_usual_is_told_by_earlier_runs_of_the_model_on_such_devices(tmp_path: Path) -> None:
    assert usual_times(tmp_path, KEY, 1) is None
    names = ("7b-11GiB-fp8", "7b-as-it-is", "7b-compiled")
    took = []
    for name in names:
        folder = tmp_path / "nvidia-l4-23g-x1" / "model" / name
        folder.mkdir(parents=True)
        shutil.copy(EXAMPLES / "h200" / name / "report.json", folder)
        (found,) = json.loads((folder / "report.json").read_text())["trials"]
        took.append((found["startup_seconds"], found["probe_seconds"]))
    broken = tmp_path / "nvidia-l4-23g-x1" / "model" / "broken" / "report.json"
    broken.parent.mkdir()
    broken.write_text("{")
    usual = usual_times(tmp_path, KEY, 1)
    assert usual
    starts, probes = zip(*took, strict=True)
    assert (usual.start, usual.probe) == (sorted(starts)[1], sorted(probes)[1])
    assert usual_times(tmp_path, KEY.replace("model", "other"), 1) is None
