"""Send every item of the certificate, and judge what the server showed meanwhile."""

import asyncio
import time
from collections.abc import Callable

from .. import interruption
from ..outcome import Certificate, Check, FailedOutcome
from ..probe import Endpoint, Patience, Target
from ..workload import Workload
from .examination import Examination
from .judgement import preemption_storm
from .pooling import PoolingExamination

UNCOUNTED = "nothing was compared: the server publishes no counters"


def certify(
    target: Target,
    workload: Workload,
    *,
    patience: Patience | None = None,
    until: float | None = None,
    free_bytes: Callable[[], int] | None = None,
    diagnosis: Callable[[], FailedOutcome | None] = lambda: None,
    say: Callable[[str], None] = lambda _: None,
) -> Certificate | FailedOutcome:
    """Send every item of the certificate; return it, or the first failure.

    `free_bytes` is sampled once a second meanwhile; `diagnosis` is asked as often why the server
    is failing; `say` is told each item as it begins.

    Raises TimeoutError at the clock time `until` (monotonic).
    """

    async def in_time() -> Certificate | FailedOutcome:
        async with (
            asyncio.timeout_at(until),
            Endpoint.of(target, patience or Patience(), free_bytes, diagnosis) as endpoint,
        ):
            kind = PoolingExamination if target.pooling else Examination
            return await _examined(kind(target, workload, endpoint, say))

    return interruption.run(in_time())


async def _examined(
    examination: Examination | PoolingExamination,
) -> Certificate | FailedOutcome:
    began = time.monotonic()
    checks: list[Check] = []
    watch, shared = examination.endpoint.watch, examination.target.shared
    for name, item in examination.items():
        examination.say(name)
        before = watch.preemptions or 0
        result = await item(name)
        if not isinstance(result, Check):
            return result
        checks.append(result)
        await watch.sample()
        storm = preemption_storm(name, result.requests, (watch.preemptions or 0) - before)
        if storm and not shared:
            return storm
    ailing = await examination.vital_signs()
    if ailing is not None:
        return ailing
    if watch.prompt_tokens is None and not shared:
        checks.append(Check(name="counters", requests=0, seconds=0.0, note=UNCOUNTED))
    return Certificate(
        checks=tuple(checks),
        seconds=time.monotonic() - began,
        speeds=tuple(examination.speeds),
        kv_usage_peak=watch.kv_usage_peak,
        preemptions=watch.preemptions,
        least_free_bytes=watch.least_free_bytes,
    )
