"""What tests with a fake vLLM start from."""

import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fake_vllm import COMMAND
from tests.support.processes import open_files
from tests.support.trial_bench import CONTEXT, Bench
from vllm_autotune.checkpoint import read_checkpoint
from vllm_autotune.machine.device import detect
from vllm_autotune.search.facts import Facts
from vllm_autotune.search.ladder_file import find_ladder, read_ladder
from vllm_autotune.vllm.engine import Engine
from vllm_autotune.workload import Workload


@pytest.fixture
def scratch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder that temporary folders are made in; it must be empty in the end."""
    folder = Path(tempfile.mkdtemp(prefix="at-"))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    left = list(folder.iterdir())
    assert not left
    folder.rmdir()


@pytest.fixture
def nothing_open() -> Iterator[None]:
    """Fail a test after which a file or a thread is left that was not there before."""
    before = open_files(), threading.active_count()
    yield
    assert (open_files(), threading.active_count()) == before


@pytest.fixture
def bench(tiny_model: Path, tmp_path: Path) -> Bench:
    """A bench with a tiny model on this CPU."""
    model = str(tiny_model)
    engine = Engine(
        python=sys.executable,
        package=tmp_path / "no-vllm",
        version="0.32.0",
        platform="cpu",
        torch=None,
        command=COMMAND,
    )
    facts = Facts(
        model=model,
        checkpoints={model: read_checkpoint(model)},
        devices=tuple(detect("cpu")),
        engine=engine,
        workload=Workload(context=CONTEXT, min_context=CONTEXT),
        ladder=read_ladder(find_ladder("default")),
        fixed={},
        headroom_bytes=0,
    )
    return Bench(facts, tmp_path)
