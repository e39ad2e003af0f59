"""Boots that others measured lie within the estimate, or it is known why they do not."""

from pathlib import Path

import pytest

from tests.support.public_boots import WIDE, WIDEST, compare, public_boots, write_model
from vllm_autotune.checkpoint import read_checkpoint
from vllm_autotune.units import GIB

BOOTS = [boot for boot in public_boots() if boot.folder]
MODELS = sorted({str(boot.folder) for boot in BOOTS})


@pytest.mark.parametrize("headers", [True, False], ids=["headers", "config alone"])
@pytest.mark.parametrize("model", MODELS)
def test_what_others_measured_lies_within_the_estimate(
    tmp_path: Path, model: str, headers: bool
) -> None:
    path = write_model(model, tmp_path, weights=headers)
    checkpoint = read_checkpoint(str(path), weights_required=headers)
    rows = [row for boot in BOOTS if boot.folder == model for row in compare(boot, checkpoint)]
    assert rows or model == "granite-4.0-micro"
    outside = [row for row in rows if not row.inside and not row.reason]
    assert not outside
    # Something may fit that is said not to; nothing may be promised that does not.
    promised = [r for r in rows if r.quantity == "available" and not r.reason]
    assert all(row.predicted.low <= row.measured.high for row in promised)
    wide = [
        row
        for row in rows
        if row.quantity == "weights"
        and row.boot.number not in WIDE
        and row.width > WIDEST[headers] + 0.005 * GIB / row.measured.middle
    ]
    assert not wide


def test_a_boot_that_was_refused_is_promised_nothing(tmp_path: Path) -> None:
    refused = [boot for boot in BOOTS if boot.available and boot.available.high < 0]
    assert refused
    for boot in refused:
        path = write_model(str(boot.folder), tmp_path / str(boot.number))
        available = [
            row for row in compare(boot, read_checkpoint(str(path))) if row.quantity == "available"
        ]
        assert all(row.predicted.low < 0 for row in available)
