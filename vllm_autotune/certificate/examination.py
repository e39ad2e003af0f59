"""The items of the certificate, one by one."""

import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace

from ..outcome import Check, FailedOutcome
from ..probe import Ask, Reply
from . import extras, judgement
from .examiner import Examiner
from .judgement import Pace
from .load import SHORT_OUTPUT
from .special import BY_SCHEMA, TOOL_CALL, Special, no_numbers, prompt_logprobs_of

Item = Callable[[str], Awaitable[Check | FailedOutcome]]

# Of so many short requests one by one, the fastest counts: what else runs here slows the others.
ONE_BY_ONE = 3
# What seems far slower is tried again: a moment's trouble elsewhere is no collapse.
SURE = 3
# A soak looks at memory and the KV cache so many times.
ROUNDS = 16
QUESTION = "Say something."
# Tokens that any call of a small tool fits into.
ENOUGH = 256


@dataclass
class Examination(Examiner):
    """The certificate of a model that generates."""

    pace: Pace | None = None

    def items(self) -> Iterator[tuple[str, Item]]:
        """Yield the items, the one most likely to kill as early as can be."""
        probe = self.workload.probe
        thorough = probe.effort != "quick"
        yield "one by one", self.one_by_one
        yield "full context", self.full_context
        if not self.target.shared:
            yield "long prompts at once", self.long_prompts
        if self.target.adapter:
            yield "adapter", self.adapter
        if probe.logprobs:
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
        if probe.image:
            yield "image", self.image
        if probe.schema:
            yield "answer by a schema", self.by_schema
        if probe.tool:
            yield "tool call", self.tool_call
        if probe.file:
            yield "your requests", self.own_requests
        if probe.effort == "soak":
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
        replies: list[Reply] = []
        slower: FailedOutcome | None = None
        for _ in range(SURE):
            timed = await self.timed(name)
            if not isinstance(timed, tuple):
                return timed
            replies += timed[1]
            slower = self.slower(timed[0])
            if slower is None:
                return self.check(name, replies, began)
        assert slower is not None
        return slower

    async def timed(self, name: str) -> tuple[Pace, list[Reply]] | FailedOutcome:
        """Send short requests one after the other; return the fastest, and all replies."""
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
        """Send one request of exactly the context."""
        return await self.sent(name, self.loads.full(), figures=True)

    async def long_prompts(self, name: str) -> Check | FailedOutcome:
        """Fill the KV cache with unique prompts, at the wanted concurrency or more."""
        load, slower = self.loads.long(), None
        for _ in range(SURE):
            result = await self.sent(name, load, figures=True)
            if not isinstance(result, Check) or not result.requests or not self.target.spilled:
                return result
            slower = judgement.read_slower(self.speeds[0], self.speeds[-1])
            if slower is None:
                return result
            self.speeds.pop()
        assert slower is not None
        return slower

    async def adapter(self, name: str) -> Check | FailedOutcome:
        """Send one request of exactly the context to an adapter."""
        asks = self.asks(self.loads.full())
        more = {"model": self.target.adapter}
        return await self.completed(name, [replace(ask, more=more) for ask in asks])

    async def logprobs(self, name: str) -> Check | FailedOutcome:
        """Ask for the log probability of every token of a prompt: a classic late end."""
        prompt = self.prompt(self.loads.full().tokens - 1)
        ask = Ask(
            prompt=prompt,
            output=1,
            more={"prompt_logprobs": 1},
            fault=prompt_logprobs_of(len(prompt)),
            stream=False,
        )
        return await self.completed(name, [ask])

    async def over_a_batch(self, name: str) -> Check | FailedOutcome:
        """Send one token more than the engine takes in a step."""
        return await self.sent(name, self.loads.batch(+1))

    async def under_a_batch(self, name: str) -> Check | FailedOutcome:
        """Send one token less than the engine takes in a step."""
        return await self.sent(name, self.loads.batch(-1))

    async def mixed(self, name: str) -> Check | FailedOutcome:
        """Send long and short requests, each while those before it are being answered."""
        return await self.sent(name, self.loads.mixed(), staggered=True)

    async def short_prompts(self, name: str) -> Check | FailedOutcome:
        """Send as many short requests as the server runs at once."""
        load, slower = self.loads.short(), None
        for _ in range(SURE):
            result = await self.sent(name, load, figures=True)
            if not isinstance(result, Check):
                return result
            slower = self.slower(Pace(name=name, requests=result.requests, seconds=result.seconds))
            if slower is None:
                return result
            self.speeds.pop()
        assert slower is not None
        return slower

    def slower(self, pace: Pace, than: Pace | None = None) -> FailedOutcome | None:
        """Return the failure of a server that became far slower, as if its memory was spilled."""
        before = than or self.pace
        if before is None or not self.target.spilled:
            return None
        return judgement.collapse(before, pace)

    async def leaver(self, name: str) -> Check | FailedOutcome:
        """Disconnect in the middle of a stream; what it held must come back."""
        began = time.monotonic()
        load = self.loads.leaver()
        self.missed = load.tokens
        asks = [replace(ask, leave_after=2) for ask in self.asks(load)]
        gone = await self.endpoint.complete(name, asks)
        if not isinstance(gone, list):
            return gone
        after = await self.endpoint.complete(name, self.asks(self.loads.first()))
        if not isinstance(after, list):
            return after
        check = self.check(name, [*gone, *after], began)
        return await self.leak("after a client left in the middle of a stream") or check

    async def chat(self, name: str) -> Check | FailedOutcome:
        """Ask through the chat template."""
        return await self.asked(name, QUESTION, stream=False)

    async def streamed_chat(self, name: str) -> Check | FailedOutcome:
        """Ask through the chat template, and have the answer streamed."""
        return await self.asked(name, QUESTION, stream=True)

    async def image(self, name: str) -> Check | FailedOutcome:
        """Ask about an image."""
        return await self.asked(name, extras.picture(self.dice), stream=False)

    async def by_schema(self, name: str) -> Check | FailedOutcome:
        """Have an answer kept to a JSON Schema."""
        return await self.special(name, BY_SCHEMA)

    async def tool_call(self, name: str) -> Check | FailedOutcome:
        """Have a tool called."""
        return await self.special(name, TOOL_CALL)

    async def special(self, name: str, special: Special) -> Check | FailedOutcome:
        """Ask for an answer that must be more than tokens."""
        began = time.monotonic()
        output = max(1, min(ENOUGH, self.target.max_model_len // 4))
        reply = await self.endpoint.chat(
            name,
            special.question,
            output,
            more=special.more,
            fault=special.fault,
            note=special.note,
        )
        return self.talked(name, reply, began)

    async def own_requests(self, name: str) -> Check | FailedOutcome:
        """Send the user's own requests, one after the other."""
        began = time.monotonic()
        replies = []
        for own in extras.read_requests(self.workload.probe.file or ""):
            reply = await self.endpoint.post(f"{name}, line {own.line}", own.path, own.body)
            if not isinstance(reply, Reply):
                return reply
            replies.append(reply)
        return self.check(name, replies, began)

    async def soak(self, name: str) -> Check | FailedOutcome:
        """Repeat the mixed load for minutes, and watch memory, KV cache and speed."""
        began = time.monotonic()
        seconds = 60 * self.workload.probe.soak_minutes
        replies: list[Reply] = []
        lows = await self.lows([])
        fastest, slow_laps = 0.0, 0
        while (left := began + seconds - time.monotonic()) > 0:
            self.say(f"{name}, {left / 60:.0f} min to go")
            lap_began = time.monotonic()
            while time.monotonic() < min(lap_began + seconds / ROUNDS, began + seconds):
                lap = await self.endpoint.complete(
                    name, self.asks(self.loads.mixed()), staggered=True
                )
                if not isinstance(lap, list):
                    return lap
                took = time.monotonic() - min(reply.began for reply in lap)
                fastest = min(fastest or took, took)
                best = Pace(name=name, requests=len(lap), seconds=fastest)
                slower = self.slower(replace(best, seconds=took), best)
                slow_laps = slow_laps + 1 if slower else 0
                if slower and slow_laps >= SURE:
                    return slower
                replies += [replace(reply, times=reply.times[:1]) for reply in lap]
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
            round_of = await self.endpoint.complete(name, self.asks(self.few))
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
        """Send one more ordinary request, without a stream, and look at its logits.

        A server may be told to give no log probabilities away.
        """
        asks = self.asks(self.loads.first(), stream=False)
        more = {"logprobs": 1}
        result = await self.completed(
            name, [replace(ask, more=more, fault=no_numbers) for ask in asks]
        )
        if isinstance(result, FailedOutcome) and result.cause == "request_refused":
            return await self.completed(name, asks)
        return result

    async def asked(self, name: str, content: object, *, stream: bool) -> Check | FailedOutcome:
        """Ask through the chat template; a model without one is not asked."""
        began = time.monotonic()
        output = max(1, min(SHORT_OUTPUT, self.target.max_model_len // 4))
        reply = await self.endpoint.chat(name, content, output, stream=stream)
        return self.talked(name, reply, began)

    def talked(
        self, name: str, reply: Reply | str | FailedOutcome, began: float
    ) -> Check | FailedOutcome:
        """Count a chat, or say why there was none."""
        if isinstance(reply, str):
            return Check(name=name, requests=0, seconds=0.0, note=reply)
        if isinstance(reply, Reply):
            return self.check(name, [reply], began, reply.note)
        return reply
