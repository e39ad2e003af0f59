"""How long a start takes at the least, and what a time budget makes of it."""

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.memory_model import WORKLOADS, cards, engine, gather, install
from tests.support.paths import EXAMPLES, SHAPES
from tests.support.reports import STABLE, trial
from vllm_autotune.checkpoint import read_checkpoint
from vllm_autotune.launch.progress import Progress
from vllm_autotune.launch.start_time import quickest_here, quickest_start
from vllm_autotune.report.read import read_report
from vllm_autotune.search.facts import Facts
from vllm_autotune.search.trial import Candidate, Trial
from vllm_autotune.tuning.journal import Run
from vllm_autotune.tuning.options import Options
from vllm_autotune.tuning.walk import Walk
from vllm_autotune.vllm.config import LaunchConfig, parse_arguments

KEY = "nvidia-h200-140g-x4/model@local/0123456789abcdef"
sizes = st.sampled_from([1, 2, 4, 8])


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Facts:
    folder = tmp_path_factory.mktemp("model")
    (folder / "config.json").write_text((SHAPES / "qwen2.5-72b.json").read_text())
    checkpoint = read_checkpoint(str(folder), weights_required=False)
    vllm = engine(install(tmp_path_factory.mktemp("site")))
    return gather(checkpoint, cards("NVIDIA H200", 139.8, (9, 0), 4), WORKLOADS[0], vllm)


def over(facts: Facts, tensor: int, **args: str) -> LaunchConfig:
    return LaunchConfig(facts.model, {"tensor-parallel-size": tensor, **args})


def started(facts: Facts, tensor: int, seconds: float | None) -> Trial:
    config = over(facts, tensor)
    found = replace(trial(STABLE), model=config.model, args=dict(config.args))
    return replace(found, startup_seconds=seconds)


def measured() -> Iterator[tuple[str, LaunchConfig, float]]:
    """Yield every start of the reports in `results/examples`, and each bare one."""
    for path in sorted(EXAMPLES.glob("*/*/report.json")):
        for each in read_report(path).trials:
            options = next(n for n, word in enumerate(each.argv) if word in {"--model", "serve"})
            config = LaunchConfig("m", parse_arguments(each.argv[options + 2 :]))
            if each.startup_seconds:
                yield path.parent.name, config, each.startup_seconds
        bare = [
            row["bare_start"]
            for row in json.loads((path.parents[1] / "table.json").read_text())
            if row["case"] == path.parent.name and row.get("bare_start")
        ]
        for seconds in bare:
            yield path.parent.name, config, seconds


def test_no_start_was_quicker(facts: Facts) -> None:
    found = list(measured())
    assert len(found) > 80
    assert any(config.world_size == 4 for _, config, _ in found)
    for name, config, seconds in found:
        empty = replace(facts.checkpoint, weights=None)  # weights are made up in nearly all
        known = replace(facts, checkpoints={"m": empty})
        assert quickest_start(known, config) <= seconds, name


def test_it_takes_longer_to_load_more_and_to_start_more(facts: Facts) -> None:
    alone, four = (quickest_start(facts, over(facts, n)) for n in (1, 4))
    made_up = quickest_start(facts, over(facts, 1, **{"load-format": "dummy"}))
    assert made_up < alone < four
    assert alone - made_up == pytest.approx(135.4 / 7.7, rel=0.01), "GiB over GiB per second"


@given(sizes, sizes, st.floats(1, 1000))
def test_what_this_machine_showed_counts(facts: Facts, one: int, other: int, took: float) -> None:
    history = [started(facts, 1, 7.0), started(facts, one, took), started(facts, 2, None)]
    least = quickest_here(facts, over(facts, other), history)
    assert least is not None
    assert quickest_here(facts, over(facts, one), history) == pytest.approx(took / 2)
    assert least >= 0.999 * took / 2 or other < one
    assert quickest_here(facts, over(facts, other), ()) is None


class Notes:
    """Listens to a walk."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.launches = 0

    def note(self, text: str) -> None:
        self.notes.append(text)

    def begin(self, number: int, candidate: Candidate) -> None:
        self.launches = number

    def progress(self, progress: Progress) -> None: ...

    def end(self, trial: Trial) -> None: ...


def test_no_launch_begins_that_cannot_be_ready_in_time(facts: Facts, tmp_path: Path) -> None:
    options = Options(
        results=tmp_path, cache=tmp_path / "cache", until=time.monotonic() + 20, allow_busy=True
    )
    run, heard = Run.create(tmp_path, KEY, "2026-01-01T00:00:00+00:00"), Notes()
    walk = Walk(facts, options, heard, run)
    walk.trials.append(started(facts, 1, 90.0))
    status, reason, hint = walk.go()
    assert status == "budget"
    assert "s of the time budget are left, the next launch takes 45 s to start" in reason
    assert "--time-budget" in hint
    assert heard.launches == 0
