"""The host's memory: what counts as free, and when a trial must stop for its sake."""

from pathlib import Path

import pytest

from vllm_autotune.launch.watchdog import host_alarm
from vllm_autotune.machine import cgroup
from vllm_autotune.machine.device import host_free_bytes, host_memory_bytes
from vllm_autotune.outcome import Environment, OutOfMemory
from vllm_autotune.vllm.config import LaunchConfig, Value

GIB = 2**30


@pytest.fixture
def ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cgroup that allows 1 GiB, of which 960 MiB are used: 700 MiB of them by files."""
    (tmp_path / "memory.max").write_text(f"{GIB}\n")
    (tmp_path / "memory.current").write_text(f"{960 * 2**20}\n")
    stat = f"anon {260 * 2**20}\nactive_file {500 * 2**20}\ninactive_file {200 * 2**20}\n"
    (tmp_path / "memory.stat").write_text(stat)
    monkeypatch.setattr(cgroup, "MOUNT", tmp_path)
    return tmp_path


def test_files_that_the_kernel_keeps_in_memory_count_as_free(ours: Path) -> None:
    assert host_memory_bytes() == GIB
    assert host_free_bytes() == (1024 - 260) * 2**20


V2 = ("", "memory.max", "memory.current", "0::{path}\n")
V1 = (
    "memory",
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    "9:pids:/\n4:memory:{path}\n0::/\n",
)


@pytest.mark.parametrize(("mount", "limit", "use", "line"), [V2, V1])
def test_the_tightest_group_around_ours_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mount: str, limit: str, use: str, line: str
) -> None:
    """A Slurm step may use what its job may, whose limit stands two folders above."""
    step = tmp_path / mount / "slurm" / "job_7" / "step_0"
    step.mkdir(parents=True)
    (step / limit).write_text("max" if limit == "memory.max" else str(2**63 - 4096))
    (step.parent / limit).write_text(str(8 * GIB))
    (step / use).write_text(str(GIB))
    (step.parent / use).write_text(str(5 * GIB))
    (tmp_path / "self").write_text(line.format(path="/slurm/job_7/step_0"))
    monkeypatch.setattr(cgroup, "MOUNT", tmp_path)
    monkeypatch.setattr(cgroup, "OURS", tmp_path / "self")

    assert cgroup.limit_bytes(2**62) == 8 * GIB
    assert cgroup.free_bytes(2**62) == 3 * GIB


@pytest.mark.parametrize("path", ["/", "/../..", "/docker/0123"])
def test_a_container_finds_its_group_at_the_root_whatever_it_is_called(
    ours: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    (ours / "self").write_text(f"0::{path}\n")
    (ours / "memory.events").write_text("low 0\noom 3\noom_kill 2\n")
    monkeypatch.setattr(cgroup, "OURS", ours / "self")
    assert cgroup.limit_bytes(2**62) == GIB
    assert cgroup.oom_kills() == 2


def test_a_host_with_room_raises_no_alarm(ours: Path) -> None:
    assert host_alarm(LaunchConfig("m"), "load", uses_host_memory=True) is None


@pytest.mark.parametrize(
    ("uses_host_memory", "args", "blamed"),
    [
        (True, {}, True),
        (False, {}, False),
        (False, {"cpu-offload-gb": 0}, False),
        (False, {"cpu-offload-gb": 4.5}, True),
        (False, {"kv-offloading-size": "8"}, True),
        (False, {"offload-group-size": "8"}, True),
    ],
)
def test_only_a_candidate_that_fills_the_host_is_blamed(
    ours: Path, uses_host_memory: bool, args: dict[str, Value], blamed: bool
) -> None:
    (ours / "memory.stat").write_text("anon 0\n")
    alarm = host_alarm(LaunchConfig("m", args), "load", uses_host_memory=uses_host_memory)
    assert isinstance(alarm, OutOfMemory if blamed else Environment)
    assert alarm.phase == "load"
    assert "64 MiB of host memory left, 128 MiB must stay free" in alarm.reason
    if isinstance(alarm, OutOfMemory):
        assert (alarm.where, alarm.shortfall_bytes) == ("host", 64 * 2**20)


def test_a_candidate_that_has_loaded_nothing_yet_is_not_blamed(ours: Path) -> None:
    (ours / "memory.stat").write_text("anon 0\n")
    alarm = host_alarm(LaunchConfig("m"), "config", uses_host_memory=True)
    assert isinstance(alarm, Environment)
