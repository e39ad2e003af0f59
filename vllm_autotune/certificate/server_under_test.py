"""Sends the requests of a certificate, counts them, and watches over the server meanwhile.

Prompts are token ids, random and unique: so their lengths are exact, and the prefix cache saves
no work.
"""

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from ..outcome import Item, Speed
from ..probe.endpoint import Endpoint
from ..probe.failure import ProbeFailed, crashed, degraded, raise_if
from ..probe.listing import is_healthy, served_length
from ..probe.prompt import Prompt
from ..probe.reply import Reply
from ..probe.target import Target
from ..probe.watch import HostMemory
from ..workload import Workload
from . import judgement
from .speed import measured
from .traffic import Burst, Traffic

# Sends what belongs to an item of this name.
Send = Callable[[str], Awaitable[Item]]

# This fraction of the context is tried where it is unknown how much of the KV cache is in use.
CAREFUL = 8
# At most this share of the KV cache may be in use on a server that others use.
FULL = 0.9
# A larger share in use, when nothing runs, is a leak.
IDLE = 0.01


@dataclass
class ServerUnderTest:
    """A server that the items of a certificate are sent to.

    `speeds` are those in the certificate, by item. `abandoned_tokens` are those of a client that
    left: as many that stay in use are a leak. `host` tells of the host's memory.
    """

    target: Target
    workload: Workload
    endpoint: Endpoint
    say: Callable[[str], None] = lambda _: None
    speeds: dict[str, Speed] = field(default_factory=dict)
    prompt_tokens_read: int = 0
    tokens_per_second: float = 0.0
    abandoned_tokens: int = 0
    host: Callable[[], HostMemory] | None = None
    rng: random.Random = field(default_factory=random.Random)

    @property
    def traffic(self) -> Traffic:
        """Return what to send, by the speed measured so far."""
        return Traffic(
            target=self.target,
            workload=self.workload,
            tokens_per_second=self.tokens_per_second or math.inf,
            room=self.room if self.target.shared else None,
        )

    @property
    def room(self) -> int:
        """Return the tokens of KV cache that can be taken without pushing others out."""
        longest, watch = self.target.max_model_len, self.endpoint.watch
        if self.target.kv_tokens is None or watch.kv_usage is None:
            return longest if watch.busy == 0 else longest // CAREFUL
        return max(2, int((FULL - watch.kv_usage) * self.target.kv_tokens))

    async def send(self, name: str, burst: Burst, *, reported: bool = False, **fields: Any) -> Item:
        """Complete unique prompts of a burst's lengths; `fields` are those of a Prompt."""
        if not burst.requests:
            return Item(name=name, requests=0, seconds=0.0, note=burst.note)
        began = time.monotonic()
        prompts = self.prompts(name, burst, **fields)
        replies = await self.endpoint.send(prompts, staggered=burst.staggered)
        if (speed := self.learn(replies, began)) and reported:
            self.speeds[name] = speed
        return self.count(name, replies, began, burst.note)

    def prompts(self, name: str, burst: Burst, **fields: Any) -> list[Prompt]:
        return [
            self.completion(name, self.token_ids(prompt), output, **fields)
            for prompt, output in burst.requests
        ]

    def completion(self, name: str, ids: list[int], output: int, **fields: Any) -> Prompt:
        fields = {"stream": True, "speaks": self.target.speaks, **fields}
        return Prompt.completion(name, ids, output, **fields)

    def token_ids(self, length: int) -> list[int]:
        """Return random token ids; the ends of the vocabulary hold special tokens."""
        low, high = self.target.vocab_size // 20, max(2, self.target.vocab_size // 2)
        return [self.rng.randrange(low, high) for _ in range(max(1, length))]

    def learn(self, replies: list[Reply], began: float) -> Speed | None:
        """Measure the speed of requests sent at once."""
        seconds = time.monotonic() - began
        if speed := measured(replies):
            tokens = sum(reply.prompt_tokens + reply.output_tokens for reply in replies)
            self.tokens_per_second = max(self.tokens_per_second, tokens / seconds)
            reading = 1 / speed.prefill_tokens_per_second
            self.endpoint.throughput.learn(reading, speed.inter_token_seconds)
        return speed

    def count(self, name: str, replies: list[Reply], began: float, note: str | None = None) -> Item:
        seconds = time.monotonic() - began
        read = sum(reply.prompt_tokens for reply in replies)
        written = sum(reply.output_tokens for reply in replies)
        self.prompt_tokens_read += read
        return Item(
            name=name,
            requests=len(replies),
            prompt_tokens=read,
            output_tokens=written,
            seconds=seconds,
            ttft_seconds=max((reply.ttft_seconds for reply in replies), default=None),
            tokens_per_second=(read + written) / seconds,
            note=note,
        )

    async def over_long(self, name: str) -> Item:
        """Send one token more than fits: the server must refuse it, and take no harm."""
        began = time.monotonic()
        burst = Burst(requests=((self.target.max_model_len + 1, 1),))
        (prompt,) = self.prompts(name, burst, stream=False)
        too_long = "a prompt one token too long"
        await self.endpoint.expect_refusal(prompt, too_long, "over_long_accepted")
        return Item(name=name, requests=1, seconds=time.monotonic() - began)

    async def free_bytes(self) -> list[int]:
        """Return the free memory now, nothing where it cannot be told."""
        await self.endpoint.watch.sample()
        free = self.endpoint.watch.free_now
        return [] if free is None else [free]

    async def expect_no_leak(self, after: str) -> None:
        """Wait until nothing runs; blocks of the KV cache that are in use even then have leaked."""
        if self.target.shared:
            return
        tokens = self.target.kv_tokens or self.target.max_model_len
        idle = min(IDLE, (self.abandoned_tokens or tokens) / tokens / 2)
        if judgement.kv_leak(await self.endpoint.settled_kv_usage(idle), idle, after):
            # A gauge may be as old as its engine's last step: have every engine take one.
            await self.endpoint.send(self.prompts("KV cache usage", self.traffic.short_round()))
            raise_if(judgement.kv_leak(await self.endpoint.settled_kv_usage(idle), idle, after))

    async def verify_health(self) -> None:
        """Ask for health and names once more, and compare the server's counters with ours."""
        target = self.target
        for pause in (0, 1, 2):  # a busy host gets a second and a third chance
            await asyncio.sleep(pause)
            if await asyncio.to_thread(is_healthy, target.url, target.headers):
                break
        else:
            raise ProbeFailed(crashed("server_gone", "/health does not answer 200 after the probe"))
        length = await asyncio.to_thread(served_length, target.url, target.model, target.headers)
        if length != target.max_model_len:
            got = f"/v1/models reports a context of {length or 'no'} tokens for {target.model}"
            raise ProbeFailed(degraded("wrong_model", f"{got}, expected {target.max_model_len}"))
        if target.shared:  # its counters are those of others too, perhaps of several servers
            return
        watch = self.endpoint.watch
        await watch.sample()
        raise_if(judgement.counted_too_few(watch.prompt_tokens, self.prompt_tokens_read))
        await self.expect_no_leak("after all requests")
