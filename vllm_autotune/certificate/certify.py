"""Send every item of the certificate, and judge what the server showed meanwhile."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

from .. import interruption
from ..outcome import Certificate, FailedOutcome, Item
from ..probe.endpoint import Endpoint
from ..probe.failure import ProbeFailed, raise_if
from ..probe.target import Patience, Target
from ..probe.watch import HostMemory
from ..workload import Workload
from .generation import GeneratingServer
from .judgement import preemption_storm
from .pooling import PoolingServer


def certify(
    target: Target,
    workload: Workload,
    *,
    patience: Patience | None = None,
    until: float | None = None,
    free_bytes: Callable[[], int] | None = None,
    host: Callable[[], HostMemory] | None = None,
    diagnosis: Callable[[], FailedOutcome | None] = lambda: None,
    say: Callable[[str], None] = lambda _: None,
) -> Certificate | FailedOutcome:
    """Send every item of the certificate; return it, or the first failure.

    `free_bytes` is sampled once a second meanwhile; `diagnosis` is asked as often why the server
    is failing; a soak asks `host`; `say` is told each item as it begins. Raises TimeoutError at
    `until` (monotonic).
    """

    async def in_time() -> Certificate:
        async with (
            asyncio.timeout_at(until),
            Endpoint.of(target, patience or Patience(), free_bytes, diagnosis) as endpoint,
        ):
            kind = PoolingServer if target.pooling else GeneratingServer
            return await _certificate(kind(target, workload, endpoint, say, host=host))

    try:
        return interruption.run(in_time())
    except ProbeFailed as failed:
        outcome, key = failed.outcome, target.api_key
        if not key:
            return outcome
        evidence = tuple(line.replace(key, "[key]") for line in outcome.evidence)
        return replace(outcome, evidence=evidence)  # a server may repeat the key


async def _certificate(server: GeneratingServer | PoolingServer) -> Certificate:
    began = time.monotonic()
    checks: list[Item] = []
    watch, shared = server.endpoint.watch, server.target.shared
    for name, send in server.items():
        server.say(name)
        before = watch.turnover
        checks.append(await send(name))
        await watch.sample()
        if not shared:
            turnover = watch.turnover.since(before)
            raise_if(
                preemption_storm(checks[-1], turnover, server.target.swap, server.target.kv_tokens)
            )
    await server.verify_health()
    if watch.prompt_tokens is None and not shared:
        note = "prompt tokens not compared: the server publishes no counters"
        checks.append(Item(name="counters", requests=0, seconds=0.0, note=note))
    return Certificate(
        checks=tuple(checks),
        seconds=time.monotonic() - began,
        speeds=tuple(server.speeds.values()),
        kv_usage_peak=watch.kv_usage_peak,
        preemptions=watch.preemptions,
        swapped_out_bytes=watch.swapped_out,
        swapped_in_bytes=watch.swapped_in,
        least_free_bytes=watch.least_free_bytes,
        timeline=tuple(watch.timeline),
    )
