"""The shapes that memory is estimated for."""

import pytest

from tests.support.memory import read_shapes
from vllm_autotune.checkpoint import Checkpoint


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    return read_shapes(tmp_path_factory.mktemp("shapes"))
