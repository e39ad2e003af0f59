"""Locks: one tuning per device, whoever asks, and the next one when it ends."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.pace import LATEST, SOON
from tests.support.paths import ROOT
from vllm_autotune.errors import DeviceBusy
from vllm_autotune.machine.device import Device
from vllm_autotune.tuning import lock
from vllm_autotune.tuning.lock import locked

CARD = Device(kind="cuda", index=0, name="NVIDIA L4", uuid="GPU-0", memory_bytes=24, free_bytes=24)
CARDS = (CARD, replace(CARD, index=1, uuid="GPU-1"))

HOLDS = """
import sys
from vllm_autotune.tuning.lock import locked
with locked([type("D", (), {"uuid": sys.argv[1], "name": "x"})], "/models/other"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(lock.FOLDER_VARIABLE, str(tmp_path))


@contextmanager
def other_holder(uuid: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, uuid],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout
        assert other.stdout.readline() == b"held\n"
        yield other
        other.kill()


def test_two_processes_never_tune_one_device_at_once() -> None:
    with other_holder("GPU-1") as other:
        with pytest.raises(DeviceBusy, match="GPU-1") as busy, locked(CARDS, "m"):
            pass
        assert busy.value.exit_code == 3
        assert "concurrent runs distort each other's measurements" in busy.value.hint
        assert f"pid {other.pid}, /models/other, since 20" in busy.value.message
        with locked(CARDS[:1], "m"):
            pass  # what the refused one held before is free again
        other.kill()
        other.wait()
    with locked(CARDS, "m"):
        pass  # the lock dies with its process


def test_who_waits_says_for_whom_and_goes_on_when_the_other_ends() -> None:
    said: list[str] = []
    with other_holder("GPU-0") as other:
        pid = other.pid

        def end_it(text: str) -> None:
            said.append(text)
            os.kill(pid, signal.SIGKILL)

        with locked(CARDS, "m", wait=LATEST, say=end_it):
            pass
    assert len(said) == 1
    assert f"waiting: another autotune (pid {pid}" in said[0]


def test_waiting_has_an_end() -> None:
    with other_holder("GPU-0"):
        began = time.monotonic()
        with pytest.raises(DeviceBusy), locked(CARDS, "m", wait=0.6):
            pass
        assert 0.5 < time.monotonic() - began < SOON


def test_two_temporary_folders_are_still_one_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job of a cluster has a TMPDIR of its own, and no device of its own."""
    monkeypatch.delenv(lock.FOLDER_VARIABLE)
    monkeypatch.setattr(lock, "FOLDERS", (tmp_path / "not-there", tmp_path))
    (tmp_path / "job-2").mkdir()
    with locked(CARDS[:1], "m"):
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "job-2"))
        with pytest.raises(DeviceBusy, match="GPU-0"), locked(CARDS[:1], "m"):
            pass


def test_a_machine_with_no_place_for_all_has_the_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(lock.FOLDER_VARIABLE)
    monkeypatch.setattr(lock, "FOLDERS", (tmp_path / "not-there",))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with locked(CARDS, "m"):
        assert list((tmp_path / "vllm-autotune.locks").glob("*.lock"))


def test_a_dead_holder_is_not_named_and_its_note_is_removed(tmp_path: Path) -> None:
    with other_holder("GPU-0") as other:
        other.kill()
        other.wait()
    folder = tmp_path / "vllm-autotune.locks"
    assert len(list(folder.glob("*.json"))) == 1
    with locked(CARDS, "mine"):
        notes = [json.loads(path.read_text()) for path in folder.glob("*.json")]
        assert [note["model"] for note in notes] == ["mine", "mine"]
    assert not list(folder.glob("*.json"))
