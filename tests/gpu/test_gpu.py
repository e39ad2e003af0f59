"""The cases that fit ten minutes on one GPU. All of them: `python -m tests.gpu.run OUT`."""

import time

import pytest

from tests.gpu.cases import BY_NAME, QUICK, Case
from tests.gpu.run import Gpus, Place, run_case
from vllm_autotune.errors import Refusal
from vllm_autotune.machine.device import detect


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A machine with a GPU that smaller cards can be rehearsed on."""
    try:
        gpus = detect("cuda")
    except Refusal as refusal:
        pytest.skip(f"{refusal.message}: these cases need an NVIDIA GPU of 80 GiB or more")
    if gpus[0].memory_bytes < 79 * 2**30:
        pytest.skip(f"{gpus[0].name} is too small to rehearse these cards")
    folder = tmp_path_factory.mktemp("gpu")
    return Place(out=folder / "out", work=folder, until=time.monotonic() + 1200)


@pytest.mark.gpu
@pytest.mark.parametrize("case", [BY_NAME[name] for name in QUICK], ids=lambda case: case.name)
def test_the_card_gets_the_configuration_it_can_bear(case: Case, machine: Place) -> None:
    nvml = Gpus()
    row = run_case(case, nvml.indices[:1], machine, nvml)
    assert row["ok"], row
