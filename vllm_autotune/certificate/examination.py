"""The items of the certificate, one by one.

Prompts are token ids, random and unique, so that lengths are exact and the prefix cache can
hide no work.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

from ..config import Workload
from ..outcome import Check, Crashed, FailedOutcome, Speed
from ..probe import Ask, Endpoint, Reply, Target, is_healthy, served_length
from ..probe.reply import degraded
from . import extras, judgement
from .figures import measured
from .judgement import Pace
from .load import SHORT_OUTPUT, Load, Loads

Item = Callable[[str], Awaitable[Check | FailedOutcome]]

# Of so many short requests one by one, the fastest counts: what else runs here slows the others.
ONE_BY_ONE = 3
# A client leaves with so much of the KV cache in use that its blocks would be missed.
LEAVER = 8
# More of it in use, when nothing runs, is a leak.
IDLE = 0.01
QUESTION = "Say something."


@dataclass
class Examination:
    """One certificate in the making."""

    target: Target
    workload: Workload
    endpoint: Endpoint
    say: Callable[[str], None] = lambda _: None
    speeds: list[Speed] = field(default_factory=list)
    requests: int = 0
    prompt_tokens_read: int = 0
    tokens_per_second: float = 0.0
    pace: Pace | None = None
    dice: random.Random = field(default_factory=random.Random)

    def items(self) -> Iterator[tuple[str, Item]]:
        """Yield the items, the one most likely to kill as early as can be."""
        trying = self.workload.trying
        thorough = trying.effort != "quick"
        yield "one by one", self.one_by_one
        yield "full context", self.full_context
        if thorough or not self.target.shared:
            yield "long prompts at once", self.long_prompts
        if trying.logprobs:
            yield "log probabilities of a full prompt", self.logprobs
        if thorough and not self.target.shared:
            yield "a batch and a bit", self.over_a_batch
            yield "just under a batch", self.under_a_batch
            yield "long and short mixed", self.mixed
        yield "many short prompts", self.short_prompts
        yield "client that leaves", self.leaver
        yield "over-long prompt", self.over_long
        if thorough:
            yield "chat", self.chat
        yield "streamed chat", self.streamed_chat
        if trying.image:
            yield "image", self.image
        if trying.file:
            yield "your requests", self.own_requests
        if trying.effort == "soak":
            yield "soak", self.soak
        yield "one by one again", self.one_by_one_again
        if not self.target.shared:
            yield "the same again and again", self.again
        yield "ordinary request", self.ordinary

    async def one_by_one(self, name: str) -> Check | FailedOutcome:
        """Warm up, and learn how fast the server is when it has nothing else to do."""
        began = time.monotonic()
        first = await self.endpoint.complete(name, self.asks(self.loads.first()))
        if not isinstance(first, list):
            return first
        self.learn(first, time.monotonic() - began, figures=False)
        timed = await self.timed(name)
        if not isinstance(timed, tuple):
            return timed
        self.pace, replies = timed
        return self.check(name, [*first, *replies], began)

    async def one_by_one_again(self, name: str) -> Check | FailedOutcome:
        """Repeat what came first, to see whether it takes longer now."""
        began = time.monotonic()
        timed = await self.timed(name)
        if not isinstance(timed, tuple):
            return timed
        slower = self.pace and not self.target.shared and judgement.collapse(self.pace, timed[0])
        return slower or self.check(name, timed[1], began)

    async def timed(self, name: str) -> tuple[Pace, list[Reply]] | FailedOutcome:
        replies: list[Reply] = []
        best = float("inf")
        for _ in range(ONE_BY_ONE):
            began = time.monotonic()
            reply = await self.endpoint.complete(name, self.asks(self.loads.first()))
            if not isinstance(reply, list):
                return reply
            replies += reply
            best = min(best, time.monotonic() - began)
        return Pace(name=name, requests=1, seconds=best), replies

    async def full_context(self, name: str) -> Check | FailedOutcome:
        return await self.sent(name, self.loads.full(), figures=True)

    async def long_prompts(self, name: str) -> Check | FailedOutcome:
        """Fill the KV cache with unique prompts, at the wanted concurrency or more."""
        result = await self.sent(name, self.loads.long(), figures=True)
        if isinstance(result, Check) and len(self.speeds) == 2:
            return judgement.read_slower(*self.speeds) or result
        return result

    async def logprobs(self, name: str) -> Check | FailedOutcome:
        """Ask for the log probability of every token of a prompt: a classic late end."""
        prompt = self.prompt(self.target.max_model_len - 1)
        ask = Ask(prompt=prompt, output=1, more={"prompt_logprobs": 1}, stream=False)
        return await self.completed(name, [ask])

    async def over_a_batch(self, name: str) -> Check | FailedOutcome:
        return await self.sent(name, self.loads.batch(+1))

    async def under_a_batch(self, name: str) -> Check | FailedOutcome:
        return await self.sent(name, self.loads.batch(-1))

    async def mixed(self, name: str) -> Check | FailedOutcome:
        """Send long and short requests, each while those before it are being answered."""
        return await self.sent(name, self.loads.mixed(), staggered=True)

    async def short_prompts(self, name: str) -> Check | FailedOutcome:
        began = time.monotonic()
        load = self.loads.short()
        result = await self.sent(name, load, figures=True)
        if not isinstance(result, Check) or self.pace is None or self.target.shared:
            return result
        now = Pace(name=name, requests=len(load.requests), seconds=time.monotonic() - began)
        return judgement.collapse(self.pace, now) or result

    async def leaver(self, name: str) -> Check | FailedOutcome:
        """Disconnect in the middle of a stream; what it held must come back."""
        began = time.monotonic()
        length = self.leaver_tokens
        output = min(16 * SHORT_OUTPUT, max(1, length // 2))
        ask = Ask(prompt=self.prompt(length - output), output=output, leave_after=2)
        gone = await self.endpoint.complete(name, [ask])
        if not isinstance(gone, list):
            return gone
        after = await self.endpoint.complete(name, self.asks(self.loads.first()))
        if not isinstance(after, list):
            return after
        check = self.check(name, [*gone, *after], began)
        return await self.leak("after a client left in the middle of a stream") or check

    async def over_long(self, name: str) -> Check | FailedOutcome:
        """Send one token more than fits: the server must refuse it, and harm nothing."""
        began = time.monotonic()
        accepted = await self.endpoint.refusal(name, self.prompt(self.loads.over_long()))
        return accepted or Check(name=name, requests=1, seconds=time.monotonic() - began)

    async def chat(self, name: str) -> Check | FailedOutcome:
        return await self.asked(name, QUESTION, stream=False)

    async def streamed_chat(self, name: str) -> Check | FailedOutcome:
        return await self.asked(name, QUESTION, stream=True)

    async def image(self, name: str) -> Check | FailedOutcome:
        return await self.asked(name, extras.picture(self.dice), stream=False)

    async def own_requests(self, name: str) -> Check | FailedOutcome:
        """Send the user's own requests, one after the other."""
        began = time.monotonic()
        replies = []
        for own in extras.read_requests(self.workload.trying.file or ""):
            reply = await self.endpoint.post(f"{name}, line {own.line}", own.path, own.body)
            if not isinstance(reply, Reply):
                return reply
            replies.append(reply)
        return self.check(name, replies, began)

    async def soak(self, name: str) -> Check | FailedOutcome:
        """Repeat the mixed load for minutes, and watch memory, KV cache and speed."""
        began = time.monotonic()
        seconds = 60 * self.workload.trying.soak_minutes
        replies: list[Reply] = []
        lows = await self.lows([])
        fastest: Pace | None = None
        while (left := began + seconds - time.monotonic()) > 0:
            self.say(f"{name}, {left / 60:.0f} min to go")
            lap_began = time.monotonic()
            while time.monotonic() < min(lap_began + seconds / 16, began + seconds):
                lap = await self.endpoint.complete(
                    name, self.asks(self.loads.mixed()), staggered=True
                )
                if not isinstance(lap, list):
                    return lap
                took = time.monotonic() - max(lap_began, min(reply.began for reply in lap))
                pace = Pace(name="soak", requests=len(lap), seconds=took)
                slower = fastest and judgement.collapse(fastest, pace)
                if slower:
                    return slower
                if fastest is None or took < fastest.seconds:
                    fastest = pace
                replies += lap
            lows = await self.lows(lows)
            ailing = judgement.memory_creep(lows) or await self.leak("between two rounds")
            if ailing:
                return ailing
        return self.check(name, replies, began)

    async def again(self, name: str) -> Check | FailedOutcome:
        """Repeat the same requests until memory has found its floor."""
        began = time.monotonic()
        replies: list[Reply] = []
        lows = await self.lows([])
        while True:
            few = Load(requests=self.loads.first().requests * LEAVER)
            round_of = await self.endpoint.complete(name, self.asks(few))
            if not isinstance(round_of, list):
                return round_of
            replies += round_of
            lows = await self.lows(lows)
            creeping = judgement.memory_creep(lows)
            if creeping:
                return creeping
            if not judgement.falling(lows):
                return self.check(name, replies, began)

    async def ordinary(self, name: str) -> Check | FailedOutcome:
        asks = self.asks(self.loads.first(), stream=False)
        return await self.completed(name, asks)

    @property
    def loads(self) -> Loads:
        speed = self.tokens_per_second or float("inf")
        return Loads(target=self.target, workload=self.workload, tokens_per_second=speed)

    async def asked(self, name: str, content: object, *, stream: bool) -> Check | FailedOutcome:
        """Ask through the chat template; a model without one is not asked."""
        began = time.monotonic()
        output = max(1, min(SHORT_OUTPUT, self.target.max_model_len // 4))
        reply = await self.endpoint.chat(name, content, output, stream=stream)
        if isinstance(reply, str):
            return Check(name=name, requests=0, seconds=0.0, note=reply)
        return self.check(name, [reply], began) if isinstance(reply, Reply) else reply

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
        self.endpoint.learn(1 / speed.prefill_tokens_per_second, speed.inter_token_seconds)

    def asks(self, load: Load, *, stream: bool = True) -> list[Ask]:
        return [
            Ask(prompt=self.prompt(prompt), output=output, stream=stream)
            for prompt, output in load.requests
        ]

    def check(
        self, name: str, replies: list[Reply], began: float, note: str | None = None
    ) -> Check:
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
            ttft_seconds=max((reply.ttft_seconds for reply in replies), default=None),
            tokens_per_second=(read + written) / seconds,
            note=note,
        )

    def prompt(self, length: int) -> list[int]:
        """Return random token ids; the ends of the vocabulary hold special tokens."""
        low, high = self.target.vocab_size // 20, max(2, self.target.vocab_size // 2)
        return [self.dice.randrange(low, high) for _ in range(max(1, length))]

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
        idle = min(IDLE, self.leaver_tokens / tokens / 2)
        return judgement.kv_leak(await self.endpoint.settled(idle), idle, after)

    @property
    def leaver_tokens(self) -> int:
        longest = self.target.max_model_len
        return min(longest, max(2, (self.target.kv_tokens or longest) // LEAVER))

    async def vital_signs(self) -> FailedOutcome | None:
        """Ask for health and names once more, and compare the server's counters with ours."""
        target = self.target
        if not await asyncio.to_thread(is_healthy, target.url, target.headers):
            reason = "after the probe /health does not answer 200"
            return Crashed(cause="server_gone", phase="serving", reason=reason)
        promised = await asyncio.to_thread(
            served_length, target.url, target.model, target.headers
        )
        if promised != target.max_model_len:
            reason = (
                f"/v1/models promises {promised} tokens for {target.model}, "
                f"not {target.max_model_len}"
            )
            return degraded("wrong_model", reason)
        watch = self.endpoint.watch
        await watch.sample()
        counted = judgement.counted_too_few(watch.prompt_tokens, self.prompt_tokens_read)
        if counted or target.shared:
            return counted
        storm = judgement.preemption_storm(watch.preemptions, self.requests)
        return storm or await self.leak("after all requests")
