"""What a server's own counters and the device's memory show while requests run."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

from ..outcome import Moment

T = TypeVar("T", int, float)

KV_USAGE = "vllm:kv_cache_usage_perc"
OLD_KV_USAGE = "vllm:gpu_cache_usage_perc"  # before 0.9.2
PREEMPTIONS = "vllm:num_preemptions_total"
PROMPT_TOKENS = "vllm:prompt_tokens_total"
# One for each sequence: an answer of n choices to p prompts counts n times p.
FINISHED = "vllm:request_success_total"
# Blocks of the KV cache on their way to the host and back: bytes, and how often something came
# back (kv_connector/v1/offloading/metrics.py, 0.32; before, the direction was a label).
SWAPPED_OUT = ("vllm:kv_offload_store_bytes_total", "vllm:kv_offload_total_bytes_total:GPU_to_CPU")
SWAPPED_IN = ("vllm:kv_offload_load_bytes_total", "vllm:kv_offload_total_bytes_total:CPU_to_GPU")
SWAP_INS = ("vllm:kv_offload_load_size_count", "vllm:kv_offload_size_count:CPU_to_GPU")
RUNNING = "vllm:num_requests_running"
WAITING = "vllm:num_requests_waiting"
# Seconds from one sample to the next, at least, however many first tokens come.
SHORTEST = 0.1
# At most so many moments are kept of a probe, however long it is.
MOMENTS = 60
# What changes without any progress: up to 0.11, a request that waits for room is looked up in the
# prefix cache at every step, and the information on adapters has the time of day.
NO_PROGRESS = ("prefix_cache", "_info", "_created")


@dataclass(frozen=True, slots=True, kw_only=True)
class Turnover:
    """Sequences that came and went, their prompts, and how often one had to give way."""

    sequences: int = 0
    prompt_tokens: int = 0
    preemptions: int = 0
    swap_ins: int = 0

    def since(self, before: "Turnover") -> "Turnover":
        return Turnover(
            sequences=self.sequences - before.sequences,
            prompt_tokens=self.prompt_tokens - before.prompt_tokens,
            preemptions=self.preemptions - before.preemptions,
            swap_ins=self.swap_ins - before.swap_ins,
        )


class HostMemory(NamedTuple):
    """The host's memory in bytes: what the server's processes have taken, and what is free."""

    taken: int
    free: int


@dataclass
class Watch:
    """The peaks and the last values of what `metrics` and `free_bytes` return.

    `moved_at` is when a counter moved last, `busy` how many requests run or wait. Preemptions,
    prompt tokens, and bytes of the KV cache that were swapped are those since the first sample.
    """

    metrics: Callable[[], Awaitable[str]]
    free_bytes: Callable[[], int] | None
    moved_at: float = field(default_factory=time.monotonic)
    kv_usage: float | None = None
    kv_usage_peak: float | None = None
    busy: int | None = None
    preemptions: int | None = None
    prompt_tokens: int | None = None
    swapped_out: int | None = None
    swapped_in: int | None = None
    swap_ins: int | None = None
    sequences: int | None = None
    free_now: int | None = None
    least_free_bytes: int | None = None
    first_token: asyncio.Event = field(default_factory=asyncio.Event)
    timeline: list[Moment] = field(default_factory=list)
    _began: float = field(default_factory=time.monotonic)
    _before: dict[str, float] = field(default_factory=dict)
    _first: dict[str, float] = field(default_factory=dict)

    async def run(self, every: float) -> None:
        """Take a sample every so many seconds, and at a first token, until cancelled.

        A prompt fills the KV cache when it has been read, and may be answered a moment later.
        """
        while True:
            await self.sample()
            await asyncio.sleep(min(every, SHORTEST))
            with suppress(TimeoutError):
                async with asyncio.timeout(every):  # wait_for of Python 3.11 may lose our end
                    await self.first_token.wait()
            self.first_token.clear()

    async def sample(self) -> None:
        if self.free_bytes:
            free = self.free_now = await asyncio.to_thread(self.free_bytes)
            least = self.least_free_bytes
            self.least_free_bytes = free if least is None else min(free, least)
        with suppress(ValueError):
            self._read(_totals(await self.metrics()))
        self.timeline.append(
            Moment(
                seconds=round(time.monotonic() - self._began, 2),
                kv_usage=self.kv_usage,
                requests=self.busy,
                preemptions=self.preemptions,
                free_bytes=self.free_now,
            )
        )
        if len(self.timeline) > MOMENTS:
            self.timeline = thinned(self.timeline)

    @property
    def turnover(self) -> Turnover:
        """Return what came and went since the first sample."""
        return Turnover(
            sequences=self.sequences or 0,
            prompt_tokens=self.prompt_tokens or 0,
            preemptions=self.preemptions or 0,
            swap_ins=self.swap_ins or 0,
        )

    @property
    def has_counters(self) -> bool:
        return bool(self._before)

    def moved(self) -> None:
        self.moved_at = time.monotonic()

    def _read(self, now: dict[str, float]) -> None:
        if not now:  # the values of the last sample may have changed
            self.busy = self.kv_usage = self.prompt_tokens = None
            return
        telling = {n: value for n, value in now.items() if not any(w in n for w in NO_PROGRESS)}
        if telling != self._before:
            self.moved()
        self._before = telling
        self.busy = int(now[RUNNING] + now.get(WAITING, 0)) if RUNNING in now else None
        self.kv_usage = usage = now.get(KV_USAGE, now.get(OLD_KV_USAGE))
        if usage is not None:
            self.kv_usage_peak = max(usage, self.kv_usage_peak or 0.0)
        self._first = self._first or now
        self.preemptions = self._since_first(now, PREEMPTIONS)
        self.prompt_tokens = self._since_first(now, PROMPT_TOKENS)
        self.swapped_out = self._since_first(now, *SWAPPED_OUT)
        self.swapped_in = self._since_first(now, *SWAPPED_IN)
        self.swap_ins = self._since_first(now, *SWAP_INS)
        self.sequences = self._since_first(now, FINISHED)

    def _since_first(self, now: dict[str, float], *names: str) -> int | None:
        """Return how much the first of these that there is has grown."""
        name = next((name for name in names if name in now), None)
        return int(now[name] - self._first.get(name, 0)) if name else None


def thinned(moments: Sequence[Moment]) -> list[Moment]:
    """Return every second moment, the last among them, each with the peaks of the one before."""
    pairs = zip(moments[-1::-2], moments[-2::-2], strict=False)
    kept = [
        replace(
            later,
            kv_usage=_peak(max, later.kv_usage, earlier.kv_usage),
            requests=_peak(max, later.requests, earlier.requests),
            free_bytes=_peak(min, later.free_bytes, earlier.free_bytes),
        )
        for later, earlier in pairs
    ]
    return kept[::-1]


def _peak(choose: Callable[[T, T], T], one: T | None, other: T | None) -> T | None:
    if one is None or other is None:
        return other if one is None else one
    return choose(one, other)


def cache_size(text: str) -> int | None:
    """Return how many tokens the KV cache holds, None where the metrics do not say."""
    with suppress(ValueError):
        for sample in _samples(text):
            if sample.name == "vllm:cache_config_info":  # before 0.26: blocks and their size
                labels = sample.labels
                if labels.get("kv_cache_size_tokens", "").isdecimal():
                    return int(labels["kv_cache_size_tokens"])
                with suppress(KeyError):
                    return int(labels["num_gpu_blocks"]) * int(labels["block_size"])
    return None


def _totals(text: str) -> dict[str, float]:
    """Return vLLM's metrics by name, summed over labels; a share is that of the fullest.

    Transfers to the host are one thing, and those from it another.
    """
    totals: dict[str, float] = {}
    for sample in _samples(text):
        name = ":".join(filter(None, (sample.name, sample.labels.get("transfer_type"))))
        before = totals.get(name, 0.0)
        share = name.endswith("_perc")
        totals[name] = max(before, sample.value) if share else before + sample.value
    return totals


def _samples(text: str) -> Iterator[Any]:
    """Yield vLLM's own samples of a text of metrics. Raises ValueError for another text."""
    from prometheus_client.parser import text_string_to_metric_families  # noqa: PLC0415

    for family in text_string_to_metric_families(text):
        yield from (sample for sample in family.samples if sample.name.startswith("vllm:"))
