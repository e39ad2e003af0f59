"""A watch over a server: what it sees, and that it ends when it is told to."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_autotune.outcome import Moment
from vllm_autotune.probe.watch import MOMENTS, SHORTEST, Watch, thinned


async def nothing() -> str:
    return ""


def shown(*texts: str) -> Watch:
    """Return a watch that saw these metrics, one after the other, and no move at the last."""
    answers = iter(texts)

    async def metrics() -> str:
        return next(answers)

    async def watched() -> Watch:
        watch = Watch(metrics, None)
        for _ in texts:
            watch.moved_at = 0.0
            await watch.sample()
        return watch

    return asyncio.run(watched())


def test_the_time_of_day_is_no_progress() -> None:
    """Adapters are told with the time of the engine's last step, whether it did any work or not."""
    one, two = (f"vllm:lora_requests_info 17000000{n}\nvllm:num_requests_running 1\n" for n in "12")
    assert shown(one, two).moved_at == 0.0
    assert shown(one, two.replace("running 1", "running 2")).moved_at > 0.0


def test_the_fullest_of_several_engines_counts() -> None:
    usage = "".join(f'vllm:kv_cache_usage_perc{{engine="{n}"}} 0.{n}\n' for n in range(1, 5))
    running = "".join(f'vllm:num_requests_running{{engine="{n}"}} 2\n' for n in range(1, 5))
    watch = shown(usage + running)
    assert (watch.kv_usage, watch.busy) == (0.4, 8)


def test_what_was_counted_before_metrics_failed_is_not_lost() -> None:
    counts = "vllm:num_preemptions_total {}\nvllm:prompt_tokens_total 0\n"
    usage = "vllm:kv_cache_usage_perc 0.5\n"
    watch = shown(counts.format(1) + usage, counts.format(4) + usage, "")
    assert (watch.preemptions, watch.kv_usage_peak) == (3, 0.5)
    assert (watch.prompt_tokens, watch.kv_usage) == (None, None)


@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), min_size=2, max_size=200))
def test_a_thinner_timeline_keeps_the_peaks_and_the_end(usages: list[float | None]) -> None:
    moments = [
        Moment(seconds=n, kv_usage=usage, free_bytes=None if usage is None else int(1e9 * usage))
        for n, usage in enumerate(usages)
    ]
    kept = thinned(moments)
    assert len(kept) == len(moments) // 2
    assert [m.seconds for m in kept] == sorted(m.seconds for m in kept)
    assert kept[-1].seconds == moments[-1].seconds
    merged = moments[len(moments) % 2 :]
    known = [m.kv_usage for m in merged if m.kv_usage is not None]
    assert max((m.kv_usage for m in kept if m.kv_usage is not None), default=None) == max(
        known, default=None
    )
    least = [m.free_bytes for m in kept if m.free_bytes is not None]
    assert min(least, default=None) == min((int(1e9 * usage) for usage in known), default=None)


def test_a_long_probe_has_a_short_timeline() -> None:
    timeline = shown(*["vllm:kv_cache_usage_perc 0.5\n"] * (5 * MOMENTS)).timeline
    assert MOMENTS // 2 <= len(timeline) <= MOMENTS
    assert all(moment.kv_usage == 0.5 for moment in timeline)


async def ends(turns: int) -> bool:
    """Cancel a watch so many turns of the event loop after a first token; tell whether it ends."""
    watch = Watch(nothing, None)
    task = asyncio.create_task(watch.run(60))
    await asyncio.sleep(1.5 * SHORTEST)
    watch.first_token.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=5 * SHORTEST)
    task.cancel()
    return bool(done)


@pytest.mark.parametrize("turns", range(5))
def test_a_watch_ends_though_a_token_comes_as_it_is_told_to(turns: int) -> None:
    assert asyncio.run(ends(turns))
