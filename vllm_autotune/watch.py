"""What a server's own counters and the device's memory show while requests run."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

KV_USAGE = ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc")  # renamed in 0.9.2
PREEMPTIONS = ("vllm:num_preemptions_total",)
PROMPT_TOKENS = ("vllm:prompt_tokens_total",)


@dataclass
class Watch:
    """The peaks and the last values of what `metrics` and `free_bytes` return.

    `moved_at` is when a counter moved last.
    """

    metrics: Callable[[], Awaitable[str]]
    free_bytes: Callable[[], int] | None
    moved_at: float = field(default_factory=time.monotonic)
    kv_usage_peak: float | None = None
    preemptions: int | None = None
    prompt_tokens: float | None = None
    least_free_bytes: int | None = None
    _before: dict[str, float] = field(default_factory=dict)
    _first_preemptions: float | None = None

    async def run(self, every: float) -> None:
        """Take a sample every so many seconds until cancelled."""
        while True:
            await self.sample()
            await asyncio.sleep(every)

    async def sample(self) -> None:
        """Read the free memory and vLLM's metrics; what does not answer is left as it was."""
        if self.free_bytes:
            free = await asyncio.to_thread(self.free_bytes)
            least = self.least_free_bytes
            self.least_free_bytes = free if least is None else min(free, least)
        with suppress(ValueError):
            self._read(_samples(await self.metrics()))

    def _read(self, now: dict[str, float]) -> None:
        if now and now != self._before:
            self.moved_at = time.monotonic()
        self._before = now
        usage = _first(now, KV_USAGE)
        if usage is not None:
            self.kv_usage_peak = max(usage, self.kv_usage_peak or 0.0)
        preemptions = _first(now, PREEMPTIONS)
        if preemptions is not None:
            if self._first_preemptions is None:
                self._first_preemptions = preemptions
            self.preemptions = int(preemptions - self._first_preemptions)
        self.prompt_tokens = _first(now, PROMPT_TOKENS)


def _samples(text: str) -> dict[str, float]:
    """Return vLLM's own metrics by name, summed over labels."""
    from prometheus_client.parser import text_string_to_metric_families  # noqa: PLC0415

    totals: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.startswith("vllm:"):
                totals[sample.name] = totals.get(sample.name, 0.0) + sample.value
    return totals


def _first(samples: dict[str, float], names: Sequence[str]) -> float | None:
    return next((samples[name] for name in names if name in samples), None)
