"""What every test gets: a small model, a fake vLLM, a real one, and a check for leftovers."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.pace import SOON

TESTS = Path(__file__).parent
OWNER = str(os.getpid())

# Every process that a test starts inherits this, whoever adopts it later. vLLM's children rename
# themselves, which wipes their environment as others see it, unless SPT_NOENV is set.
os.environ["AUTOTUNE_OWNER"] = OWNER
os.environ["SPT_NOENV"] = "1"
# Whatever started the tests (nohup): what they start heeds a closed terminal.
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def is_ours(process: psutil.Process) -> bool:
    """Tell whether a test of this worker started the process."""
    try:
        environ = process.environ()
    except (psutil.Error, OSError):
        return False
    return environ.get("AUTOTUNE_OWNER") == OWNER and is_alive(process)


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def words_of(process: psutil.Process) -> list[str]:
    """Return its command line, nothing where it has ended meanwhile."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def our_processes() -> set[psutil.Process]:
    """Return our children, their children, and those whose parents died before them."""
    ourselves = psutil.Process()
    started = ourselves.create_time()
    children = {child for child in ourselves.children(recursive=True) if is_alive(child)}
    strays = {
        process
        for process in psutil.process_iter(["create_time"])
        if process.info["create_time"] >= started
        and process != ourselves
        and process not in children
        and is_ours(process)
    }
    return children | strays


def described(processes: set[psutil.Process]) -> str:
    return "\n".join(f"{p.pid} {' '.join(words_of(p))[:200]}" for p in processes)


@pytest.fixture(scope="session", autouse=True)
def own_temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give each worker its own, for a device's lock as well: tests run side by side.

    Its path is short, since vLLM's sockets lie there too.
    """
    tmp_path_factory.getbasetemp()  # stays where it is
    before = tempfile.gettempdir()
    tempfile.tempdir = os.environ["TMPDIR"] = tempfile.mkdtemp(prefix="t-")
    os.environ["AUTOTUNE_LOCK_DIR"] = tempfile.tempdir
    yield
    del os.environ["AUTOTUNE_LOCK_DIR"]
    shutil.rmtree(tempfile.tempdir, ignore_errors=True)
    tempfile.tempdir = os.environ["TMPDIR"] = before


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Fail a test after which a process that it started still runs, and end that process.

    What a wider fixture started (a server shared by several tests) was there before the test.
    """
    before = our_processes()
    yield
    deadline = time.monotonic() + SOON
    left = our_processes() - before
    while left and time.monotonic() < deadline:
        time.sleep(0.05)
        left = our_processes() - before
    if not left:
        return
    description = described(left)
    for process in left:
        try:
            process.kill()
        except psutil.Error:
            continue
    psutil.wait_procs(left, timeout=SOON)
    pytest.fail(f"the test left processes behind:\n{description}")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random-weight Qwen2 model: 4 KiB of KV cache per token, 8192 tokens of context."""
    tiny_model = load_module("tiny_model", TESTS / "tiny_model.py")
    folder: Path = tiny_model.make_tiny_model(tmp_path_factory.mktemp("models") / "tiny-qwen2")
    return folder


def load_module(name: str, path: Path) -> Any:
    """Import a module from a file: the tests are no package."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True, slots=True)
class FakeVllm:
    """How to start the fake: `command` stands where `python -m vllm...api_server` would."""

    command: tuple[str, ...]
    script: Mapping[str, object] = field(default_factory=dict)

    def scripted(self, **script: object) -> "FakeVllm":
        """Return a fake with these entries in its script (see tests/fake/fake_vllm/__main__.py)."""
        return FakeVllm(self.command, {**self.script, **script})

    @property
    def env(self) -> dict[str, str]:
        """What to add to the environment of the fake."""
        return {"FAKE_VLLM": json.dumps(self.script)}


@pytest.fixture
def fake_vllm() -> FakeVllm:
    """A fake vLLM server: real processes, real HTTP, everything else scripted."""
    return FakeVllm((sys.executable, str(TESTS / "fake" / "fake_vllm")))


@pytest.fixture(scope="session")
def vllm_python() -> str:
    """An interpreter that has a real vLLM: AUTOTUNE_TEST_VLLM_PYTHON, else our own.

    A missing vLLM is a failure, so that no CI passes without it;
    AUTOTUNE_TEST_VLLM_PYTHON=none skips these tests on purpose.
    """
    python = os.environ.get("AUTOTUNE_TEST_VLLM_PYTHON") or sys.executable
    if python == "none":
        pytest.skip("AUTOTUNE_TEST_VLLM_PYTHON=none")
    code = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"
    if subprocess.run([python, "-c", code], check=False).returncode:
        pytest.fail(f"{python} has no vLLM (set AUTOTUNE_TEST_VLLM_PYTHON, or to `none` to skip)")
    return python
