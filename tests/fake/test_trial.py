"""One launch of a server that dies, hangs or misbehaves: what became of it, and nothing is left."""

import socket
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.pace import LATEST, SOON
from tests.support.trial_bench import ARGS, CONTEXT, SEQUENCES, Bench
from vllm_autotune.errors import BudgetSpent
from vllm_autotune.launch.progress import Progress
from vllm_autotune.machine import cgroup
from vllm_autotune.outcome import (
    Crashed,
    Degraded,
    Environment,
    Hung,
    OutOfMemory,
    Rejected,
    Stable,
)
from vllm_autotune.probe.target import Patience
from vllm_autotune.server.server import free_port

pytestmark = pytest.mark.usefixtures("nothing_open", "scratch")

PHASES = ("config", "load", "profile", "kv_cache", "graphs", "warmup", "serving")
# Where no line tells them apart, the phase is that of the last line before it; without graphs,
# what follows the KV cache is the warm-up.
ALSO = {"profile": "load", "graphs": "warmup", "warmup": "graphs"}


def test_a_good_server_is_stable(bench: Bench) -> None:
    trial = bench.trial({})
    assert isinstance(trial.outcome, Stable), trial.outcome
    assert trial.memory_returned
    assert trial.startup_seconds is not None
    assert trial.probe_seconds is not None
    assert trial.readings.version == "0.32.0"
    assert trial.readings.kv_tokens
    assert trial.argv[-1] == str(SEQUENCES)
    assert "--port" not in trial.argv
    assert (bench.folder / trial.log).read_text().endswith("Application shutdown complete.\n")


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("phase", PHASES)
def test_running_out_of_memory_is_known_by_its_phase(bench: Bench, phase: str, device: str) -> None:
    outcome = bench.trial({"die_at": phase, "device": device, "after": 3}).outcome
    assert isinstance(outcome, OutOfMemory), outcome
    assert outcome.phase in (phase, ALSO.get(phase))
    assert "memory" in outcome.evidence[0]


@pytest.mark.parametrize("phase", PHASES)
def test_an_unknown_exception_is_a_crash_and_never_out_of_memory(bench: Bench, phase: str) -> None:
    outcome = bench.trial({"die_at": phase, "how": "crash", "after": 3}).outcome
    assert isinstance(outcome, Crashed), outcome
    assert outcome.phase in (phase, ALSO.get(phase))
    assert any("the frobnicator is gone" in line for line in outcome.evidence)


@pytest.mark.parametrize("how", ["sigkill", "sigkill_engine", "segv", "exit0"])
@pytest.mark.parametrize("phase", ["load", "kv_cache", "serving"])
def test_a_silent_death_is_a_crash(bench: Bench, phase: str, how: str) -> None:
    outcome = bench.trial({"die_at": phase, "how": how, "after": 3}).outcome
    assert isinstance(outcome, Crashed), outcome
    assert outcome.phase == phase
    assert outcome.evidence
    assert outcome.cause in ("killed", "engine_died", "segmentation_fault", "unknown")


@pytest.mark.parametrize("how", ["sigkill", "exit0"])
def test_a_death_without_a_word_is_a_crash_with_its_exit_code(bench: Bench, how: str) -> None:
    outcome = bench.trial({"die_at": "spawn", "how": how}).outcome
    assert isinstance(outcome, Crashed), outcome
    assert outcome.exit_code == (-9 if how == "sigkill" else 0)


def test_a_short_kv_cache_is_refused_with_its_numbers(bench: Bench) -> None:
    outcome = bench.trial({"budget_gib": 0.8, "kv_bytes_per_token": 65536}).outcome
    assert isinstance(outcome, OutOfMemory), outcome
    assert outcome.phase == "kv_cache"
    assert outcome.limit is not None
    assert 0 < outcome.limit < CONTEXT
    assert outcome.shortfall_bytes is not None
    assert outcome.shortfall_bytes > 0


def test_a_refusal_ends_the_trial_before_the_server_does(bench: Bench) -> None:
    began = time.monotonic()
    trial = bench.trial({"budget_gib": 0.8, "kv_bytes_per_token": 65536, "linger": LATEST})
    assert isinstance(trial.outcome, OutOfMemory), trial.outcome
    assert time.monotonic() - began < SOON


def test_a_refusal_behind_a_flood_of_log_is_read(bench: Bench) -> None:
    script = {"mode": "flood", "flood_mib": 24, "die_at": "serving", "after": 1}
    outcome = bench.trial(script).outcome
    assert isinstance(outcome, OutOfMemory), outcome


@pytest.mark.parametrize(
    ("script", "phase", "seconds"),
    [
        ({"die_at": "spawn", "how": "hang"}, "spawn", 1),
        ({"die_at": "load", "how": "hang"}, "load", 8),
        ({"mode": "never_ready"}, "warmup", 8),
        ({"mode": "hang_all"}, "serving", 8),
    ],
)
def test_a_server_that_is_never_ready_is_hung(
    bench: Bench, script: dict[str, object], phase: str, seconds: float
) -> None:
    outcome = bench.trial(script, launch_seconds=seconds).outcome
    assert isinstance(outcome, Hung), outcome
    assert outcome.seconds is not None
    assert (outcome.cause, outcome.phase) == ("never_ready", phase)
    assert outcome.seconds >= seconds
    assert bool(outcome.evidence) is (phase != "spawn")


def test_an_unknown_flag_is_rejected_with_its_name(bench: Bench) -> None:
    outcome = bench.trial({}, {**ARGS, "swap-space": 4}).outcome
    assert isinstance(outcome, Rejected), outcome
    assert outcome.argument == "swap-space"
    assert any("unrecognized arguments: --swap-space 4" in line for line in outcome.evidence)


def test_a_context_beyond_the_model_is_rejected(bench: Bench) -> None:
    outcome = bench.trial({}, {**ARGS, "max-model-len": 100000}).outcome
    assert isinstance(outcome, Rejected), outcome
    assert any("max_position_embeddings=8192" in line for line in outcome.evidence)


def test_a_stolen_port_is_an_environment_failure(bench: Bench) -> None:
    port = free_port()
    with closing(socket.socket()) as thief:

        def steal(_: Progress) -> None:
            if not thief.getsockname()[1]:
                thief.bind(("127.0.0.1", port))
                thief.listen()

        script: dict[str, object] = {"delay": {"config": 4}}
        outcome = bench.trial(script, ports=range(port, port + 1), show=steal).outcome
    assert isinstance(outcome, Environment), outcome
    assert any("Address already in use" in line for line in outcome.evidence)


def test_a_stranger_on_the_port_is_an_environment_failure(bench: Bench) -> None:
    outcome = bench.trial({"mode": "stranger"}).outcome
    assert isinstance(outcome, Environment), outcome
    assert outcome.cause == "stranger_on_port"


def test_a_server_that_dies_before_it_lists_its_model_is_no_stranger(bench: Bench) -> None:
    outcome = bench.trial({"mode": "dies_when_listed"}).outcome
    assert isinstance(outcome, Crashed), outcome
    assert outcome.exit_code == -9


def test_an_out_of_memory_line_counts_though_all_answers_were_right(bench: Bench) -> None:
    outcome = bench.trial({"mode": "oom_line"}).outcome
    assert isinstance(outcome, OutOfMemory), outcome
    assert outcome.phase == "serving"


def test_more_context_than_was_asked_for_is_proven_whole(bench: Bench) -> None:
    trial = bench.trial({"mode": "longer_model_len"})
    assert isinstance(trial.outcome, Stable), trial.outcome
    full = trial.outcome.certificate.checks[1]
    assert (full.name, full.prompt_tokens + full.output_tokens) == ("full context", 2 * CONTEXT)


def test_half_the_context_is_not_what_was_asked_for(bench: Bench) -> None:
    outcome = bench.trial({"mode": "wrong_model_len"}).outcome
    assert isinstance(outcome, Degraded), outcome


def test_the_log_has_the_last_word_on_a_failed_probe(bench: Bench) -> None:
    outcome = bench.trial({"die_at": "serving", "device": "cuda", "after": 2}).outcome
    assert isinstance(outcome, OutOfMemory), outcome
    assert "298" in outcome.evidence[0]
    assert outcome.reason.endswith(", during `one by one`")


def test_a_spent_budget_ends_a_launch(bench: Bench) -> None:
    began = time.monotonic()
    with pytest.raises(BudgetSpent):
        bench.trial({"die_at": "load", "how": "hang"}, until=began + 0.5)
    assert time.monotonic() - began < SOON


def test_a_spent_budget_ends_a_probe_in_the_middle_of_an_item(bench: Bench) -> None:
    seen: set[str] = set()
    began = time.monotonic()
    with pytest.raises(BudgetSpent):
        bench.trial(
            {"mode": "hang"},
            until=began + 20,
            patience=Patience(),
            show=lambda progress: seen.add(progress.phase),
        )
    assert time.monotonic() - began < 20 + SOON
    assert "serving" in seen


def test_the_phases_are_shown_while_it_starts(bench: Bench) -> None:
    seen: list[str] = []
    delay = {"load": 4, "kv_cache": 4}
    bench.trial({"delay": delay}, show=lambda progress: seen.append(progress.phase))
    shown = list(dict.fromkeys(seen))
    assert shown[-1] == "serving"
    assert {"load", "kv_cache"} <= set(shown)


def in_a_cgroup(
    monkeypatch: pytest.MonkeyPatch, folder: Path, free: Callable[[], int]
) -> Callable[[Progress], None]:
    """Make this machine look like one whose cgroup allows 64 GiB; return what updates its use."""
    (folder / "memory.max").write_text(str(2**36))

    def use(_: Progress) -> None:
        temporary = folder / "new"
        temporary.write_text(str(2**36 - free()))
        temporary.replace(folder / "memory.current")

    monkeypatch.setattr(cgroup, "MOUNT", folder)
    return use


@pytest.mark.parametrize(
    ("script", "phase"), [({"delay": {"load": LATEST}}, "load"), ({"mode": "hang"}, "serving")]
)
def test_a_trial_is_stopped_before_the_host_runs_out_of_memory(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, script: dict[str, object], phase: str
) -> None:
    folder = bench.folder / "cgroup"
    folder.mkdir()
    seen: list[str] = []

    def free() -> int:
        return 2**26 if seen and seen[-1] == phase else 2**35

    use = in_a_cgroup(monkeypatch, folder, free)

    def show(progress: Progress) -> None:
        seen.append(progress.phase)
        use(progress)

    use(Progress(phase="spawn", seconds=0, line="", free_bytes=None))
    began = time.monotonic()
    outcome = bench.trial(script, show=show, patience=Patience()).outcome
    assert time.monotonic() - began < SOON
    assert isinstance(outcome, OutOfMemory), outcome
    assert (outcome.where, outcome.phase, outcome.cause) == ("host", phase, "host_memory_low")
    assert "64 MiB of host memory left" in outcome.reason
    assert outcome.shortfall_bytes


def test_preempted_requests_that_come_back_from_the_host_are_no_storm(bench: Bench) -> None:
    storm: dict[str, object] = {"mode": "preemption_storm"}
    alone = bench.trial(storm).outcome
    assert isinstance(alone, Degraded)
    assert alone.cause == "preemption_storm"

    swapping = bench.trial(storm, {**ARGS, "kv-offloading-size": 1}).outcome
    assert isinstance(swapping, Stable), swapping
    certificate = swapping.certificate
    assert certificate.preemptions
    assert certificate.swapped_in_bytes
    assert certificate.swapped_out_bytes


@pytest.mark.parametrize(
    ("mode", "flag", "how"),
    [
        ("no_swapping", "kv-offloading-size", "not a byte of the KV cache went to host memory"),
        ("preemption_storm no_swapping", "kv-offloading-size", "nothing came back"),
        ("preemption_storm", "swap-space", "nothing came back from host memory"),
    ],
)
def test_host_memory_that_is_never_used_has_no_effect(
    bench: Bench, mode: str, flag: str, how: str
) -> None:
    version = "0.10.2" if flag == "swap-space" else "0.32.0"
    outcome = bench.trial({"mode": mode, "version": version}, {**ARGS, flag: 1}).outcome
    assert isinstance(outcome, Degraded), outcome
    assert outcome.cause == "no_effect"
    assert outcome.reason.startswith(f"--{flag} had no effect")
    assert how in outcome.reason
