"""Memory of a GPU that others take, or that does not come back, told by NVIDIA's library."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_nvml import Cards, pynvml
from tests.support.fake_vllm import environment
from tests.support.trial_bench import CONTEXT, SEQUENCES, Bench
from vllm_autotune.errors import BadUsage, NoDevice
from vllm_autotune.launch import device_memory
from vllm_autotune.launch.progress import Progress
from vllm_autotune.machine import selection
from vllm_autotune.machine.device import Device, detect, free_bytes, host_free_bytes
from vllm_autotune.outcome import Environment, OutOfMemory, Stable
from vllm_autotune.report.report import Report
from vllm_autotune.search.facts import Facts
from vllm_autotune.search.trial import Candidate, Trial
from vllm_autotune.tuning.options import Options
from vllm_autotune.tuning.tune import tune
from vllm_autotune.workload import Effort, Workload

SCRIPT = {"device": "cuda", "total_gib": 140.4, "weights_gib": 0.01, "kv_bytes_per_token": 4096}
H200 = Device(
    kind="cuda",
    index=0,
    name="NVIDIA H200",
    uuid="GPU-0",
    memory_bytes=pynvml.TOTAL,
    free_bytes=pynvml.TOTAL - pynvml.IDLE,
    capability=(9, 0),
    driver="580",
)

pytestmark = pytest.mark.usefixtures("nothing_open")


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cards:
    cards = Cards.make(tmp_path / "nvml")
    for name, value in cards.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(sys.modules, "pynvml", pynvml)
    monkeypatch.setattr(device_memory, "RETURN_SECONDS", 1.0)
    return cards


@pytest.fixture
def card(bench: Bench, cards: Cards) -> Bench:
    assert cards.folder.exists()
    engine = replace(bench.facts.engine, platform="cuda")
    few = {"max-num-seqs": SEQUENCES}
    return replace(bench, facts=replace(bench.facts, devices=(H200,), engine=engine, fixed=few))


class Listener:
    """Hears what a run says; `act` is done at every progress."""

    def __init__(self, act: Any = lambda: None) -> None:
        self.act = act
        self.notes: list[str] = []
        self.ends: list[Trial] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def begin(self, number: int, candidate: Candidate) -> None: ...

    def progress(self, progress: Progress) -> None:
        self.act()

    def end(self, trial: Trial) -> None:
        self.ends.append(trial)


def tuned(facts: Facts, folder: Path, listener: Listener, **options: Any) -> Report:
    how = Options(results=folder / "results", cache=folder / "cache", **options)
    quick = Workload(context=CONTEXT, min_context=CONTEXT, probe=Effort(effort="quick"))
    facts = replace(facts, workload=quick)
    return tune(facts, how, listener)[0]


def test_a_card_whose_memory_comes_back_is_stable(card: Bench) -> None:
    assert isinstance(card.trial(SCRIPT).outcome, Stable)


def test_an_answer_needs_what_its_server_took_beyond_its_share(
    card: Bench, cards: Cards, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cards.folder.exists()
    for name, value in environment({**SCRIPT, "beyond_gib": 1.5}).items():
        monkeypatch.setenv(name, value)
    winner = tuned(card.facts, card.folder, Listener()).winner
    assert winner
    assert winner.valid_for.needed_bytes - winner.memory.reserved == pytest.approx(
        1.5 * 2**30, abs=2**30 // 2
    )


def test_a_server_that_takes_the_headroom_is_given_less(
    card: Bench, cards: Cards, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM leaves 8 % of the card, and the server takes all but 100 MiB of it."""
    assert cards.folder.exists()
    left = H200.free_bytes - 0.92 * 140.4 * 2**30
    beyond = left / 2**30 - 0.1
    for name, value in environment({**SCRIPT, "beyond_gib": beyond}).items():
        monkeypatch.setenv(name, value)
    facts = replace(card.facts, headroom_bytes=2**28)
    report = tuned(facts, card.folder, Listener())
    first, second = (trial.outcome for trial in report.trials)
    assert isinstance(first, OutOfMemory)
    assert (first.cause, first.phase) == ("too_little_headroom", "serving")
    assert isinstance(second, Stable)
    assert second.certificate.least_free_bytes
    assert second.certificate.least_free_bytes >= facts.headroom_bytes


def test_memory_that_does_not_come_back_is_an_environment_failure(
    card: Bench, cards: Cards
) -> None:
    def take(_: Progress) -> None:
        cards.take(3 * 2**30)

    outcome = card.trial(SCRIPT, show=take).outcome
    assert isinstance(outcome, Environment)
    assert outcome.cause == "memory_not_returned"
    assert "3.0 GiB did not come back" in outcome.reason


def test_a_trial_that_another_tenant_spoiled_is_repeated_once(
    card: Bench, cards: Cards, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tenant comes in the first launch and stays; the second launch sees no change."""
    monkeypatch.setattr(selection, "BUSY_BYTES", 2**40)
    for name, value in environment(SCRIPT).items():
        monkeypatch.setenv(name, value)

    def take() -> None:
        cards.take(3 * 2**30)

    listener = Listener(take)
    report = tuned(card.facts, card.folder, listener)
    assert [t.outcome.kind for t in listener.ends] == ["environment", "stable"]
    assert report.status == "stable"


def test_a_busy_card_is_refused_without_allow_busy(
    card: Bench, cards: Cards, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment(SCRIPT).items():
        monkeypatch.setenv(name, value)
    cards.take(4 * 2**30)
    free = H200.free_bytes - 4 * 2**30
    busy = replace(card.facts, devices=(replace(H200, free_bytes=free),))
    report = tuned(busy, card.folder, Listener())
    assert (report.status, report.launches) == ("environment", 0)
    expected = "the GPU NVIDIA H200 (GPU-0) is busy: other processes hold 4.6 GiB of 140.4 GiB"
    assert expected in report.reason
    assert "--allow-busy" in report.hint
    allowed = tuned(busy, card.folder, Listener(), allow_busy=True, resume=True)
    assert allowed.status == "stable"


def test_a_gpu_that_shares_the_hosts_memory_is_tuned(
    card: Bench, cards: Cards, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NVML has no numbers for a GB10; what others use of the host's memory makes it not busy."""
    (cards.folder / "unified").touch()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (found,) = detect("cuda")
    assert found.unified
    assert found.free_bytes < found.memory_bytes
    assert abs(found.free_bytes - host_free_bytes()) < 2**30
    total = found.memory_bytes / 2**30
    for name, value in environment({**SCRIPT, "total_gib": total}).items():
        monkeypatch.setenv(name, value)
    held = replace(found, limit_bytes=8 * 2**30)
    report = tuned(replace(card.facts, devices=(held,)), card.folder, Listener())
    assert report.status == "stable", report.reason


@pytest.mark.parametrize("variable", [None, "0,1", "1"])
def test_a_gpu_that_is_lost_spoils_no_other(
    cards: Cards, monkeypatch: pytest.MonkeyPatch, variable: str | None
) -> None:
    (cards.folder / "count").write_text("3")
    (cards.folder / "lost-0").touch()
    show(monkeypatch, variable)
    indices = {found.index for found in detect("cuda")}
    assert indices == ({1, 2} if variable is None else {1})
    assert [found.index for found in detect("cuda", "1")] == [1]
    with pytest.raises(NoDevice, match=r"--gpus names GPU `0`, which does not respond \(GPU is lo"):
        detect("cuda", "1,0")
    with pytest.raises(BadUsage, match="GPU `7`, which does not exist"):
        detect("cuda", "7")


@pytest.mark.parametrize("variable", [None, "0"])
def test_a_single_gpu_that_is_lost_counts_as_none(
    cards: Cards, monkeypatch: pytest.MonkeyPatch, variable: str | None
) -> None:
    (cards.folder / "lost-0").touch()
    show(monkeypatch, variable)
    with pytest.raises(NoDevice, match=r"is visible: GPU 0 does not respond \(GPU is lost\)"):
        detect("cuda")


@pytest.mark.parametrize("variable", ["", "-1", "NoDevFiles", "none", "void", "7", "-1,0"])
def test_cuda_sees_no_gpu_behind_the_first_invalid_name(
    cards: Cards, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    (cards.folder / "count").write_text("2")
    show(monkeypatch, variable)
    with pytest.raises(NoDevice, match=f"CUDA_VISIBLE_DEVICES={variable} hides 0 .GPU-0., 1"):
        detect("cuda")
    show(monkeypatch, f"1,{variable},0")
    assert [found.index for found in detect("cuda")] == ([1] if variable else [1, 0])


def show(monkeypatch: pytest.MonkeyPatch, variable: str | None) -> None:
    """Set CUDA_VISIBLE_DEVICES, or take it away."""
    if variable is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)


def test_a_lost_gpu_is_a_refusal(cards: Cards) -> None:
    (cards.folder / "lost").touch()
    with pytest.raises(NoDevice, match=r"the NVIDIA driver does not respond \(GPU is lost\)"):
        free_bytes(H200)


def test_gpus_with_a_link_between_them_are_used_together(cards: Cards) -> None:
    (cards.folder / "count").write_text("4")
    assert [device.index for device in detect("cuda")] == [0, 1, 2, 3]
    (cards.folder / "links").write_text("0-3 1-2")
    assert {device.index for device in detect("cuda")[:2]} in ({0, 3}, {1, 2})
    cards.take(60 * 2**30)  # of the first
    assert [device.index for device in detect("cuda")][:2] == [1, 2]
    assert [device.index for device in detect("cuda", "3,0")] == [3, 0]
