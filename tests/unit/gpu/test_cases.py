"""What GPU cases ask of a report: tried on real ones."""

import pytest

from tests.gpu.cases import BY_NAME, CASES, QUICK
from tests.support.paths import ROOT
from tests.support.reports import recorded

SHOWN = ("7b-11GiB-fp8", "7b-11GiB-offload", "72b-fp8", "72b-tp2", "72b-2x48GiB", "72b-pp2")


@pytest.mark.parametrize("name", SHOWN)
def test_a_report_of_the_case_has_no_fault(name: str) -> None:
    assert BY_NAME[name].faults(recorded(name)) == []


def test_names_and_rungs_of_cases_are_real() -> None:
    assert len(BY_NAME) == len(CASES)
    ladder = (ROOT / "strategies" / "default.toml").read_text()
    for case in CASES:
        for rung in (*case.rungs, *case.one_of, *case.skipped):
            assert f'name = "{rung}"' in ladder, (case.name, rung)
    assert set(QUICK) <= set(BY_NAME)


def test_each_fault_of_a_report_is_named() -> None:
    wrong = recorded("7b-prompt-logprobs-fixed")
    assert BY_NAME["7b-11GiB-fp8"].faults(wrong) == [
        "rungs ['smaller-batches'], wanted ['fp8-weights']",
        "2 launches, 1 are enough",
    ]
    assert BY_NAME["7b-16.4GiB-8bit-kv"].faults(recorded("7b-16.8GiB-shorter-context")) == [
        "rungs ['shorter-context', 'utilization'], wanted ['kv-cache-8bit']",
        "20096 of 32768 tokens",
    ]
    assert BY_NAME["7b-kill-engine"].faults(recorded("7b-as-it-is")) == [
        "launch 1: stable in None: None"
    ]
    assert BY_NAME["7b-27-heads-2x11GiB"].faults({**recorded("72b-pp2"), "winner": None}) == [
        "it ended as stable: the first configuration that survived the certificate",
        "tensor-parallel is passed over for `None`, not `divides 27`",
    ]
