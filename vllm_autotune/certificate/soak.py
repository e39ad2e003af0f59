"""Days of use in minutes: every item again and again, and what grows meanwhile."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..outcome import Item
from ..probe.failure import raise_if
from . import judgement
from .judgement import Growth

if TYPE_CHECKING:
    from .generation import GeneratingServer

# What belongs to the beginning or the end of a certificate.
ONCE = ("one by one", "soak", "one by one again", "the same again and again", "ordinary request")
# What is far slower so many times in turn stays so: other programs may be slow for a moment.
ATTEMPTS = 3
SAY_SECONDS = 60.0


async def soak(server: "GeneratingServer", name: str) -> Item:
    """Replay the other items for minutes; their speed must stay, and memory must not run out.

    Memory that grows is followed to the horizon of the probe (judgement.Growth).
    """
    probe, began = server.workload.probe, time.monotonic()
    ends, due = began + 60 * probe.soak_minutes, began
    items = [(item, send) for item, send in server.items() if item not in ONCE]
    checks: list[Item] = []
    fastest: dict[str, Item] = {}
    slow: Counter[str] = Counter()
    host, device, lows = Growth("host memory"), Growth("device memory"), await server.free_bytes()
    while time.monotonic() < ends:
        for item, send in items:
            if time.monotonic() >= due:
                due += SAY_SECONDS
                server.say(_standing(name, ends, checks, host))
            check = await send(item)
            checks.append(check)
            if server.host:
                memory = await asyncio.to_thread(server.host)
                host.add(time.monotonic(), memory.taken, memory.free)
            if server.target.spilled and (free := await server.free_bytes()):
                device.add(time.monotonic(), -free[0], free[0])
            if check.requests:
                best = min(fastest.get(item, check), check, key=_seconds_each)
                slower, fastest[item] = server.slower(check, best), best
                slow[item] = slow[item] + 1 if slower else 0
                if slow[item] >= ATTEMPTS:
                    raise_if(slower)
            if time.monotonic() >= ends:
                break
        lows += await server.free_bytes()
        raise_if(judgement.memory_creep(lows))
        await server.expect_no_leak("between two rounds")
    for growth in (host, device):
        raise_if(growth.beyond(3600 * probe.soak_horizon_hours))
    seconds = time.monotonic() - began
    read = sum(check.prompt_tokens for check in checks)
    written = sum(check.output_tokens for check in checks)
    return Item(
        name=name,
        requests=sum(check.requests for check in checks),
        prompt_tokens=read,
        output_tokens=written,
        seconds=seconds,
        tokens_per_second=(read + written) / seconds,
        note=host.said,
    )


def _standing(name: str, ends: float, checks: Sequence[Item], host: Growth) -> str:
    """Return how a soak stands: a line a minute."""
    left = f"{name}, {max(0.0, ends - time.monotonic()) / 60:.0f} min left"
    sent = f"{sum(check.requests for check in checks)} requests so far" if checks else None
    return ", ".join(filter(None, (left, sent, host.said)))


def _seconds_each(item: Item) -> float:
    return item.seconds / item.requests
