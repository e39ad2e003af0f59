"""What every test gets: a folder for temporary files, a small model, a check for leftovers."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from hypothesis import settings

from tests.support.pace import SOON
from tests.support.processes import described, mark_children, ours_but
from tests.support.tiny_model import make_tiny_model

# How long an example takes says more about the machine than about the code.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


@pytest.fixture(scope="session", autouse=True)
def own_temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give each worker its own, for a device's lock as well: tests run side by side.

    Its path is short, since vLLM's sockets lie there too.
    """
    tmp_path_factory.getbasetemp()  # stays where it is
    before = tempfile.gettempdir()
    tempfile.tempdir = os.environ["TMPDIR"] = tempfile.mkdtemp(prefix="t-")
    os.environ["AUTOTUNE_LOCK_DIR"] = tempfile.tempdir
    mark_children()
    yield
    del os.environ["AUTOTUNE_LOCK_DIR"]
    shutil.rmtree(tempfile.tempdir, ignore_errors=True)
    tempfile.tempdir = os.environ["TMPDIR"] = before


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Fail a test after which a process that it started still runs, and end that process.

    What a wider fixture started (a server shared by several tests) was there before the test.
    """
    before = set(psutil.pids())
    yield
    deadline = time.monotonic() + SOON
    while (left := ours_but(before)) and time.monotonic() < deadline:
        time.sleep(0.05)
    if not left:
        return
    description = described(left)
    for process in left:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(left, timeout=SOON)
    pytest.fail(f"the test left processes behind:\n{description}")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random-weight Qwen2 model: 4 KiB of KV cache per token, 8192 tokens of context."""
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny-qwen2")
