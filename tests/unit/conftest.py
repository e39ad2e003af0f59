"""What several unit tests start from."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.support.command import Autotune, Ended
from tests.support.memory_model import cards, engine, gather, install
from vllm_autotune.checkpoint import read_checkpoint
from vllm_autotune.cli import main
from vllm_autotune.search.facts import Facts
from vllm_autotune.workload import Workload


@pytest.fixture
def facts(tmp_path: Path, tiny_model: Path) -> Facts:
    """A small model and two GPUs."""
    return gather(
        read_checkpoint(str(tiny_model)),
        cards("NVIDIA L4", 22.5, (8, 9), 2),
        Workload(min_context=1024),
        engine(install(tmp_path / "site")),
    )


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A vLLM for the CPU, as far as autotune reads it; where autotune finds it."""
    site = tmp_path / "site"
    install(site, version="0.32.0+cpu")
    monkeypatch.syspath_prepend(site)
    return site


@pytest.fixture
def autotune(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Autotune:
    """Run the command line in a folder of its own, with no settings of the user's."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    for name in [name for name in os.environ if name.startswith("AUTOTUNE_")]:
        if name not in ("AUTOTUNE_OWNER", "AUTOTUNE_LOCK_DIR"):
            monkeypatch.delenv(name)

    def run(*words: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["autotune", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert isinstance(ended.value.code, int)
        return Ended(ended.value.code, *capsys.readouterr())

    return run


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the small model, to be broken."""
    return shutil.copytree(tiny_model, tmp_path / "model")
