"""The certificate of models that generate."""

import math
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from ..outcome import Degraded, Item
from ..probe.failure import RequestRefused, raise_if
from ..probe.prompt import Prompt, Question
from ..probe.reply import Reply
from . import judgement
from .answers import BY_SCHEMA, TOOL_CALL, not_finite, prompt_logprobs_of
from .items import OWN_REQUESTS, generating_items
from .own_requests import read_requests
from .server_under_test import Send, ServerUnderTest
from .soak import ATTEMPTS, soak
from .traffic import SHORT_OUTPUT, Burst
from .vision import Vision

# Of so many short requests one by one, the fastest counts: other programs slow the others.
ONE_BY_ONE = 3
# So many tokens in turn are a repetition that any draft guesses.
PATTERN = 4
# Tokens that any call of a small tool fits into.
TOOL_CALL_TOKENS = 256
# The shortest context in which any template leaves room for a chat.
CHAT_TOKENS = 256
QUESTION = Question(content="Say something.")


@dataclass
class GeneratingServer(ServerUnderTest):
    """A server of a model that generates; `fastest` is its fastest request, sent alone."""

    fastest: Item = field(init=False)

    def items(self) -> Iterator[tuple[str, Send]]:
        target, probe = self.target, self.workload.probe
        names = generating_items(
            probe,
            shared=target.shared,
            adapters=bool(target.adapters),
            drafts=target.drafts,
            images=target.images,
        )
        return ((name, self.how(name)) for name in names)

    def how(self, item: str) -> Send:
        """Return what sends an item."""
        traffic, send, vision = self.traffic, self.send, Vision(self)
        ways: dict[str, Send] = {
            "one by one": self.one_by_one,
            "full context": lambda name: send(name, traffic.full_context(), reported=True),
            "long prompts at once": self.long_prompts,
            "adapters": self.to_adapters,
            "right and wrong drafts": self.drafted,
            "a session that grows": self.session,
            "log probabilities of a full prompt": self.logprobs,
            "a batch and a bit": lambda name: send(name, traffic.batch_plus(+1)),
            "just under a batch": lambda name: send(name, traffic.batch_plus(-1)),
            "long and short mixed": lambda name: send(name, traffic.mixed_lengths()),
            "many short prompts": self.short_prompts,
            "client that leaves": self.client_that_leaves,
            "over-long prompt": self.over_long,
            "chat": lambda name: self.chat(name, QUESTION),
            "streamed chat": lambda name: self.chat(name, QUESTION, stream=True),
            "image": vision.one,
            "images beside text": vision.beside_text,
            "odd images": vision.odd,
            "an image too many": vision.one_too_many,
            "answer by a schema": lambda name: self.chat(name, BY_SCHEMA, TOOL_CALL_TOKENS),
            "tool call": lambda name: self.chat(name, TOOL_CALL, TOOL_CALL_TOKENS),
            OWN_REQUESTS: self.own_requests,
            "soak": partial(soak, self),
            "one by one again": self.one_by_one_again,
            "the same again and again": self.again,
            "ordinary request": self.ordinary,
        }
        return ways[item]

    async def to_adapters(self, name: str) -> Item:
        """Fill the context with each adapter, then ask all of them at once."""
        began, adapters = time.monotonic(), self.target.adapters
        replies: list[Reply] = []
        full, short = self.traffic.full_context(), self.traffic.one_short()
        for adapter in adapters:
            replies += await self.endpoint.send(self.prompts(name, full, more={"model": adapter}))
        mixed = (self.prompts(name, short, more={"model": adapter}) for adapter in adapters)
        replies += await self.endpoint.send([prompt for (prompt,) in mixed])
        return self.count(name, replies, began, full.note)

    async def drafted(self, name: str) -> Item:
        """Write on after repetitions, which are easy to guess, then after random tokens."""
        began, burst = time.monotonic(), self.traffic.drafted()
        replies: list[Reply] = []
        for random in (False, True):
            prompts = [
                self.completion(
                    name, self.token_ids(length) if random else self.repetition(length), output
                )
                for length, output in burst.requests
            ]
            replies += await self.endpoint.send(prompts)
        return self.count(name, replies, began, burst.note)

    def repetition(self, length: int) -> list[int]:
        pattern = self.token_ids(min(length, PATTERN))
        return (pattern * math.ceil(length / len(pattern)))[:length]

    async def session(self, name: str) -> Item:
        """Grow conversations turn by turn to the full context, each turn behind the ones before."""
        began, session = time.monotonic(), self.traffic.session()
        replies: list[Reply] = []
        talks: list[list[int]] = [[] for _ in range(session.at_once)]
        for length, output in session.turns:
            for talk in talks:
                talk.extend(self.token_ids(length - len(talk)))
            asked = [self.completion(name, list(talk), output) for talk in talks]
            replies += await self.endpoint.send(asked)
        if not replies:
            return Item(name=name, requests=0, seconds=0.0, note=session.note)
        return self.count(name, replies, began, session.note)

    async def one_by_one(self, name: str) -> Item:
        """Warm up, and learn how fast the server is when it has nothing else to do."""
        began = time.monotonic()
        replies = await self.endpoint.send(self.prompts(name, self.traffic.one_short()))
        self.learn(replies, began)
        self.fastest = await self.timed(name, replies)
        return self.count(name, replies, began)

    async def one_by_one_again(self, name: str) -> Item:
        """Repeat the first item, to see whether it takes longer now."""
        began = time.monotonic()
        replies: list[Reply] = []
        await self.expect_speed(lambda: self.timed(name, replies), self.slower)
        return self.count(name, replies, began)

    async def timed(self, name: str, replies: list[Reply]) -> Item:
        """Send short requests one after the other, add their replies, and return the fastest."""
        fastest = math.inf
        for _ in range(ONE_BY_ONE):
            began = time.monotonic()
            replies += await self.endpoint.send(self.prompts(name, self.traffic.one_short()))
            fastest = min(fastest, time.monotonic() - began)
        return Item(name=name, requests=1, seconds=fastest)

    async def long_prompts(self, name: str) -> Item:
        burst = self.traffic.long_prompts()

        def slower(check: Item) -> Degraded | None:
            if not check.requests or not self.target.spilled:
                return None
            alone, *_, together = self.speeds.values()
            return judgement.read_slower(alone, together)

        return await self.expect_speed(lambda: self.send(name, burst, reported=True), slower)

    async def short_prompts(self, name: str) -> Item:
        burst = self.traffic.short_prompts()
        return await self.expect_speed(lambda: self.send(name, burst, reported=True), self.slower)

    async def expect_speed(
        self, send: Callable[[], Awaitable[Item]], slower: Callable[[Item], Degraded | None]
    ) -> Item:
        """Return what was sent; what seems far slower than before is sent again."""
        for _ in range(ATTEMPTS):
            check = await send()
            failed = slower(check)
            if failed is None:
                break
        raise_if(failed)
        return check

    def slower(self, after: Item, before: Item | None = None) -> Degraded | None:
        """Return the failure of a server that became far slower, if its memory may be spilled."""
        return judgement.collapse(before or self.fastest, after) if self.target.spilled else None

    async def logprobs(self, name: str) -> Item:
        """Ask for the log probability of every token of a prompt, a late but classic death."""
        tokens = self.traffic.full_context().tokens - 1
        burst, fault = Burst(requests=((tokens, 1),)), prompt_logprobs_of(tokens)
        return await self.send(name, burst, more={"prompt_logprobs": 1}, fault=fault, stream=False)

    async def client_that_leaves(self, name: str) -> Item:
        """Disconnect in the middle of a stream; the KV cache of the request must be freed."""
        began = time.monotonic()
        burst = self.traffic.abandoned()
        self.abandoned_tokens = burst.tokens
        replies = await self.endpoint.send(self.prompts(name, burst, leave_after=2))
        replies += await self.endpoint.send(self.prompts(name, self.traffic.one_short()))
        check = self.count(name, replies, began)
        await self.expect_no_leak("after a client left in the middle of a stream")
        return check

    async def chat(
        self, name: str, question: Question, tokens: int = SHORT_OUTPUT, *, stream: bool = False
    ) -> Item:
        """Ask through the chat template; a model without one is not asked."""
        began = time.monotonic()
        longest = self.target.max_model_len
        prompt = Prompt.chat(name, question, max(1, min(tokens, longest // 4)), stream=stream)
        try:
            (reply,) = await self.endpoint.send([prompt])
        except RequestRefused as refused:
            if "chat template" in " ".join(refused.outcome.evidence):
                note = "the model has no chat template"
            elif longest < CHAT_TOKENS:
                note = f"a chat may not fit into {longest} tokens"
            else:
                raise
            return Item(name=name, requests=0, seconds=0.0, note=note)
        return self.count(name, [reply], began, reply.note)

    async def own_requests(self, name: str) -> Item:
        began = time.monotonic()
        replies = []
        for prompt in read_requests(self.workload.probe.file or ""):
            replies += await self.endpoint.send([prompt])
        return self.count(name, replies, began)

    async def again(self, name: str) -> Item:
        """Repeat the same requests until the free memory stops falling."""
        began = time.monotonic()
        replies: list[Reply] = []
        free = await self.free_bytes()
        while True:
            replies += await self.endpoint.send(self.prompts(name, self.traffic.short_round()))
            free += await self.free_bytes()
            raise_if(judgement.memory_creep(free))
            if not judgement.falling(free):
                return self.count(name, replies, began)

    async def ordinary(self, name: str) -> Item:
        """Send one more ordinary request, without a stream, and look at its logits."""
        send = partial(self.send, name, self.traffic.one_short(), stream=False)
        with suppress(RequestRefused):  # a server may be told to give no log probabilities away
            return await send(more={"logprobs": 1}, fault=not_finite)
        return await send()
