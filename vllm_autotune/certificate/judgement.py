"""What figures say about a server that answers every request right. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..outcome import Degraded, Speed
from ..probe.reply import degraded

# Preemptions per request of an item beyond which a server does little else. A KV cache for 5,440
# tokens had 107 in a whole probe, with 512 short requests at once (H200).
STORM = 4
# A GPU gives memory in pages of 2 MiB; a process grows by less now and then.
PAGE = 2 * 2**20
# Rounds of the same work, each of which left less memory than any before.
FALLS = 8
# Host memory is ten to fifty times slower than a GPU's own; a busy machine is not.
COLLAPSE = 4.0
# What takes less is not measured well enough to be called slow.
TELLING_SECONDS = 0.5


def counted_too_few(counted: int | None, read: int) -> Degraded | None:
    """Return the failure of a server that counted fewer prompt tokens than it was sent."""
    if counted is None or counted >= read:
        return None
    reason = (
        f"the server counted {counted} of the {read} prompt tokens sent: "
        "its engine was replaced, or it did not do the work"
    )
    return degraded("counted_too_few", reason)


def preemption_storm(item: str, requests: int, preempted: int) -> Degraded | None:
    """Return the failure of a server that kept throwing the requests of an item out."""
    if preempted <= STORM * requests:
        return None
    reason = f"the requests of `{item}` ({requests}) were preempted {preempted} times"
    return degraded("preemption_storm", reason)


def kv_leak(usage: float | None, idle: float, after: str) -> Degraded | None:
    """Return the failure of a server whose KV cache stays in use when nothing runs any more."""
    if usage is None or usage < idle:
        return None
    reason = f"{usage:.1%} of the KV cache stayed in use {after}, though nothing runs"
    return degraded("kv_leak", reason)


def falling(lows: Sequence[int]) -> int:
    """Return how many of the last rounds each left less memory than any before, by a page."""
    falls = 0
    for number in range(len(lows) - 1, 0, -1):
        if lows[number] > min(lows[:number]) - PAGE:
            break
        falls += 1
    return falls


def memory_creep(lows: Sequence[int]) -> Degraded | None:
    """Return the failure of a server that took more in each of many rounds of the same work."""
    if falling(lows) < FALLS:
        return None
    lost = (lows[-FALLS - 1] - lows[-1]) / 2**20
    reason = f"{FALLS} rounds of the same requests took {lost:.0f} MiB, each one more"
    return degraded("memory_creep", reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Requests of one shape, and the seconds they took."""

    name: str
    requests: int
    seconds: float


def collapse(before: Pace, after: Pace) -> Degraded | None:
    """Return the failure of a server that became far slower for requests of the same shape."""
    each, was = after.seconds / after.requests, before.seconds / before.requests
    if after.seconds < TELLING_SECONDS or each < COLLAPSE * was:
        return None
    reason = (
        f"a request took {each:.2f} s ({after.name}), {was:.2f} s before ({before.name}): "
        "memory may have spilled to the host"
    )
    return degraded("collapse", reason)


def read_slower(alone: Speed, together: Speed) -> Degraded | None:
    """Return the failure of a server that reads prompts far slower at once than one by one."""
    rate, was = together.prefill_tokens_per_second, alone.prefill_tokens_per_second
    if together.worst_ttft_seconds < TELLING_SECONDS or rate * COLLAPSE > was:
        return None
    reason = (
        f"{together.requests} prompts at once were read at {rate:.0f} tokens/s, one alone at "
        f"{was:.0f}: memory may have spilled to the host"
    )
    return degraded("collapse", reason)
