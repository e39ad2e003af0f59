"""What several unit tests start from."""

from pathlib import Path

import pytest

from vllm_autotune.checkpoint import read_checkpoint
from vllm_autotune.search.facts import Facts
from vllm_autotune.workload import Workload

from .memory_model import cards, engine, gather, install


@pytest.fixture
def facts(tmp_path: Path, tiny_model: Path) -> Facts:
    """A small model and two GPUs."""
    return gather(
        read_checkpoint(str(tiny_model)),
        cards("NVIDIA L4", 22.5, (8, 9), 2),
        Workload(min_context=1024),
        engine(install(tmp_path / "site")),
    )
