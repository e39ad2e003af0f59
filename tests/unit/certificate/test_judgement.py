"""What the figures of a server say about it."""

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_autotune.certificate.judgement import (
    FALLS,
    PAGE,
    Growth,
    collapse,
    falling,
    kv_leak,
    memory_creep,
    preemption_storm,
    read_slower,
)
from vllm_autotune.certificate.speed import measured
from vllm_autotune.outcome import Item, Speed
from vllm_autotune.probe.reply import Reply
from vllm_autotune.probe.watch import Turnover

GIB = 2**30


def test_memory_that_falls_and_falls_is_a_creep() -> None:
    lows = [GIB - number * 8 * PAGE for number in range(FALLS + 1)]
    found = memory_creep(lows)
    assert found
    assert "128 MiB in total" in found.reason
    assert memory_creep(lows[:-1]) is None


@given(st.lists(st.integers(0, 100 * PAGE), min_size=1, max_size=40), st.integers(0, 100))
def test_one_round_without_a_new_low_is_a_floor(lows: list[int], more: int) -> None:
    assert falling([*lows, min(lows) + more]) == 0
    assert memory_creep([*lows, min(lows) - PAGE + 1]) is None


@pytest.mark.parametrize(
    ("before", "after", "collapsed"),
    [
        ((1, 0.2), (1, 0.7), False),  # a busy machine
        ((1, 0.2), (1, 0.9), True),
        ((1, 0.01), (1, 0.1), False),  # too short to tell
        ((1, 0.2), (64, 12.0), False),
        ((1, 0.2), (64, 64.0), True),
    ],
)
def test_a_collapse_is_far_slower_and_long_enough_to_tell(
    before: tuple[int, float], after: tuple[int, float], collapsed: bool
) -> None:
    checks = [Item(name=str(n), requests=n, seconds=s) for n, s in (before, after)]
    assert bool(collapse(*checks)) is collapsed


def speed(requests: int, ttft: float, rate: float) -> Speed:
    return Speed(
        requests=requests,
        prompt_tokens=1000,
        ttft_seconds=ttft,
        worst_ttft_seconds=ttft,
        prefill_tokens_per_second=rate,
    )


def test_prompts_at_once_are_read_about_as_fast_as_one() -> None:
    alone = speed(1, 0.5, 2000)
    assert read_slower(alone, speed(8, 4, 1500)) is None
    assert read_slower(alone, speed(8, 40, 200)) is not None
    assert read_slower(speed(1, 0.005, 200_000), speed(8, 0.1, 20_000)) is None


def test_blocks_that_stay_in_use_are_a_leak() -> None:
    assert kv_leak(None, 0.01, "") is None
    assert kv_leak(0.0, 0.01, "") is None
    assert kv_leak(0.0099, 0.01, "") is None
    assert kv_leak(0.01, 0.01, "")
    found = kv_leak(0.125, 0.01, "after a client left")
    assert found
    assert found.reason.startswith("12.5% of the KV cache stayed in use after a client left")


def reply(began: float, first: float, last: float) -> Reply:
    step = (last - first) / 4
    times = tuple(first + step * number for number in range(5))
    return Reply(prompt_tokens=100, output_tokens=10, began=began, times=times)


def test_figures_are_those_of_the_streams() -> None:
    alone = measured([reply(1.0, 1.5, 2.5)])
    assert alone
    assert (alone.ttft_seconds, alone.prefill_tokens_per_second) == (0.5, 200)
    assert alone.inter_token_seconds == pytest.approx(1 / 9)
    assert alone.decode_tokens_per_second == 8  # five pieces of two tokens, four of them after

    together = measured([reply(1.0, 1.5, 3.5), reply(1.0, 2.5, 4.5)])
    assert together
    assert (together.requests, together.worst_ttft_seconds) == (2, 1.5)
    assert together.ttft_seconds == 1.0
    assert together.prefill_tokens_per_second == pytest.approx(200 / 1.5)
    # From 2.5 on, both write; two pieces of the first and four of the second in two seconds.
    assert together.decode_tokens_per_second == pytest.approx(6)


def test_an_answer_in_one_piece_has_no_pace() -> None:
    whole = Reply(prompt_tokens=8, output_tokens=8, began=0.0, times=(1.0,))
    found = measured([whole])
    assert found
    assert (found.inter_token_seconds, found.decode_tokens_per_second) == (None, None)
    assert measured([]) is None


def test_one_request_for_many_answers_is_as_many_that_may_give_way() -> None:
    # 256 answers of 1,500 tokens in a KV cache for 172,048 (H200, vLLM 0.26).
    item = Item(name="mine", requests=1, seconds=60.0, prompt_tokens=64, output_tokens=384_000)
    gone = Turnover(sequences=256, prompt_tokens=256 * 64, preemptions=146)
    assert preemption_storm(item, gone) is None
    swapped = replace(gone, preemptions=14_599, swap_ins=253)
    found = preemption_storm(item, swapped, "kv-offloading-size", kv_tokens=172_048)
    assert found
    assert found.reason.startswith("`mine`: 14599 preemptions of 256 requests, 253 times")
    assert found.fit_at_once == 110


def test_a_server_without_that_counter_is_judged_by_what_was_sent() -> None:
    item = Item(name="mine", requests=4, seconds=1.0)
    assert preemption_storm(item, Turnover(preemptions=16)) is None
    found = preemption_storm(item, Turnover(preemptions=17), kv_tokens=1000)
    assert found
    assert found.fit_at_once is None  # nobody knows how long they were


def grown(sizes: Sequence[int], left: int = 64 * GIB, step: float = 60.0) -> Growth:
    growth = Growth("host memory")
    for number, size in enumerate(sizes):
        growth.add(step * number, size, left)
    return growth


def test_memory_that_grows_as_fast_at_the_end_runs_out_within_a_day() -> None:
    growth = grown([GIB + n * 64 * 2**20 for n in range(12)])
    assert growth.per_second == pytest.approx(64 * 2**20 / 60)
    found = growth.beyond(24 * 3600)
    assert found
    assert found.reason == (
        "host memory grows by 3.8 GiB an hour: the 64.0 GiB left are gone in 17.1 hours"
    )
    assert growth.beyond(12 * 3600) is None


@given(st.integers(1, 2**40), st.integers(0, 12), st.integers(12, 60))
def test_what_fills_up_once_is_no_growth(size: int, full_at: int, rounds: int) -> None:
    growth = grown([min(n, rounds * full_at // 24) * size for n in range(rounds)])
    assert growth.beyond(24 * 3600) is None


@given(st.lists(st.integers(0, 2**40), max_size=40), st.integers(1, 2**40))
def test_growth_ends_either_after_the_horizon_or_in_a_failure(sizes: list[int], left: int) -> None:
    growth = grown(sizes, left)
    lasts = left / growth.per_second if growth.per_second else math.inf
    assert (growth.beyond(3600) is None) == (lasts >= 3600)


def test_a_few_samples_say_nothing() -> None:
    growth = grown([n * GIB for n in range(7)], left=1)
    assert growth.said is None
    assert growth.beyond(24 * 3600) is None
