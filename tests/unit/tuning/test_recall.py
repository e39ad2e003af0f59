"""A recalled answer: used only where it is what was asked for, and only as data."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.support.reports import Way, answer_for, changed, leaves, with_settings
from vllm_autotune.deploy import Service, shell
from vllm_autotune.outcome import Stable
from vllm_autotune.report.codec import dump
from vllm_autotune.report.read import parse_report
from vllm_autotune.report.report import Report
from vllm_autotune.report.trust import distrusted
from vllm_autotune.search.facts import Facts
from vllm_autotune.tuning.cache import cache_key
from vllm_autotune.tuning.check import candidate_of
from vllm_autotune.tuning.recall import here, still_valid
from vllm_autotune.vllm.config import Value
from vllm_autotune.workload import Effort

Document = dict[str, Any]


def objection(report: Report, facts: Facts) -> str | None:
    """Return why a report is not used for these facts, wherever that is noticed."""
    try:
        read = parse_report(dump(report))
    except ValueError as error:
        return str(error)
    return still_valid(read, facts, cache_key(facts))


def with_winner(report: Report, **changes: Any) -> Report:
    assert report.winner
    return replace(report, winner=replace(report.winner, **changes))


def valid_for(report: Report, **changes: Any) -> Report:
    assert report.winner
    return with_winner(report, valid_for=replace(report.winner.valid_for, **changes))


def test_an_answer_is_good_for_the_request_that_it_was_found_for(facts: Facts) -> None:
    assert objection(answer_for(facts), facts) is None


# Memory.


def test_a_hit_is_refused_when_less_memory_is_free_than_it_needs(facts: Facts) -> None:
    """Half of the headroom is for what others take a little more of than then."""
    free = facts.devices[0].free_bytes - facts.headroom_bytes // 2
    answer = answer_for(facts)
    assert objection(valid_for(answer, needed_bytes=free), facts) is None
    assert "may be used now" in str(objection(valid_for(answer, needed_bytes=free + 1), facts))


def one_busy(facts: Facts) -> Facts:
    """Return the facts while another program uses the second GPU."""
    return replace(facts, devices=facts.devices[:1], busy=facts.devices[1:])


def test_a_gpu_that_others_use_meanwhile_is_not_missed(facts: Facts) -> None:
    """As when the answer is served twice on one host."""
    assert len(facts.devices) == 2
    found = answer_for(facts)
    assert objection(found, one_busy(facts)) is None
    assert here(found, one_busy(facts)).devices == facts.devices[:1]


def test_an_answer_that_needs_the_busy_gpu_is_not_used(facts: Facts) -> None:
    both = replace(facts, workload=replace(facts.workload, min_gpus=2))
    assert "1 are idle" in str(objection(answer_for(both), one_busy(both)))


def test_a_hit_that_gave_something_up_is_tried_again_with_more_gpus(facts: Facts) -> None:
    found = answer_for(one_busy(facts))
    assert objection(found, facts) is None
    assert "more GPUs are idle now" in str(objection(with_winner(found, gives_up=("x",)), facts))


def test_a_hit_that_offloads_needs_the_memory_of_the_host(facts: Facts) -> None:
    report = with_settings(answer_for(facts), {"cpu-offload-gb": 8})
    assert objection(report, facts) is None
    full = replace(facts, host_free_bytes=7 * 2**30)
    assert "it offloads 8.0 GiB" in str(objection(report, full))


def test_a_hit_that_gave_something_up_is_tried_again_with_more_memory(facts: Facts) -> None:
    budget = facts.budget(facts.devices[0])
    report = valid_for(answer_for(facts), budget_bytes=int(budget / 1.2))
    assert objection(report, facts) is None
    assert "a better one may fit" in str(objection(with_winner(report, gives_up=("x",)), facts))


def test_a_hit_that_takes_more_than_the_limit_is_refused(facts: Facts) -> None:
    limit = facts.devices[0].memory_bytes // 2
    limited = replace(facts, devices=tuple(replace(d, limit_bytes=limit) for d in facts.devices))
    answer = answer_for(limited)
    assert objection(answer, limited) is None
    greedy = with_settings(answer, {"gpu-memory-utilization": 0.9})
    assert "the limit is" in str(objection(greedy, limited))


# The request.


def test_a_report_without_a_winner_is_no_hit(facts: Facts) -> None:
    exhausted = replace(answer_for(facts), status="exhausted", winner=None)
    assert objection(exhausted, facts) == "it has no winner, its status is exhausted"


OTHERS: dict[str, Callable[[Facts], Facts]] = {
    "vLLM": lambda f: replace(f, engine=replace(f.engine, version="0.31.0")),
    "torch": lambda f: replace(f, engine=replace(f.engine, torch="2.1")),
    "device": lambda f: replace(f, devices=tuple(replace(d, name="L4s") for d in f.devices)),
    "limit": lambda f: replace(f, devices=tuple(replace(d, limit_bytes=2**34) for d in f.devices)),
    "count": lambda f: replace(f, devices=f.devices[:1]),
    "fixed arguments": lambda f: replace(f, fixed={"dtype": "half"}),
    "workload": lambda f: replace(f, workload=replace(f.workload, concurrency=3)),
    "context": lambda f: replace(f, workload=replace(f.workload, context=2048)),
    "effort": lambda f: replace(f, workload=replace(f.workload, probe=Effort(schema=True))),
    "headroom": lambda f: replace(f, headroom_bytes=2**20),
    "ladder": lambda f: replace(f, ladder=replace(f.ladder, name="mine")),
    "VLLM_USE_V1": lambda f: replace(f, env={"VLLM_USE_V1": "1"}),
}


@pytest.mark.parametrize("what", OTHERS)
def test_an_answer_to_another_request_is_no_hit_whatever_its_place_in_the_cache(
    facts: Facts, what: str
) -> None:
    answer, asked = answer_for(facts), OTHERS[what](facts)
    key = cache_key(asked)
    planted = replace(answer, cache=replace(answer.cache, key=key))
    assert still_valid(planted, asked, key)
    assert still_valid(answer_for(asked), asked, key) is None


def test_a_certificate_without_an_item_that_is_asked_for_is_no_hit(facts: Facts) -> None:
    answer = answer_for(facts)
    assert answer.winner
    (trial,) = answer.trials
    checks = answer.winner.certificate.checks
    for number, item in enumerate(checks):
        fewer = replace(answer.winner.certificate, checks=checks[:number] + checks[number + 1 :])
        lacking = with_winner(answer, certificate=fewer)
        proven = replace(trial, outcome=Stable(certificate=fewer))
        reason = objection(replace(lacking, trials=(proven,)), facts)
        assert reason == f"its certificate lacks `{item.name}`"


# What matters about a report, and what each is changed to.
MATTERS: dict[str, object] = {
    "status": "exhausted",
    "devices.0.name": "NVIDIA L40",
    "devices.0.memory_bytes": 2**33,
    "devices.0.limit_bytes": 2**33,
    "devices": [],
    "versions.vllm": "0.16.0",
    "versions.torch": "2.1",
    "workload.context": 77,
    "workload.min_context": 77,
    "workload.concurrency": 7,
    "workload.probe.effort": "quick",
    "ladder": "other",
    "fixed": {"dtype": "half"},
    "winner": None,
    "winner.argv": ["/bin/sh", "-c", "evil"],
    "winner.argv.0": "/tmp/evil/python",
    "winner.model": "/other/tiny-qwen2",
    "winner.args": {"seed": 1},
    "winner.args.dtype": "half",
    "winner.args.trust-remote-code": True,
    "winner.env": {"VLLM_USE_V1": "0"},
    "winner.max_model_len": 7,
    "winner.max_num_seqs": 0,
    "winner.certificate.checks": [],
    "winner.certificate.seconds": 7.5,
    "winner.valid_for.device": "NVIDIA L40",
    "winner.valid_for.count": 2,
    "winner.valid_for.memory_bytes": 1,
    "winner.valid_for.needed_bytes": 1,
    "winner.memory.reserved": 1,
    "winner.valid_for.headroom_bytes": 1,
    "trials": [],
    "trials.0.argv": ["/bin/sh"],
    "trials.0.env": {"VLLM_USE_V1": "0"},
    "trials.0.outcome.certificate.checks": [],
    "cache.key": "a/b/0123456789abcdef",
}


@pytest.mark.parametrize("field", MATTERS)
def test_an_answer_with_one_field_changed_that_matters_is_no_hit(facts: Facts, field: str) -> None:
    document: Document = json.loads(dump(answer_for(facts)))
    way = (int(part) if part.isdigit() else part for part in field.split("."))
    changed(document, tuple(way), MATTERS[field])
    try:
        report = parse_report(json.dumps(document))
    except ValueError:
        return
    assert still_valid(report, facts, cache_key(facts))


# What is rendered, what is recalled and what is checked are one command.


odd: st.SearchStrategy[object] = st.sampled_from(
    (None, True, 0, -1, 1, 2**70, 0.5, "", "x", "\x1b[31m", "--x", [], ["a"], {})
)


def test_no_single_change_makes_two_commands_of_one_report(facts: Facts) -> None:
    facts = replace(facts, fixed={"dtype": "half"}, env={"VLLM_USE_V1": "1"})
    text = dump(answer_for(facts))
    ways = leaves(json.loads(text))
    true = here(parse_report(text), facts).winner
    assert true

    @settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow], deadline=None)
    @given(way=st.sampled_from(ways), value=odd | st.text(max_size=5) | st.integers(-9, 9))
    def one_command(way: Way, value: object) -> None:
        document: Document = json.loads(text)
        changed(document, way, value)
        assume(document != json.loads(text))
        try:
            report = parse_report(json.dumps(document))
        except ValueError:
            return
        if report.winner is None or distrusted(report):
            return
        config = candidate_of(report, facts).config
        service = Service(report)
        assert list(service.argv) == facts.engine.argv(config) == list(true.argv)
        assert service.winner.env == dict(config.env) == true.env
        if still_valid(report, facts, cache_key(facts)) is None:
            recalled = here(report, facts).winner
            assert recalled
            assert (recalled.argv, recalled.env) == (true.argv, true.env)

    one_command()


# Only as data.


def test_an_answer_from_elsewhere_starts_the_engine_at_hand(facts: Facts) -> None:
    answer = answer_for(
        replace(facts, engine=replace(facts.engine, command=("/opt/vllm", "serve")))
    )
    found = here(answer, facts)
    assert found.winner
    assert found.winner.argv[: len(facts.engine.command)] == facts.engine.command
    assert "/opt" not in dump(found)
    assert parse_report(dump(found)) == found


@pytest.mark.parametrize(
    "args",
    [
        {"trust-remote-code": True},
        {"worker-cls": "a.B"},
        {"enforce-eager": "--trust-remote-code"},
        {"trust-remote": True},
        {"trust_remote_code": True},
    ],
)
def test_an_answer_that_sets_what_only_the_user_may_is_no_hit(
    facts: Facts, args: dict[str, Value]
) -> None:
    answer = with_settings(answer_for(facts), args)
    assert next(iter(args)) in str(objection(answer, facts))
    name = next(iter(args))
    if name == "trust-remote-code":
        asked_for = replace(facts, fixed=args)
        assert objection(answer_for(asked_for), asked_for) is None


def test_an_answer_that_sets_a_dangerous_variable_is_no_hit(facts: Facts) -> None:
    answer = with_settings(answer_for(facts), env={"LD_PRELOAD": "x"})
    assert str(objection(answer, facts)).startswith("it sets LD_PRELOAD")


def test_a_model_that_moved_is_found_and_another_one_is_not(facts: Facts) -> None:
    answer = answer_for(facts)
    moved = replace(answer, model=replace(answer.model, path="/elsewhere/m"))
    moved = with_winner(moved, model=f"/elsewhere/{Path(facts.model).name}")
    winner = here(moved, facts).winner
    assert winner is not None
    assert winner.model == facts.model
    gone = with_winner(answer, model="/elsewhere/another")
    assert "was not found here" in str(still_valid(gone, facts, cache_key(facts)))


def test_a_recalled_answer_is_for_the_devices_that_are_free_now(facts: Facts) -> None:
    busy, freest = facts.devices
    found = here(answer_for(facts), replace(facts, devices=(freest, busy)))
    assert found.devices == (freest, busy)
    assert "CUDA_VISIBLE_DEVICES=1 " in shell(Service(found))


def test_what_was_left_out_is_what_is_asked_for_now(facts: Facts) -> None:
    answer = answer_for(replace(facts, left_out=("api-key",)))
    found = here(answer, replace(facts, left_out=("host", "port"))).winner
    assert found
    assert found.left_out == ("host", "port")
