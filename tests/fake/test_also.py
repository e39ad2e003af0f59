"""An alternative that is proven after the winner, on two stand-in H200s: report, cache, render."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import child
from tests.support.fake_nvml import Cards, pynvml
from tests.support.fake_vllm import environment
from tests.support.trial_bench import CONTEXT, Bench
from vllm_autotune.errors import BadUsage, NotCached
from vllm_autotune.launch import device_memory
from vllm_autotune.launch.progress import Progress
from vllm_autotune.machine.device import detect
from vllm_autotune.outcome import Stable
from vllm_autotune.report.codec import dump
from vllm_autotune.report.read import parse_report
from vllm_autotune.report.report import Report
from vllm_autotune.search.trial import Candidate, Trial
from vllm_autotune.tuning.options import Options
from vllm_autotune.tuning.tune import tune
from vllm_autotune.workload import Effort, Workload

SCRIPT = {"device": "cuda", "total_gib": 140.4, "weights_gib": 0.01, "kv_bytes_per_token": 4096}


class Quiet:
    """Hears what a run says."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def begin(self, number: int, candidate: Candidate) -> None: ...

    def progress(self, progress: Progress) -> None: ...

    def end(self, trial: Trial) -> None: ...


@pytest.fixture
def pair(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A bench with two GPUs, of which a small model needs one."""
    cards = Cards.make(tmp_path / "nvml", 2)
    for name, value in {**cards.environment, **environment(SCRIPT)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(sys.modules, "pynvml", pynvml)
    monkeypatch.setattr(device_memory, "RETURN_SECONDS", 1.0)
    engine = replace(bench.facts.engine, platform="cuda")
    quick = Workload(context=CONTEXT, min_context=CONTEXT, probe=Effort(effort="quick"))
    devices = tuple(detect("cuda"))
    return replace(
        bench, facts=replace(bench.facts, devices=devices, engine=engine, workload=quick)
    )


def tuned(bench: Bench, *also: str, listener: Quiet | None = None, **options: Any) -> Report:
    folder = bench.folder
    how = Options(results=folder / "results", cache=folder / "cache", also=also, **options)
    return tune(bench.facts, how, listener or Quiet())[0]


def test_an_alternative_is_proven_in_a_second_launch_and_recalled(
    pair: Bench, tmp_path: Path
) -> None:
    report = tuned(pair, "all-gpus")
    assert report.winner
    assert report.winner.valid_for.count == 1
    both = {other.name: other for other in report.alternatives}["all-gpus"]
    assert both.proven
    assert both.proven.valid_for.count == both.devices == 2
    assert both.proven.args["tensor-parallel-size"] == 2
    first, second = report.trials
    assert (first.number, second.number, report.launches) == (1, 2, 2)
    assert isinstance(second.outcome, Stable)
    assert both.proven.certificate == second.outcome.certificate
    assert parse_report(dump(report)) == report

    recalled = tuned(pair, "all-gpus")
    assert recalled.cache.hit
    assert {other.name for other in recalled.alternatives if other.proven} == {"all-gpus"}

    path = tmp_path / "report.json"
    path.write_text(dump(report))
    trusted = ("--trust-report", str(path))
    line = child("render", *trusted, "--alternative", "all-gpus").out
    assert "--tensor-parallel-size 2" in line
    assert "--tensor-parallel-size" not in child("render", *trusted).out
    shown = child("show", *trusted).out
    assert "what else could be served here" in shown
    assert "proven" in next(line for line in shown.splitlines() if line.startswith("all-gpus"))
    expected = next(o.name for o in report.alternatives if not o.proven)
    child("render", *trusted, "--alternative", expected).refused(2, "not proven", "--also")
    child("render", *trusted, "--alternative", "best").refused(2, "no such alternative")
    document = json.loads(dump(report))
    document["trials"] = document["trials"][:1]
    path.write_text(json.dumps(document))
    child("render", str(path), "--alternative", "all-gpus").refused(2, "no launch in `trials`")


def test_an_answer_without_the_proof_is_not_enough(pair: Bench) -> None:
    assert not tuned(pair).cache.hit
    assert tuned(pair).cache.hit
    with pytest.raises(NotCached, match="does not prove `all-gpus`"):
        tuned(pair, "all-gpus", cached_only=True)


def test_an_alternative_that_is_not_there_is_refused_before_a_launch(pair: Bench) -> None:
    with pytest.raises(BadUsage, match="--also fewest-gpus") as refused:
        tuned(pair, "fewest-gpus")
    assert "all-gpus" in refused.value.hint
    assert not list(pair.folder.rglob("trial-*.log"))


def test_an_alternative_that_fails_leaves_the_winner(
    pair: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    dies = {
        **SCRIPT,
        "die_at": "load",
        "how": "crash",
        "only_with": ["--distributed-executor-backend"],
    }
    for name, value in environment(dies).items():
        monkeypatch.setenv(name, value)
    listener = Quiet()
    report = tuned(pair, "all-gpus", listener=listener)
    assert report.status == "stable"
    assert not any(other.proven for other in report.alternatives)
    assert len(report.trials) > 1
    assert any(note.startswith("all-gpus is not proven") for note in listener.notes)


def test_what_is_proven_spends_the_same_budget(pair: Bench) -> None:
    listener = Quiet()
    report = tuned(pair, "all-gpus", listener=listener, max_launches=1)
    assert report.status == "stable"
    assert report.launches == 1
    assert any("--max-launches 1" in note for note in listener.notes)
