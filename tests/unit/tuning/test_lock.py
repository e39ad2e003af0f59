"""Locks: one tuning per device, whoever asks, and the next one when it ends."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.pace import LATEST, SOON
from tests.support.paths import ROOT
from tests.support.users import NOBODY, as_nobody, only_root, open_folder
from vllm_autotune.errors import CannotWrite, DeviceBusy
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


# Others can write where the locks are, too.


def locks(tmp_path: Path) -> Path:
    return tmp_path / "vllm-autotune.locks"


def planted(tmp_path: Path) -> Path:
    """Return the folder of the locks as another user could have made it."""
    folder = locks(tmp_path)
    folder.mkdir()
    folder.chmod(0o1777)
    return folder


def test_the_folder_of_the_locks_is_for_all_and_so_is_a_lock(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        with locked(CARDS[:1], "m"):
            assert locks(tmp_path).stat().st_mode & 0o7777 == 0o1777
            assert (locks(tmp_path) / "GPU-0.lock").stat().st_mode & 0o777 == 0o666
    finally:
        os.umask(before)


def test_a_folder_that_is_a_link_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir(mode=0o700)
    locks(tmp_path).symlink_to(victim)
    with pytest.raises(CannotWrite, match="is a link") as refused, locked(CARDS, "m"):
        pass
    assert lock.FOLDER_VARIABLE in refused.value.hint
    assert victim.stat().st_mode & 0o7777 == 0o700
    assert not list(victim.iterdir())


@pytest.mark.parametrize("mode", [0o777, 0o775])
def test_a_folder_in_which_others_can_replace_a_lock_is_refused(tmp_path: Path, mode: int) -> None:
    planted(tmp_path).chmod(mode)
    with pytest.raises(CannotWrite, match="other users can replace locks"), locked(CARDS, "m"):
        pass
    assert locks(tmp_path).stat().st_mode & 0o7777 == mode


@only_root
def test_another_users_private_folder_is_refused(tmp_path: Path) -> None:
    planted(tmp_path).chmod(0o755)
    os.chown(locks(tmp_path), NOBODY, NOBODY)
    with pytest.raises(CannotWrite, match="it is not used"), locked(CARDS, "m"):
        pass


@pytest.mark.parametrize("kind", ["link", "hard link", "pipe", "folder"])
def test_what_is_no_lock_is_refused_and_left_as_it_is(tmp_path: Path, kind: str) -> None:
    path, victim = planted(tmp_path) / "GPU-0.lock", tmp_path / "victim"
    victim.write_text("precious")
    victim.chmod(0o600)
    made: dict[str, Callable[[], None]] = {
        "link": lambda: path.symlink_to(victim),
        "hard link": lambda: path.hardlink_to(victim),
        "pipe": lambda: os.mkfifo(path),
        "folder": path.mkdir,
    }
    made[kind]()
    with pytest.raises(CannotWrite, match="GPU-0") as refused, locked(CARDS, "m"):
        pass
    assert lock.FOLDER_VARIABLE in refused.value.hint
    assert victim.read_text() == "precious"
    assert victim.stat().st_mode & 0o777 == 0o600


def test_a_note_that_is_a_link_is_replaced(tmp_path: Path) -> None:
    note, victim = planted(tmp_path) / f"GPU-0.{os.getpid()}.json", tmp_path / "victim"
    victim.write_text("precious")
    note.symlink_to(victim)
    with locked(CARDS[:1], "mine"):
        assert json.loads(note.read_text())["model"] == "mine"
        assert note.stat().st_mode & 0o777 == 0o644
    assert victim.read_text() == "precious"


def test_notes_that_are_pipes_or_links_hold_nobody_up(tmp_path: Path) -> None:
    folder = planted(tmp_path)
    (folder / f"GPU-0.{os.getpid()}.json").mkdir()
    os.mkfifo(folder / "GPU-0.1.json")
    (folder / "GPU-0.2.json").symlink_to("/dev/zero")
    with locked(CARDS[:1], "m"):
        pass


@only_root
def test_a_lock_that_another_user_made_is_taken_as_it_is(tmp_path: Path) -> None:
    path = planted(tmp_path) / "GPU-0.lock"
    path.write_text("")
    path.chmod(0o644)
    os.chown(path, NOBODY, NOBODY)
    with locked(CARDS[:1], "m"):
        with pytest.raises(DeviceBusy), locked(CARDS[:1], "m"):
            pass
        assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("error", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_said_and_nobody_is_blamed(
    monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    def flock(*_: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(CannotWrite, match="has no file locks") as refused, locked(CARDS, "m"):
        pass
    assert lock.FOLDER_VARIABLE in refused.value.hint


@only_root
def test_a_user_who_may_not_write_there_is_told_which_variable_helps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def hold() -> None:
        with locked(CARDS, "m"):
            pass

    with open_folder() as folder:
        monkeypatch.setenv(lock.FOLDER_VARIABLE, str(folder))
        raised = as_nobody(hold)
        assert raised.startswith("CannotWrite: cannot write")
        assert lock.FOLDER_VARIABLE in raised
        folder.chmod(0o1777)
        assert as_nobody(hold) == ""
        with locked(CARDS, "mine"):
            assert as_nobody(hold).startswith("DeviceBusy: another autotune (pid")
