"""The stability certificate: what a server must survive to be called stable.

Prompts are token ids, random and unique, so that lengths are exact and the prefix cache can
hide no work.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from . import interruption
from .config import Workload
from .outcome import Certificate, Check, Crashed, Degraded, FailedOutcome
from .probe import Endpoint, Patience, Reply, Target, is_healthy, served_length

# The most requests of one item: enough to fill a batch, few enough to end in seconds.
MOST_LONG = 8
MOST_SHORT = 64
SHORT_PROMPT = 32
SHORT_OUTPUT = 8
# Preemptions per request beyond which a server does little else.
STORM = 10


def certify(
    target: Target,
    workload: Workload,
    *,
    patience: Patience | None = None,
    until: float | None = None,
    free_bytes: Callable[[], int] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Certificate | FailedOutcome:
    """Send every item of the certificate; return it, or the first failure.

    `free_bytes` is sampled once a second meanwhile; `say` is told each item as it begins.

    Raises TimeoutError at the clock time `until` (monotonic).
    """

    async def in_time() -> Certificate | FailedOutcome:
        async with asyncio.timeout_at(until):
            return await _certify(target, workload, patience or Patience(), free_bytes, say)

    return interruption.run(in_time())


async def _certify(
    target: Target,
    workload: Workload,
    patience: Patience,
    free_bytes: Callable[[], int] | None,
    say: Callable[[str], None],
) -> Certificate | FailedOutcome:
    began = time.monotonic()
    async with Endpoint.of(target, patience, free_bytes) as endpoint:
        examination = _Examination(target, workload, endpoint)
        checks: list[Check] = []
        for name, item in examination.items().items():
            say(name)
            result = await item(name)
            if not isinstance(result, Check):
                return result
            checks.append(result)
            await endpoint.watch.sample()
        ailing = await examination.vital_signs()
        if ailing is not None:
            return ailing
        watch = endpoint.watch
        return Certificate(
            checks=tuple(checks),
            seconds=time.monotonic() - began,
            kv_usage_peak=watch.kv_usage_peak,
            preemptions=watch.preemptions,
            least_free_bytes=watch.least_free_bytes,
        )


Item = Callable[[str], Awaitable[Check | FailedOutcome]]


@dataclass
class _Examination:
    """One certificate in the making."""

    target: Target
    workload: Workload
    endpoint: Endpoint
    requests: int = 0
    prompt_tokens_read: int = 0
    dice: random.Random = field(default_factory=random.Random)

    def items(self) -> dict[str, Item]:
        """Return the items, the one most likely to kill as early as can be."""
        return {
            "first request": self.first_request,
            "full context": self.full_context,
            "long prompts at once": self.long_prompts,
            "many short prompts": self.short_prompts,
            "chat": self.chat,
            "over-long prompt": self.over_long,
            "ordinary request": self.ordinary,
        }

    async def first_request(self, name: str) -> Check | FailedOutcome:
        result = await self.completed(name, 1, SHORT_PROMPT + SHORT_OUTPUT, SHORT_OUTPUT)
        if isinstance(result, Check):
            self.endpoint.expect_speed(result.seconds)
        return result

    async def full_context(self, name: str) -> Check | FailedOutcome:
        return await self.completed(name, 1, self.target.max_model_len)

    async def long_prompts(self, name: str) -> Check | FailedOutcome:
        """Fill the KV cache with unique prompts, at the wanted concurrency or more."""
        longest = self.target.max_model_len
        tokens = self.target.kv_tokens or longest
        count = max(2, self.workload.concurrency, min(MOST_LONG, tokens // longest))
        count = min(count, self.target.max_num_seqs)
        length = longest if self.workload.concurrency >= count else min(longest, tokens // count)
        return await self.completed(name, count, length)

    async def short_prompts(self, name: str) -> Check | FailedOutcome:
        count = min(MOST_SHORT, self.target.max_num_seqs)
        return await self.completed(name, count, SHORT_PROMPT + SHORT_OUTPUT, SHORT_OUTPUT)

    async def chat(self, name: str) -> Check | FailedOutcome:
        began = time.monotonic()
        reply = await self.endpoint.chat(name, SHORT_OUTPUT)
        if isinstance(reply, str):
            return Check(name=name, requests=0, seconds=0.0, note=reply)
        return self.check(name, [reply], began) if isinstance(reply, Reply) else reply

    async def over_long(self, name: str) -> Check | FailedOutcome:
        """Send one token more than fits: the server must refuse it, and harm nothing."""
        began = time.monotonic()
        accepted = await self.endpoint.refusal(name, self.prompt(self.target.max_model_len + 1))
        return accepted or Check(name=name, requests=1, seconds=time.monotonic() - began)

    async def ordinary(self, name: str) -> Check | FailedOutcome:
        length = SHORT_PROMPT + SHORT_OUTPUT
        return await self.completed(name, 1, length, SHORT_OUTPUT, stream=False)

    async def completed(
        self, name: str, count: int, length: int, output: int | None = None, *, stream: bool = True
    ) -> Check | FailedOutcome:
        """Complete `count` unique prompts at once; prompt and output together have `length`."""
        began = time.monotonic()
        output = output or max(1, min(self.workload.output_tokens, length // 2))
        prompts = [self.prompt(length - output) for _ in range(count)]
        replies = await self.endpoint.complete(name, prompts, output, stream=stream)
        return self.check(name, replies, began) if isinstance(replies, list) else replies

    def check(self, name: str, replies: list[Reply], began: float) -> Check:
        seconds = time.monotonic() - began
        read = sum(reply.prompt_tokens for reply in replies)
        written = sum(reply.output_tokens for reply in replies)
        self.requests += len(replies)
        self.prompt_tokens_read += read
        return Check(
            name=name,
            requests=len(replies),
            prompt_tokens=read,
            output_tokens=written,
            seconds=seconds,
            ttft_seconds=max(reply.ttft_seconds for reply in replies),
            tokens_per_second=(read + written) / seconds,
        )

    def prompt(self, length: int) -> list[int]:
        """Return random token ids; the ends of the vocabulary hold special tokens."""
        low, high = self.target.vocab_size // 20, max(2, self.target.vocab_size // 2)
        return [self.dice.randrange(low, high) for _ in range(max(1, length))]

    async def vital_signs(self) -> FailedOutcome | None:
        """Ask for health and names once more, and compare the server's counters with ours."""
        url, model, length = self.target.url, self.target.model, self.target.max_model_len
        if not await asyncio.to_thread(is_healthy, url):
            reason = "after the probe /health does not answer 200"
            return Crashed(cause="server_gone", phase="serving", reason=reason)
        promised = await asyncio.to_thread(served_length, url, model)
        if promised != length:
            reason = f"/v1/models promises {promised} tokens for {model}, not {length}"
            return Degraded(cause="wrong_model", phase="serving", reason=reason)
        return await self.counters()

    async def counters(self) -> FailedOutcome | None:
        """Compare the server's counters with what was sent."""
        watch = self.endpoint.watch
        await watch.sample()
        counted, read, preempted = watch.prompt_tokens, self.prompt_tokens_read, watch.preemptions
        if counted is not None and counted < read:
            cause = "counted_too_few"
            reason = (
                f"the server counted {counted:.0f} of the {read} prompt tokens sent: "
                "its engine was replaced, or it did not do the work"
            )
        elif preempted and preempted > STORM * self.requests:
            cause = "preemption_storm"
            reason = f"{self.requests} requests were preempted {preempted} times"
        else:
            return None
        return Degraded(cause=cause, phase="serving", reason=reason)
