"""The cases that fit ten minutes on one GPU. The others: `python tests/gpu/cases.py OUT`."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from cases import CASES, Case, run  # type: ignore

from vllm_autotune.device import detect
from vllm_autotune.errors import Refusal

QUICK = ("7b-as-it-is", "7b-16.8GiB-shorter-context", "7b-16.8GiB-8bit-kv", "7b-11GiB-fp8")


@pytest.mark.gpu
@pytest.mark.parametrize("case", [c for c in CASES if c.name in QUICK], ids=lambda c: c.name)
def test_the_card_gets_the_configuration_it_can_bear(case: Case, tmp_path: Path) -> None:
    try:
        gpus = detect("cuda")
    except Refusal as refusal:
        pytest.skip(f"{refusal.message}: these cases need an NVIDIA GPU of 80 GiB or more")
    if gpus[0].memory_bytes < 79 * 2**30:
        pytest.skip(f"{gpus[0].name} is too small to rehearse these cards")
    row = run(case, tmp_path)
    assert row["ok"], row
