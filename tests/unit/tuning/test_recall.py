"""A recalled answer: used where it holds, and only as data."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.reports import make_report
from vllm_autotune.deploy import shell
from vllm_autotune.report.report import Report
from vllm_autotune.search.facts import Facts
from vllm_autotune.tuning.recall import here, still_valid
from vllm_autotune.vllm.config import Value


def recalled(
    needed: int = 1,
    budget: int = 2**50,
    args: dict[str, Value] | None = None,
    env: dict[str, str] | None = None,
    model: str = "m",
) -> Report:
    report = make_report()
    assert report.winner
    valid_for = replace(report.winner.valid_for, needed_bytes=needed, budget_bytes=budget)
    args = {"max-model-len": 16} if args is None else args
    winner = replace(report.winner, valid_for=valid_for, args=args, env=env or {}, model=model)
    return replace(report, winner=winner)


def test_a_hit_is_refused_when_less_memory_is_free_than_it_needs(facts: Facts) -> None:
    """Half of the headroom is for what others take a little more of than then."""
    free = facts.devices[0].free_bytes - facts.headroom_bytes // 2
    assert still_valid(recalled(free), facts) is None
    assert "may be used now" in str(still_valid(recalled(free + 1), facts))


def test_a_hit_that_offloads_needs_the_memory_of_the_host(facts: Facts) -> None:
    report = recalled(args={"cpu-offload-gb": 8})
    assert still_valid(report, facts) is None
    full = replace(facts, host_free_bytes=7 * 2**30)
    assert "it offloads 8.0 GiB" in str(still_valid(report, full))


def test_a_hit_that_gave_something_up_is_tried_again_with_more_memory(facts: Facts) -> None:
    budget = facts.budget(facts.devices[0])
    report = recalled(1, int(budget / 1.2))
    assert "a better one may fit" in str(still_valid(report, facts))
    assert report.winner
    gave_nothing = replace(report, winner=replace(report.winner, gives_up=()))
    assert still_valid(gave_nothing, facts) is None


def test_a_report_without_a_winner_is_no_hit(facts: Facts) -> None:
    assert still_valid(make_report(status="exhausted"), facts) == "it has no winner"


def test_an_answer_from_elsewhere_starts_the_engine_at_hand_and_nothing_else(facts: Facts) -> None:
    report = recalled()
    assert report.winner
    forged = replace(report, winner=replace(report.winner, argv=("/bin/sh", "-c", "evil")))
    winner = here(forged, facts).winner
    assert winner is not None
    assert winner.argv[: len(facts.engine.command)] == facts.engine.command
    assert winner.argv[-2:] == ("--max-model-len", "16")
    assert facts.model in winner.argv
    assert "evil" not in " ".join(winner.argv)


@pytest.mark.parametrize("args", [{"trust-remote-code": True}, {"worker-cls": "a.B"}])
def test_an_answer_that_sets_what_only_the_user_may_is_no_hit(
    facts: Facts, args: dict[str, Value]
) -> None:
    assert str(still_valid(recalled(args=args), facts)).startswith(f"it sets {next(iter(args))}")
    asked_for = replace(facts, fixed=args)
    assert still_valid(recalled(args=args), asked_for) is None


def test_an_answer_that_sets_a_dangerous_variable_is_no_hit(facts: Facts) -> None:
    env = {"LD_PRELOAD": "x"}
    assert str(still_valid(recalled(env=env), facts)).startswith("it sets LD_PRELOAD")


def test_a_model_that_moved_is_found_and_another_one_is_not(facts: Facts) -> None:
    moved = recalled(model=f"/elsewhere/{Path(facts.model).name}")
    winner = here(moved, facts).winner
    assert winner is not None
    assert winner.model == facts.model
    assert "was not found here" in str(still_valid(recalled(model=sys.executable), facts))


def test_a_recalled_answer_is_for_the_devices_that_are_free_now(facts: Facts) -> None:
    busy, freest = facts.devices
    found = here(recalled(), replace(facts, devices=(freest, busy)))
    assert found.devices == (freest, busy)
    assert "CUDA_VISIBLE_DEVICES=1 " in shell(found)
