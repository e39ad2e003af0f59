"""Days of use in minutes: every item again and again, and what grows meanwhile."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
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
    ends = began + 60 * probe.soak_minutes
    items = [(item, send) for item, send in server.items() if item not in ONCE]
    fastest: dict[str, Item] = {}
    slow: Counter[str] = Counter()
    total = Item(name=name, requests=0, seconds=0.0, prompt_tokens=0, output_tokens=0)
    host, device, lows = Growth("host memory"), Growth("device memory"), await server.free_bytes()
    tell = _teller(server.say, name, ends)
    while time.monotonic() < ends:
        for item, send in items:
            tell(total, host)
            check = await send(item)
            total = _added(total, check, time.monotonic() - began)
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
    return replace(total, note=host.said)


def _teller(say: Callable[[str], None], name: str, ends: float) -> Callable[[Item, Growth], None]:
    """Return what says how a soak stands, once a minute."""
    said = float("-inf")

    def tell(total: Item, host: Growth) -> None:
        nonlocal said
        now = time.monotonic()
        if now - said < SAY_SECONDS:
            return
        said = now
        counted = f", {total.requests} requests so far" if total.requests else ""
        grown = f", {host.said}" if host.said else ""
        say(f"{name}, {max(0.0, ends - now) / 60:.0f} min left{counted}{grown}")

    return tell


def _seconds_each(item: Item) -> float:
    return item.seconds / item.requests


def _added(total: Item, check: Item, seconds: float) -> Item:
    read = (total.prompt_tokens or 0) + (check.prompt_tokens or 0)
    written = (total.output_tokens or 0) + (check.output_tokens or 0)
    return replace(
        total,
        requests=total.requests + check.requests,
        prompt_tokens=read,
        output_tokens=written,
        seconds=seconds,
        tokens_per_second=(read + written) / seconds,
    )
