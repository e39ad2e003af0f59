"""Sends the requests of a certificate, counts them, and looks after the server meanwhile.

Prompts are token ids, random and unique, so that lengths are exact and the prefix cache can
hide no work.
"""

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ..outcome import Check, Crashed, FailedOutcome, Speed
from ..probe import Ask, Endpoint, Reply, Target, is_healthy, served_length
from ..probe.reply import degraded
from ..workload import Workload
from . import judgement
from .figures import measured
from .load import Load, Loads

# So many short requests make a round.
ROUND = 8
# Where it is not known how much is in use, so much of the context is tried.
CAREFUL = 8
# So much of it may be in use on a server that others use.
FULL = 0.9
# More of it in use, when nothing runs, is a leak.
IDLE = 0.01


@dataclass
class Examiner:
    """Sends the items of a certificate to one server.

    `missed` are the tokens of a client that left: so many that never come back are a leak.
    """

    target: Target
    workload: Workload
    endpoint: Endpoint
    say: Callable[[str], None] = lambda _: None
    speeds: list[Speed] = field(default_factory=list)
    prompt_tokens_read: int = 0
    tokens_per_second: float = 0.0
    missed: int = 0
    dice: random.Random = field(default_factory=random.Random)

    @property
    def loads(self) -> Loads:
        """Return what to send, by the speed measured so far."""
        speed = self.tokens_per_second or float("inf")
        return Loads(
            target=self.target,
            workload=self.workload,
            tokens_per_second=speed,
            room=self.room if self.target.shared else None,
        )

    @property
    def few(self) -> Load:
        """Return a round of short requests."""
        return Load(requests=self.loads.first().requests * ROUND)

    @property
    def room(self) -> int:
        """Return the tokens of KV cache that can be taken without pushing others out."""
        longest, watch = self.target.max_model_len, self.endpoint.watch
        if self.target.kv_tokens is None or watch.kv_usage is None:
            return longest if watch.busy == 0 else longest // CAREFUL
        return max(2, int((FULL - watch.kv_usage) * self.target.kv_tokens))

    async def sent(
        self, name: str, load: Load, *, staggered: bool = False, figures: bool = False
    ) -> Check | FailedOutcome:
        """Complete unique prompts of the lengths of a load."""
        if not load.requests:
            return Check(name=name, requests=0, seconds=0.0, note=load.note)
        asks = self.asks(load)
        return await self.completed(
            name, asks, staggered=staggered, figures=figures, note=load.note
        )

    async def completed(
        self,
        name: str,
        asks: list[Ask],
        *,
        staggered: bool = False,
        figures: bool = False,
        note: str | None = None,
    ) -> Check | FailedOutcome:
        """Complete prompts at once (staggered, one behind the other) and take their measure."""
        began = time.monotonic()
        replies = await self.endpoint.complete(name, asks, staggered=staggered)
        if not isinstance(replies, list):
            return replies
        self.learn(replies, time.monotonic() - began, figures=figures)
        return self.check(name, replies, began, note)

    def learn(self, replies: list[Reply], seconds: float, *, figures: bool) -> None:
        """Take the measure of what was answered."""
        speed = measured(replies)
        if speed is None:
            return
        if figures:
            self.speeds.append(speed)
        tokens = sum(reply.prompt_tokens + reply.output_tokens for reply in replies)
        self.tokens_per_second = max(self.tokens_per_second, tokens / seconds)
        self.endpoint.tempo.learn(1 / speed.prefill_tokens_per_second, speed.inter_token_seconds)

    def asks(self, load: Load, *, stream: bool = True) -> list[Ask]:
        """Return unique prompts of the lengths of a load."""
        return [
            Ask(prompt=self.prompt(prompt), output=output, stream=stream)
            for prompt, output in load.requests
        ]

    def check(
        self, name: str, replies: list[Reply], began: float, note: str | None = None
    ) -> Check:
        """Count what came back."""
        seconds = time.monotonic() - began
        read = sum(reply.prompt_tokens for reply in replies)
        written = sum(reply.output_tokens for reply in replies)
        self.prompt_tokens_read += read
        return Check(
            name=name,
            requests=len(replies),
            prompt_tokens=read,
            output_tokens=written,
            seconds=seconds,
            ttft_seconds=max((reply.ttft_seconds for reply in replies), default=None),
            tokens_per_second=(read + written) / seconds,
            note=note,
        )

    def prompt(self, length: int) -> list[int]:
        """Return random token ids; the ends of the vocabulary hold special tokens."""
        low, high = self.target.vocab_size // 20, max(2, self.target.vocab_size // 2)
        return [self.dice.randrange(low, high) for _ in range(max(1, length))]

    async def over_long(self, name: str) -> Check | FailedOutcome:
        """Send one token more than fits: the server must refuse it, and harm nothing."""
        began = time.monotonic()
        accepted = await self.endpoint.refusal(name, self.prompt(self.loads.over_long()))
        return accepted or Check(name=name, requests=1, seconds=time.monotonic() - began)

    async def lows(self, before: list[int]) -> list[int]:
        """Return the free memory after each round, with that of now."""
        await self.endpoint.watch.sample()
        free = self.endpoint.watch.free_now
        return [*before, free] if free is not None else before

    async def leak(self, after: str) -> FailedOutcome | None:
        """Wait until nothing runs, and say whether blocks of the KV cache are still in use."""
        if self.target.shared:
            return None
        tokens = self.target.kv_tokens or self.target.max_model_len
        idle = min(IDLE, (self.missed or tokens) / tokens / 2)
        leaked = judgement.kv_leak(await self.endpoint.settled(idle), idle, after)
        if leaked is None:
            return None
        # A gauge may be as old as its engine's last step: have every engine take one.
        replies = await self.endpoint.complete("a look at the cache", self.asks(self.few))
        if not isinstance(replies, list):
            return replies
        return judgement.kv_leak(await self.endpoint.settled(idle), idle, after)

    async def healthy(self) -> bool:
        """Tell whether /health answers 200; a busy host gets a second and a third chance."""
        for pause in (0, 1, 2):
            await asyncio.sleep(pause)
            if await asyncio.to_thread(is_healthy, self.target.url, self.target.headers):
                return True
        return False

    async def vital_signs(self) -> FailedOutcome | None:
        """Ask for health and names once more, and compare the server's counters with ours."""
        target = self.target
        if not await self.healthy():
            reason = "after the probe /health does not answer 200"
            return Crashed(cause="server_gone", phase="serving", reason=reason)
        promised = await asyncio.to_thread(served_length, target.url, target.model, target.headers)
        if promised != target.max_model_len:
            reason = (
                f"/v1/models promises {promised} tokens for {target.model}, "
                f"not {target.max_model_len}"
            )
            return degraded("wrong_model", reason)
        if target.shared:  # its counters are those of others too, perhaps of several servers
            return None
        watch = self.endpoint.watch
        await watch.sample()
        return judgement.counted_too_few(
            watch.prompt_tokens, self.prompt_tokens_read
        ) or await self.leak("after all requests")
