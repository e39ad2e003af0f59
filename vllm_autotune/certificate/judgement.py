"""What the measurements say about a server that answers every request correctly. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise, takewhile
from statistics import median

from ..outcome import NO_EFFECT, PREEMPTION_STORM, Degraded, Item, Speed
from ..probe.failure import degraded
from ..probe.watch import Turnover
from ..units import format_bytes

# Preemptions per request of an item beyond which a server does little else. A KV cache for 5,440
# tokens had 107 in a whole probe, with 512 short requests at once; one for 172,048 tokens 146 with
# 256 answers of 1,500 tokens (H200, vLLM 0.26, which admits only what fits as a whole).
STORM = 4
# Where something came back from the host's memory for so many of them, little is lost.
MOST = 0.5
# A GPU gives memory in pages of 2 MiB; a process grows by less now and then.
PAGE = 2 * 2**20
# So many rounds of the same work, each leaving less memory than any before, are a leak.
FALLS = 8
# A quarter of what was seen of memory has at least so many samples.
QUARTER = 2
# What grew by less in three quarters of the time may be chance.
GROWN = 32 * 2**20
# Host memory is ten to fifty times slower than a GPU's own; a busy machine is not.
COLLAPSE = 4.0
# A shorter time is not measured well enough to be called slow.
TELLING_SECONDS = 0.5
SPILLED = "GPU memory may have spilled to host memory"


def counted_too_few(counted: int | None, read: int) -> Degraded | None:
    if counted is None or counted >= read:
        return None
    counts = f"the server counted {counted} of the {read} prompt tokens sent"
    why = "its engine was replaced, or it did not read all of them"
    return degraded("counted_too_few", f"{counts}: {why}")


def preemption_storm(
    item: Item, turnover: Turnover, swap: str | None = None, kv_tokens: int | None = None
) -> Degraded | None:
    """Return the failure of a server whose requests push each other out again and again.

    What comes back from the host's memory is not computed again, nor is what was still on the GPU:
    it is no storm where something came back for most of them. `swap` is the flag that has it go
    there, `kv_tokens` the size of the KV cache.
    """
    preempted, swap_ins = turnover.preemptions, turnover.swap_ins
    sequences = max(item.requests, turnover.sequences)
    if preempted <= STORM * sequences or swap_ins > MOST * preempted:
        return None
    counts = f"`{item.name}`: {preempted} preemptions of {sequences} requests"
    if swap and not swap_ins:
        nothing = f"--{swap} had no effect: {counts}, and nothing came back from host memory"
        return degraded(NO_EFFECT, nothing)
    if swap_ins:
        counts += f", {swap_ins} times something came back from host memory"
    read = max(item.prompt_tokens or 0, turnover.prompt_tokens)
    each = (read + (item.output_tokens or 0)) / sequences
    fit = int(kv_tokens / each) if kv_tokens and each else None
    return replace(degraded(PREEMPTION_STORM, counts), fit_at_once=fit)


def kv_leak(usage: float | None, idle: float, after: str) -> Degraded | None:
    if usage is None or usage < idle:
        return None
    reason = f"{usage:.1%} of the KV cache stayed in use {after}, though no request runs"
    return degraded("kv_leak", reason)


def falling(lows: Sequence[int]) -> int:
    """Return how many of the last rounds each left less memory than any before, by a page."""
    fell = (lows[n] <= min(lows[:n]) - PAGE for n in range(len(lows) - 1, 0, -1))
    return sum(takewhile(bool, fell))


def memory_creep(lows: Sequence[int]) -> Degraded | None:
    if falling(lows) < FALLS:
        return None
    lost = (lows[-FALLS - 1] - lows[-1]) / 2**20
    reason = f"memory grew in each of {FALLS} rounds of the same requests, {lost:.0f} MiB in total"
    return degraded("memory_creep", reason)


@dataclass
class Growth:
    """How memory grew: seconds and bytes taken, one after the other, and the bytes left last."""

    what: str
    seconds: list[float] = field(default_factory=list)
    taken: list[int] = field(default_factory=list)
    left: int = 0

    def add(self, seconds: float, taken: int, left: int) -> None:
        self.seconds.append(seconds)
        self.taken.append(taken)
        self.left = left

    @property
    def per_second(self) -> float:
        """Return the bytes by which it keeps growing, 0.0 for what levels off.

        The middles of the last three quarters are compared, and the slower of the two steps
        counts: what fills up once, as caches do, is no growth.
        """
        part = len(self.taken) // 4
        if part < QUARTER:
            return 0.0
        times, sizes = self.seconds[-3 * part :], self.taken[-3 * part :]
        middles = [
            (median(times[n : n + part]), median(sizes[n : n + part]))
            for n in range(0, 3 * part, part)
        ]
        if middles[2][1] - middles[0][1] < GROWN:
            return 0.0
        steps = ((b[1] - a[1]) / (b[0] - a[0]) for a, b in pairwise(middles))
        return max(0.0, min(steps))

    @property
    def said(self) -> str | None:
        """Return a word on it, None before it can be told."""
        if len(self.taken) // 4 < QUARTER:
            return None
        grown = f"{format_bytes(3600 * self.per_second)} an hour" if self.per_second else "nothing"
        return f"{self.what} grows by {grown}"

    def beyond(self, horizon: float) -> Degraded | None:
        """Return the failure of a server that takes all that is left within so many seconds."""
        if self.per_second * horizon <= self.left:
            return None
        hours = self.left / self.per_second / 3600
        reason = f"{self.said}: the {format_bytes(self.left)} left are gone in {hours:.1f} hours"
        return degraded("memory_growth", reason)


def collapse(before: Item, after: Item) -> Degraded | None:
    """Return the failure of a server that became far slower for requests of the same lengths."""
    each, was = after.seconds / after.requests, before.seconds / before.requests
    if after.seconds < TELLING_SECONDS or each < COLLAPSE * was:
        return None
    reason = f"`{after.name}`: a request took {each:.2f} s, but {was:.2f} s in `{before.name}`"
    return degraded("collapse", f"{reason}: {SPILLED}")


def read_slower(alone: Speed, together: Speed) -> Degraded | None:
    """Return the failure of a server that reads prompts far slower at once than one by one."""
    rate, was = together.prefill_tokens_per_second, alone.prefill_tokens_per_second
    if together.worst_ttft_seconds < TELLING_SECONDS or rate * COLLAPSE > was:
        return None
    many = f"{together.requests} prompts were read at {rate:.0f} tokens/s"
    return degraded("collapse", f"{many}, a single one at {was:.0f}: {SPILLED}")
