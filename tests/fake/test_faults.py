"""Each fault and each phase of the fault matrix once; `make faults` runs all of it."""

from pathlib import Path

import pytest

from tests.support.faults import FAULTS, PHASES, cells, strike
from tests.support.tuning import Place

SOME = (
    ("report", "SIGINT"),
    ("stopping", "SIGTERM"),
    ("ready", "SIGHUP"),
    ("report", "SIGKILL of autotune"),
    ("starting", "SIGKILL of the server"),
    ("probing", "SIGKILL of the engine"),
    ("probing", "ignores SIGTERM"),
    ("loading", "worker called setsid"),
    ("ready", "stray child"),
    ("loading", "disk full"),
    ("stopping", "results removed"),
    ("starting", "port stolen"),
    ("probing", "memory not returned"),
    ("loading", "clock jumps"),
)


@pytest.mark.slow
@pytest.mark.parametrize(("phase", "fault"), SOME, ids=[" ".join(cell) for cell in SOME])
def test_after_a_fault_nothing_is_left_and_the_run_resumes(
    tmp_path: Path, tiny_model: Path, phase: str, fault: str
) -> None:
    assert strike(Place.make(tmp_path / "place", tiny_model), phase, fault).bad == ()


def test_every_cell_runs_or_is_left_out_for_a_reason() -> None:
    run = set(cells())
    left_out = {(phase, name) for name, fault in FAULTS.items() for phase in fault.left_out}
    assert not run & left_out
    assert run | left_out == {(phase, fault) for phase in PHASES for fault in FAULTS}
    assert set(SOME) <= run
    assert ({phase for phase, _ in SOME}, {name for _, name in SOME}) == (set(PHASES), set(FAULTS))
