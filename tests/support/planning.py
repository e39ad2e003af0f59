"""A machine without vLLM and a model of known shape, to plan for."""

import sys
from pathlib import Path

import pytest

from tests.support.paths import SHAPES

DUMMY = ("--", "--load-format", "dummy")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No vLLM anywhere: not for this Python, and not on the PATH."""
    monkeypatch.setitem(sys.modules, "vllm", None)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    return tmp_path


@pytest.fixture
def model(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    shape = getattr(request, "param", "qwen2.5-7b")
    (folder / "config.json").write_text((SHAPES / f"{shape}.json").read_text())
    return folder
