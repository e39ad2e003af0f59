"""A server's life and end: whatever it does, nothing of it is left."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.support.fake_vllm import COMMAND, environment
from tests.support.pace import LATEST, SOON
from tests.support.paths import ROOT
from vllm_autotune.errors import CannotWrite, NoEngine, NoPort
from vllm_autotune.probe.listing import is_healthy
from vllm_autotune.server.leftovers import make_scratch, remove_leftovers
from vllm_autotune.server.server import Server, check_disk, free_port

pytestmark = pytest.mark.usefixtures("nothing_open", "scratch")


def server(folder: Path, port: int = 0, grace: float = LATEST, **script: object) -> Server:
    argv = [*COMMAND, "--model", "m", "--port", str(port or free_port()), "--enforce-eager"]
    name = f"{os.getpid()}-{random.randbytes(4).hex()}"
    return Server(argv, environment(script), folder / "server.log", name, grace)


def wait_for(text: str, running: Server, seconds: float = LATEST) -> str:
    """Read the log until it holds `text`, and return what was read."""
    read, deadline = "", time.monotonic() + seconds
    while True:
        new = running.new_text()
        read += new
        if text in read[-len(text) - len(new) :]:
            return read
        assert time.monotonic() < deadline, read
        time.sleep(0.01)


LIVES = 200
READY = "Application startup complete."


def tree(folder: Path) -> list[psutil.Process]:
    """Return the living processes that work in this scratch folder."""
    return [p for p in psutil.process_iter() if _has(p, f"TMPDIR={folder}/".encode())]


def _has(process: psutil.Process, variable: bytes) -> bool:
    try:
        return variable in Path(f"/proc/{process.pid}/environ").read_bytes()
    except OSError:
        return False


def test_a_good_server_ends_when_it_is_told_to(tmp_path: Path, scratch: Path) -> None:
    port = free_port()
    with server(tmp_path, port) as running:
        wait_for(READY, running)
        assert is_healthy(f"http://127.0.0.1:{port}")
        assert len(tree(scratch)) == 3
        began = time.monotonic()
        assert running.stop()
        assert time.monotonic() - began < SOON
    assert "Application shutdown complete." in (tmp_path / "server.log").read_text()


def test_a_tree_that_ignores_sigterm_is_killed(tmp_path: Path, scratch: Path) -> None:
    with server(tmp_path, grace=0.3, mode="ignores_sigterm") as running:
        wait_for(READY, running)
        assert running.stop()
    assert not tree(scratch)


@pytest.fixture
def little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give what outlives the API server 0.3 s to end instead of 3."""
    monkeypatch.setattr("vllm_autotune.server.server.ORPHAN_SECONDS", 0.3)


@pytest.mark.usefixtures("little_patience")
def test_a_worker_that_left_the_session_is_found(tmp_path: Path, scratch: Path) -> None:
    with server(tmp_path, mode="setsid_grandchild") as running:
        wait_for(READY, running)
        began = time.monotonic()
        assert running.stop()
        assert time.monotonic() - began < SOON
    assert not tree(scratch)


def test_an_engine_whose_parent_was_killed_is_found(tmp_path: Path, scratch: Path) -> None:
    with server(tmp_path) as running:
        wait_for(READY, running)
        parent = min(tree(scratch), key=lambda p: p.pid)
        parent.kill()
        deadline = time.monotonic() + LATEST
        while running.exit_code is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert running.exit_code == -signal.SIGKILL
        assert tree(scratch)
        assert running.stop()
    assert not tree(scratch)


def test_a_server_is_stopped_by_any_exception(tmp_path: Path, scratch: Path) -> None:
    with pytest.raises(AssertionError), server(tmp_path) as running:
        wait_for("what it never says", running, seconds=0.5)
    assert not tree(scratch)


def test_stopping_twice_is_stopping_once(tmp_path: Path) -> None:
    with server(tmp_path) as running:
        assert running.stop()
        assert running.stop()


def test_a_flood_of_log_is_read_in_bounded_pieces(tmp_path: Path) -> None:
    with server(tmp_path, mode="flood", flood_mib=10) as running:
        deadline = time.monotonic() + LATEST
        while (tmp_path / "server.log").stat().st_size < 9 * 2**20:  # nobody reads meanwhile
            assert time.monotonic() < deadline
            time.sleep(0.01)
        pieces = [len(running.new_text()) for _ in range(3)]
    assert sum(pieces) > 9 * 2**20
    assert max(pieces) <= 1 << 22


def test_our_own_keys_and_ports_stay_with_us(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    monkeypatch.setenv("VLLM_PORT", "1")
    show = "import os; print(sorted(k for k in os.environ if k.startswith(('VLLM_', 'TMPDIR'))))"
    with Server([sys.executable, "-c", show], {}, tmp_path / "log", "1-keys") as running:
        shown = wait_for("]", running)
    assert "VLLM_API_KEY" not in shown
    assert "VLLM_PORT" not in shown
    assert "VLLM_NO_USAGE_STATS" in shown
    assert "TMPDIR" in shown


def test_a_server_says_what_happens_though_its_owner_wants_to_hear_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "ERROR")
    monkeypatch.setenv("VLLM_CONFIGURE_LOGGING", "0")
    monkeypatch.setenv("VLLM_LOGGING_CONFIG_PATH", "/quiet.json")
    show = "import os; print(sorted(i for i in os.environ.items() if 'LOGGING' in i[0]))"
    with Server([sys.executable, "-c", show], {}, tmp_path / "log", "1-loud") as running:
        shown = wait_for("]", running)
    assert "[('VLLM_CONFIGURE_LOGGING', '1'), ('VLLM_LOGGING_LEVEL', 'INFO')]" in shown


def test_a_command_that_is_not_there_is_a_refusal(tmp_path: Path) -> None:
    with (
        pytest.raises(NoEngine, match="cannot be started"),
        Server(["/no/such/program"], {}, tmp_path / "log", "1-none"),
    ):
        pass


def test_a_log_that_cannot_be_written_is_a_refusal(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(CannotWrite, match="cannot start a server"),
        Server(COMMAND, {}, tmp_path / "file" / "log", "1-log"),
    ):
        pass


def test_a_range_of_taken_ports_is_a_refusal() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(NoPort, match="is in use"):
            free_port(range(port, port + 1))


@pytest.mark.parametrize("seed", range(LIVES // 10))
@pytest.mark.slow
def test_ten_lives_with_random_ends_leave_nothing(tmp_path: Path, scratch: Path, seed: int) -> None:
    dice = random.Random(seed)
    killed = 0
    for _ in range(10):
        with server(tmp_path, grace=0.3):
            time.sleep(dice.uniform(0, 0.25))
            for victim in dice.sample(alive := tree(scratch), dice.randint(0, len(alive))):
                with suppress(psutil.NoSuchProcess):
                    victim.kill()
                    killed += 1
        assert not tree(scratch)
    assert killed


def test_the_marker_is_found_where_the_root_was_never_known(tmp_path: Path, scratch: Path) -> None:
    """A signal may strike while a process is being started, before anyone knows its number."""
    lost = server(tmp_path)
    variables = {**os.environ, "AUTOTUNE_TRIAL": lost.trial}
    stray = subprocess.Popen(["sleep", "60"], env=variables)
    try:
        assert lost.stop()
        assert stray.wait(SOON) == -signal.SIGKILL
    finally:
        stray.kill()


@pytest.mark.usefixtures("little_patience")
def test_a_child_that_nobody_knows_is_found_though_it_holds_the_log_open(
    tmp_path: Path, scratch: Path
) -> None:
    with server(tmp_path, mode="stray_child") as running:
        wait_for(READY, running)
        assert len(tree(scratch)) == 4
        assert running.stop()
    assert not tree(scratch)


@pytest.fixture
def segments(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[Path]]:
    """Return what lists the shared memory of this test's fakes."""
    name = random.randbytes(4).hex()
    monkeypatch.setenv("FAULT_CELL", name)
    return lambda: list(Path("/dev/shm").glob(f"psm_{name}*"))


def test_shared_memory_of_a_killed_worker_is_removed_and_no_other(
    tmp_path: Path, scratch: Path, segments: Callable[[], list[Path]]
) -> None:
    other = Path(f"/dev/shm/psm_{os.environ['FAULT_CELL']}-other")
    other.touch()
    try:
        with server(tmp_path, mode="shared_memory") as running:
            wait_for(READY, running)
            assert len(segments()) == 2
        assert segments() == [other]
    finally:
        other.unlink()


def test_secrets_reach_the_server_and_not_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_0123456789")
    with server(tmp_path, mode="prints_environment") as running:
        read = wait_for(READY, running)
    log = (tmp_path / "server.log").read_text()
    for text in (read, log):
        assert "'HF_TOKEN': '[hidden]'" in text
        assert "hf_0123456789" not in text


def test_a_log_that_floods_keeps_its_last_words(tmp_path: Path) -> None:
    with server(tmp_path, mode="flood", flood_mib=36) as running:
        wait_for(READY, running)
        assert running.stop()
    size = (tmp_path / "server.log").stat().st_size
    assert 2**25 < size < 2**25 + 200
    assert running.cut_bytes > 3 * 2**20
    text = (tmp_path / "server.log").read_text()
    assert "Resolved architecture" in text
    assert f"[autotune: {running.cut_bytes} bytes of this log are left out here]" in text
    assert text.endswith("Application shutdown complete.\n")


def test_a_disk_without_room_is_a_refusal_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(CannotWrite, match=rf"{tmp_path} has \d+ MiB of free disk space") as refusal:
        check_disk(tmp_path, 2**62)
    assert "--results-dir" in refusal.value.hint
    check_disk(tmp_path)


def test_a_long_tmpdir_is_not_used_since_vllms_sockets_would_not_fit_in_it(
    tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    longest = scratch / ("x" * (51 - len(str(scratch))))
    longest.mkdir()
    too_long = tmp_path / ("x" * 52)
    too_long.mkdir()
    monkeypatch.setattr(sys.modules[make_scratch.__module__], "SHORT", str(scratch))
    for usual, place in ((longest, longest), (too_long, scratch)):
        monkeypatch.setattr(tempfile, "tempdir", str(usual))
        made = make_scratch("1-none")
        assert made.parent == place
        assert len(f"{made}/{uuid.uuid4()}") <= 107
        owner = json.loads((made / "owner.json").read_text())
        (made / "owner.json").write_text(json.dumps({**owner, "started": 1}))
        (left,) = remove_leftovers()
        assert left.endswith(f"left {made}: removed")
        assert not made.exists()
    longest.rmdir()


ABANDONS = """
import os, signal, sys
from pathlib import Path
from vllm_autotune.server.server import Server
server = Server(sys.argv[2:], {}, Path(sys.argv[1]), f"abandoned-{os.getpid()}")
with server:
    while "Application startup" not in server.new_text():
        pass
    os.kill(server._guardian.pid, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_an_autotune_left_that_died_with_its_guardian_is_found_and_removed(
    tmp_path: Path, scratch: Path, segments: Callable[[], list[Path]]
) -> None:
    """And what a living one has is not touched."""
    argv = [*COMMAND, "--model", "m", "--port", str(free_port()), "--enforce-eager"]
    variables = {**os.environ, **environment({"mode": "shared_memory stray_child"})}
    variables |= {"TMPDIR": str(scratch), "PYTHONPATH": str(ROOT)}
    abandoned = subprocess.Popen(
        [sys.executable, "-c", ABANDONS, str(tmp_path / "log"), *argv], env=variables
    )
    assert abandoned.wait(LATEST) == -signal.SIGKILL
    assert len(tree(scratch)) == 4
    assert len(segments()) == 1
    with server(tmp_path) as running:
        wait_for(READY, running)
        (left,) = remove_leftovers()
        assert f"(pid {abandoned.pid})" in left
        assert "4 processes of its server: ended and removed" in left
        assert len(list(scratch.iterdir())) == 1
        assert not list(remove_leftovers())
        assert len(tree(scratch)) == 3
        assert running.exit_code is None
    assert not segments()
