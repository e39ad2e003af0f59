"""The action's own steps, in order: tuned, then recalled without a launch, then with no GPU."""

import json
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fake_vllm import COMMAND
from tests.support.paths import ROOT
from tests.support.reports import answer_for
from tests.support.tuning import Place
from tests.support.workflow import Runner
from vllm_autotune.search.ladder_file import find_ladder, read_ladder
from vllm_autotune.tuning.cache import AnswerCache
from vllm_autotune.tuning.gather import Request, gather_facts

ACTION = ROOT / "action.yml"
INPUTS = {
    "args": "--enforce-eager --trust-remote-code",
    "context": "1024",
    "memory-limit": "700MiB",
}


class Jobs:
    """Jobs of one repository: a workspace each, and one cache."""

    def __init__(self, folder: Path, place: Place) -> None:
        self.folder, self.place = folder, place
        self.stored: dict[str, Path] = {}

    def new(self, name: str, **environment: str) -> Runner:
        """Start a job; autotune is installed for it as the action would have done."""
        job = self.folder / name
        (job / "workspace").mkdir(parents=True)
        program = job / "temp" / "vllm-autotune" / "bin" / "autotune"
        program.parent.mkdir(parents=True)
        code = "from vllm_autotune.cli import main; main()"
        program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c "{code}" "$@"\n')
        program.chmod(0o755)
        known = {n: v for n, v in os.environ.items() if not n.startswith("AUTOTUNE_")}
        owner = {"AUTOTUNE_OWNER": os.environ["AUTOTUNE_OWNER"]}
        variables = {**known, **owner, "RUNNER_TEMP": str(job / "temp"), **environment}
        return Runner(job, variables, self.stored)

    def on_vllm(self, name: str) -> Runner:
        variables = self.place.environment({})
        return self.new(name, **variables, AUTOTUNE_VLLM_COMMAND=" ".join(COMMAND))


@pytest.fixture
def jobs(tmp_path: Path, tiny_model: Path) -> Iterator[Jobs]:
    place = Place.make(tmp_path / "place", tiny_model)
    yield Jobs(tmp_path, place)
    shutil.rmtree(place.temporary)


def test_the_action_tunes_once_and_then_recalls(jobs: Jobs, tiny_model: Path) -> None:
    inputs = {**INPUTS, "model": str(tiny_model)}
    first = jobs.on_vllm("first")
    code, tuned = first.run(ACTION, {**inputs, "artifact": "tuned"})
    assert code == 0
    assert (tuned["status"], tuned["cache-hit"]) == ("stable", "false")
    assert int(tuned["launches"]) >= 1
    assert first.summary.startswith("### autotune: stable")
    assert tuned["command"] in first.summary
    assert first.uploaded == ["tuned"]
    report = json.loads((first.folder / "workspace" / tuned["report"]).read_text())
    assert json.loads(tuned["args-json"]) == report["winner"]["args"]
    assert tuned["cache-key"] == report["cache"]["key"]

    second = jobs.on_vllm("second")
    code, recalled = second.run(ACTION, {**inputs, "mode": "recall"})
    assert code == 0
    assert (recalled["cache-hit"], recalled["launches"]) == ("true", "0")
    for name in ("status", "cache-key", "args-json", "command", "max-model-len"):
        assert recalled[name] == tuned[name]
    assert len(jobs.stored) == 1, "nothing new was kept"

    third = jobs.on_vllm("third")
    code, checked = third.run(ACTION, {**inputs, "mode": "check", "summary": "false"})
    assert (code, checked["status"]) == (0, "stable")
    assert (third.folder / "workspace" / ".vllm-autotune" / "check.xml").exists()
    assert third.summary == ""


def test_a_job_without_a_gpu_is_told_the_command(jobs: Jobs, tiny_model: Path) -> None:
    request = Request(
        model=str(tiny_model),
        ladder=read_ladder(find_ladder("default")),
        device="2 x H200",
        vllm_version="0.26.0",
        fixed=("--tensor-parallel-size", "2"),
    )
    report = answer_for(gather_facts(request))
    assert report.winner
    AnswerCache(jobs.folder / "answers").remember(report.cache.key, report)
    jobs.stored[f"vllm-autotune/{report.cache.key}/1"] = jobs.folder / "answers"
    job = jobs.new("job", PYTHONPATH=str(ROOT))
    inputs = {
        "model": str(tiny_model),
        "args": "--tensor-parallel-size 2",
        "mode": "recall",
        "gpu": "2 x NVIDIA H200",
        "vllm-version": "v0.26.0",
    }
    code, outputs = job.run(ACTION, inputs)
    assert code == 0
    assert shlex.split(outputs["command"]) == list(report.winner.argv)
    assert (outputs["cache-hit"], outputs["launches"]) == ("true", "0")
    assert outputs["command"] in job.summary

    code, outputs = job.run(ACTION, {**inputs, "vllm-version": "0.27.0"})
    assert (code, outputs["status"], outputs["command"]) == (5, "refused", "")


def test_no_text_of_an_input_is_run(jobs: Jobs, tiny_model: Path) -> None:
    job = jobs.on_vllm("job")
    evil = '"; touch "$RUNNER_TEMP/evil"; echo "`touch evil` $(touch evil)'
    for name in ("model", "args", "context", "mode", "gpu", "vllm-python"):
        code, _ = job.run(ACTION, {**INPUTS, "model": str(tiny_model), name: evil})
        assert code, name
    assert not list(job.folder.rglob("evil"))
