"""What follows a storm of preemptions: room on the host, else fewer requests at once."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.memory_model import FLAGS, GIB, cards, engine, gather, install
from tests.support.paths import SHAPES
from vllm_autotune.checkpoint import Checkpoint, read_checkpoint
from vllm_autotune.outcome import PREEMPTION_STORM, Degraded, Readings
from vllm_autotune.search.facts import Facts
from vllm_autotune.search.step import next_step, prospects
from vllm_autotune.search.trial import Candidate, Trial
from vllm_autotune.vllm.config import Value
from vllm_autotune.workload import Workload

STORM = Degraded(cause=PREEMPTION_STORM, phase="serving", reason="99 preemptions of 9 requests")
IDLE = Degraded(cause="no_effect", phase="serving", reason="--swap-space had no effect: it")
READINGS = Readings(concurrency=9.7, kv_bytes=int(4.3 * GIB))


@pytest.fixture
def shape(tmp_path: Path) -> Checkpoint:
    (tmp_path / "config.json").write_text((SHAPES / "qwen2.5-7b.json").read_text())
    return read_checkpoint(str(tmp_path), weights_required=False)


def gathered(shape: Checkpoint, folder: Path, *flags: str, version: str = "0.26.0") -> Facts:
    site = install(folder / "site", [*set(FLAGS) - {"kv-offloading-size"}, *flags])
    devices = cards("NVIDIA GeForce RTX 4090", 23.5, (8, 9), 1)
    return gather(shape, devices, Workload(), engine(site, version))


def after(facts: Facts, *outcomes: Degraded) -> Candidate | None:
    history: list[Trial] = []
    for outcome in outcomes:
        candidate = next_step(facts, history).candidate
        assert candidate
        history.append(Trial.of(candidate, outcome, READINGS))
    return next_step(facts, history).candidate


def given(candidate: Candidate | None) -> dict[str, Value]:
    assert candidate
    return dict(candidate.config.args)


def test_requests_that_have_to_wait_get_host_memory(shape: Checkpoint, tmp_path: Path) -> None:
    facts = gathered(shape, tmp_path, "kv-offloading-size")
    before, found = given(next_step(facts, ()).candidate), given(after(facts, STORM))
    # As much as the GPU has for them; neither context nor sequences are given up.
    assert found == {**before, "kv-offloading-size": 5}


def test_no_more_than_half_of_the_host_and_the_shared_memory(
    shape: Checkpoint, tmp_path: Path
) -> None:
    facts = gathered(shape, tmp_path, "kv-offloading-size")
    little = replace(facts, host_free_bytes=5 * GIB)
    assert given(after(little, STORM))["kv-offloading-size"] == 2
    container = replace(facts, shared_free_bytes=3 * GIB)
    assert given(after(container, STORM))["kv-offloading-size"] == 3
    docker = replace(facts, shared_free_bytes=64 * 2**20)
    assert "kv-offloading-size" not in given(after(docker, STORM))
    assert given(after(docker, STORM))["max-num-seqs"] == 9


def test_what_storms_with_host_memory_too_runs_fewer_requests(
    shape: Checkpoint, tmp_path: Path
) -> None:
    facts = gathered(shape, tmp_path, "kv-offloading-size")
    found = given(after(facts, STORM, STORM))
    assert found["max-num-seqs"] == 9
    assert "kv-offloading-size" not in found


def test_as_many_requests_run_at_once_as_fit_with_their_answers(
    shape: Checkpoint, tmp_path: Path
) -> None:
    facts = gathered(shape, tmp_path)
    short = replace(STORM, fit_at_once=110)
    assert given(after(facts, short))["max-num-seqs"] == 110
    # Where 110 storm as well, their lengths were not what mattered.
    assert given(after(facts, short, short))["max-num-seqs"] == 9


@pytest.mark.parametrize(
    ("version", "flags", "tried"),
    [
        ("0.8.5", ("swap-space",), "swap-space"),
        ("0.11.0", ("swap-space",), None),  # the flag is there, and does nothing
        ("0.15.0", ("swap-space", "kv-offloading-size"), "kv-offloading-size"),
        ("0.9.0", (), None),
    ],
)
def test_the_flag_that_this_vllm_has_and_uses(
    shape: Checkpoint, tmp_path: Path, version: str, flags: tuple[str, ...], tried: str | None
) -> None:
    facts = gathered(shape, tmp_path, *flags, version=version)
    found = given(after(facts, STORM))
    assert {"swap-space", "kv-offloading-size"} & found.keys() == ({tried} if tried else set())
    assert tried or found["max-num-seqs"] == 9


def test_a_swap_space_without_effect_is_not_kept(shape: Checkpoint, tmp_path: Path) -> None:
    facts = gathered(shape, tmp_path, "swap-space", version="0.8.5")
    found = after(facts, STORM, IDLE)
    assert found
    assert "swap-space" not in found.config.args
    assert found.config.max_num_seqs == 9


def test_without_a_storm_the_rungs_have_nothing_to_do(shape: Checkpoint, tmp_path: Path) -> None:
    facts = gathered(shape, tmp_path, "kv-offloading-size")
    why = {rung.name: why for rung, candidate, why in prospects(facts) if not candidate}
    for rung in ("swap", "full-sequences-only"):
        assert why[rung] == "no launch was slowed down by preemptions"


def test_the_users_own_numbers_stay(shape: Checkpoint, tmp_path: Path) -> None:
    facts = gathered(shape, tmp_path, "kv-offloading-size")
    fixed: dict[str, Value] = {"kv-offloading-size": "1", "max-num-seqs": "64"}
    assert after(replace(facts, fixed=fixed), STORM) is None
