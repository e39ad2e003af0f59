"""A watch over a server ends when it is told to, whatever comes at the same moment."""

import asyncio

import pytest

from vllm_autotune.probe.watch import SHORTEST, Watch


async def nothing() -> str:
    return ""


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
