"""The log of a server: whole to the reader, bounded on disk, without secrets."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.pace import LATEST, SOON
from tests.support.paths import ROOT
from vllm_autotune.server.log import MAX_UNREAD, Log

pytestmark = pytest.mark.usefixtures("nothing_open")


def logged(
    path: Path,
    pieces: Sequence[bytes],
    *,
    head: int = 100,
    tail: int = 100,
    secrets: tuple[str, ...] = (),
) -> tuple[str, bytes, int]:
    """Write the pieces into a log; return what the reader saw, what is on disk, and the cut."""
    log = Log(path, secrets, head, tail=100)
    for piece in pieces:
        os.write(log.writer, piece)
    log.close_writer()
    read = ""
    while text := log.new_text():
        read += text
    log.close()
    return read + log.new_text(), path.read_bytes(), log.cut_bytes


@given(pieces=st.lists(st.binary(max_size=60), max_size=30))
@settings(deadline=None, max_examples=100)
def test_the_reader_sees_all_and_the_disk_head_and_tail(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes]
) -> None:
    path = tmp_path_factory.mktemp("log") / "log"
    whole = b"".join(pieces)
    read, kept, cut = logged(path, pieces)
    assert read == whole.decode(errors="replace")
    if len(whole) <= 200:
        assert (kept, cut) == (whole, 0)
        return
    assert cut == len(whole) - 200
    note = f"\n[autotune: {cut} bytes of this log are left out here]\n".encode()
    assert kept == whole[:100] + note + whole[-100:]


@given(cuts=st.lists(st.integers(1, 40), max_size=8))
@settings(deadline=None, max_examples=60)
def test_a_secret_is_hidden_however_it_is_cut(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int]
) -> None:
    path = tmp_path_factory.mktemp("log") / "log"
    text = b"args: 'api_key': 'sk-sk-012345' sk-sk-01234 \xc3\xa9 sk-sk-012345"
    pieces, at = [], 0
    for cut in cuts:
        pieces.append(text[at : at + cut])
        at += cut
    read, kept, _ = logged(path, [*pieces, text[at:]], head=10**4, secrets=("sk-sk-012345",))
    assert read == "args: 'api_key': '[hidden]' sk-sk-01234 é [hidden]"
    assert kept.decode() == read


def test_who_reads_nothing_holds_the_server_up_only_behind_much_text(tmp_path: Path) -> None:
    log = Log(tmp_path / "log", head=1000, tail=1000)
    written = 0

    def flood() -> None:
        nonlocal written
        for _ in range(2 * MAX_UNREAD >> 16):
            written += os.write(log.writer, b"x" * 65535 + b"\n")
        log.close_writer()

    thread = threading.Thread(target=flood)
    thread.start()
    eventually(lambda: written >= MAX_UNREAD)
    time.sleep(0.3)
    assert written < MAX_UNREAD + 2**21
    read = 0
    while thread.is_alive() or read < written:
        read += len(log.new_text())
    thread.join()
    log.close()
    assert read == 2 * MAX_UNREAD
    assert (tmp_path / "log").stat().st_size < 2100


def eventually(holds: Callable[[], bool], seconds: float = LATEST) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_log_that_someone_still_holds_open_is_closed_all_the_same(tmp_path: Path) -> None:
    log = Log(tmp_path / "log")
    with subprocess.Popen(
        [sys.executable, "-c", "import time; print('last words', flush=True); time.sleep(600)"],
        stdout=log.writer,
    ) as stray:
        log.close_writer()
        eventually(lambda: "last words" in (tmp_path / "log").read_text())
        began = time.monotonic()
        log.close()
        assert time.monotonic() - began < SOON
        stray.kill()


FULL = """
import os, resource, sys, time
from pathlib import Path
from vllm_autotune.errors import CannotWrite
from vllm_autotune.server.log import Log
log = Log(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
sent = 0
try:
    while sent < 2**20:
        sent += os.write(log.writer, 500 * b"x")
        log.new_text()
except CannotWrite as refusal:
    print(refusal.message, "|", refusal.hint)
os.write(log.writer, 2**16 * b"x")  # a pipe that nobody empties would be full now
os.write(log.writer, 2**16 * b"x")
log.close()
"""


def test_a_disk_that_is_full_is_a_refusal_and_never_holds_the_server_up(tmp_path: Path) -> None:
    path = tmp_path / "log"
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=LATEST, check=True,
    )  # fmt: skip
    assert f"cannot write {path}: File too large | free some disk space" in done.stdout
    assert "--resume" in done.stdout
    assert path.stat().st_size == 1000
