"""Requests to a running server.

A request returns what came back, or the outcome it stands for. Time is up for it when the
server's own counters stand still, or when it takes far longer than the speed measured allows.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Self, TypeVar

import httpx

from ..outcome import Crashed, FailedOutcome, Hung
from .ask import Ask
from .reply import Answer, Expected, Inspect, Reply, degraded, embedded, parsed, refused
from .target import Patience, Target
from .tempo import Tempo
from .watch import Watch

T = TypeVar("T")

COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"
# The shortest context in which any template leaves room for a chat.
CHAT_TOKENS = 256
# What pooling models are asked through: not each has each.
POOLING = ("/v1/embeddings", "/classify", "/pooling")


async def _metrics(client: httpx.AsyncClient) -> str:
    """Return the text of `/metrics`, nothing where there is none."""
    with suppress(httpx.HTTPError):
        answer = await client.get("/metrics", timeout=10)
        return answer.text if answer.status_code == 200 else ""
    return ""


@dataclass
class Endpoint:
    """A server under test: requests go through it, the watch looks on.

    `diagnosis` says why the server is failing, as soon as anyone knows.
    """

    target: Target
    client: httpx.AsyncClient
    watch: Watch
    patience: Patience
    diagnosis: Callable[[], FailedOutcome | None]
    tempo: Tempo = field(default_factory=Tempo)
    pooling: str = POOLING[0]

    @classmethod
    @asynccontextmanager
    async def of(
        cls,
        target: Target,
        patience: Patience,
        free_bytes: Callable[[], int] | None = None,
        diagnosis: Callable[[], FailedOutcome | None] = lambda: None,
    ) -> AsyncIterator[Self]:
        """Open connections to a server and watch it until the end of the block."""
        async with httpx.AsyncClient(
            base_url=target.url,
            headers=target.headers,
            trust_env=False,  # a proxy would swallow requests to 127.0.0.1
            timeout=httpx.Timeout(None, connect=10),
            # vLLM closes a connection that was idle for 5 s, perhaps as the next request is sent.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
        ) as client:
            watch = Watch(partial(_metrics, client), free_bytes)
            await watch.sample()
            watching = asyncio.create_task(watch.run(patience.every))
            try:
                yield cls(target, client, watch, patience, diagnosis)
            finally:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)

    async def complete(
        self, item: str, asks: Sequence[Ask], *, staggered: bool = False
    ) -> list[Reply] | FailedOutcome:
        """Send all at once; staggered, each when the one before it has its first token."""
        starts = [asyncio.Event() for _ in asks]
        work = [
            self._after(start if staggered else None, item, ask, following)
            for start, ask, following in zip(starts, asks, [*starts[1:], None], strict=True)
        ]
        starts[0].set()
        read, written = sum(len(ask.prompt) for ask in asks), sum(ask.output for ask in asks)
        return await self._waited(item, _together(work), read, written)

    async def chat(
        self,
        item: str,
        content: object,
        output: int,
        *,
        stream: bool = False,
        more: Mapping[str, Any] | None = None,
        fault: Inspect = lambda _: None,
        note: Inspect = lambda _: None,
    ) -> Reply | str | FailedOutcome:
        """Ask through the chat template; a text says why the model cannot chat.

        With `more` fields in its body an answer may end before `output` tokens.
        """
        body = {
            "model": self.target.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": output,
            **({"ignore_eos": True} if more is None else more),
        }
        expected = Expected(
            item=item,
            prompt_tokens=None,
            output_tokens=output if more is None else None,
            speaks=False,
            fault=fault,
            note=note,
        )
        work = self._request(CHAT, body, expected, stream=stream)
        reply = await self._waited(item, work, self.target.max_model_len, output)
        if isinstance(reply, FailedOutcome) and reply.cause == "request_refused":
            if "chat template" in " ".join(reply.evidence):
                return "the model has no chat template"
            if self.target.max_model_len < CHAT_TOKENS:
                return f"a chat may not fit into {self.target.max_model_len} tokens"
        return reply

    async def post(self, item: str, path: str, body: Mapping[str, Any]) -> Reply | FailedOutcome:
        """Send a request of the user's own; any right answer will do."""
        expected = Expected(item=item, prompt_tokens=None, output_tokens=None, speaks=False)
        body = {**body, "model": self.target.model}
        work = self._request(path, body, expected, stream=bool(body.get("stream")))
        longest = self.target.max_model_len
        return await self._waited(item, work, longest, longest)

    async def refusal(self, item: str, prompt: Sequence[int]) -> FailedOutcome | None:
        """Send a prompt that must be refused with HTTP 400."""
        path, body = COMPLETIONS, Ask(prompt=prompt, output=1).body(self.target.model)
        if self.target.pooling:
            path, body = self.pooling, {"model": self.target.model, "input": list(prompt)}
        answer = await self._waited(item, self.client.post(path, json=body), len(prompt))
        if not isinstance(answer, httpx.Response):
            return answer
        if answer.status_code == 400:
            return None
        if answer.status_code >= 500:
            return self._discreet(refused(item, answer.status_code, answer.text))
        got = f"a prompt one token too long got HTTP {answer.status_code}, not 400"
        return self._discreet(degraded("over_long_accepted", got, (answer.text[:300],)))

    async def embed(
        self, item: str, prompts: Sequence[Sequence[int]]
    ) -> list[Reply] | FailedOutcome:
        """Have all prompts embedded (classified, pooled) at once, through `pooling`."""
        work = _together([self._embedded(item, prompt) for prompt in prompts])
        return await self._waited(item, work, sum(map(len, prompts)))

    async def settled(self, idle: float) -> float | None:
        """Wait until less than `idle` of the KV cache is in use; return the share that is."""
        deadline = time.monotonic() + self.patience.still(0.0)
        while True:
            await self.watch.sample()
            usage = self.watch.kv_usage
            if usage is None or usage < idle or time.monotonic() > deadline:
                return usage
            await asyncio.sleep(self.patience.every / 4)

    async def _after(
        self, start: asyncio.Event | None, item: str, ask: Ask, following: asyncio.Event | None
    ) -> Reply | FailedOutcome:
        """Complete a prompt once `start` is set; set `following` at the first token."""
        if start:
            await start.wait()
        try:
            return await self._request(
                COMPLETIONS,
                ask.body(self.target.model),
                ask.expected(item, speaks=self.target.speaks),
                stream=ask.stream,
                begun=following,
                leave_after=ask.leave_after,
            )
        finally:
            if following:
                following.set()

    async def _request(
        self,
        path: str,
        body: Mapping[str, Any],
        expected: Expected,
        *,
        stream: bool,
        begun: asyncio.Event | None = None,
        leave_after: int | None = None,
    ) -> Reply | FailedOutcome:
        answer = Answer(began=time.monotonic())
        if not stream:
            response = await self.client.post(path, json=body)
            if response.status_code != 200:
                return refused(expected.item, response.status_code, response.text)
            answer.times.append(time.monotonic())
            answer.read(parsed(response.text))
            return expected.verdict(answer)
        body = {**body, "stream": True, "stream_options": {"include_usage": True}}
        async with self.client.stream("POST", path, json=body) as response:
            if response.status_code != 200:
                text = (await response.aread()).decode(errors="replace")
                return refused(expected.item, response.status_code, text)
            with suppress(httpx.RemoteProtocolError):  # cut short: no [DONE]
                async for line in response.aiter_lines():
                    answer.read_line(line, time.monotonic())
                    self.watch.moved()
                    if len(answer.times) == 1:
                        self.watch.first_token.set()
                    if begun and answer.times:
                        begun.set()
                    if leave_after is not None and len(answer.times) >= leave_after:
                        return Reply(
                            prompt_tokens=expected.prompt_tokens or 0,
                            output_tokens=len(answer.times),
                            began=answer.began,
                            times=tuple(answer.times),
                        )
        return expected.streamed(answer)

    async def _embedded(self, item: str, prompt: Sequence[int]) -> Reply | FailedOutcome:
        began = time.monotonic()
        body = {"model": self.target.model, "input": list(prompt)}
        response = await self.client.post(self.pooling, json=body)
        if response.status_code != 200:
            return refused(item, response.status_code, response.text)
        return embedded(item, len(prompt), began, time.monotonic(), response.text)

    async def _waited(
        self, item: str, work: Awaitable[T], read: int, written: int = 0
    ) -> T | FailedOutcome:
        """Wait as long as the server's counters move, and no longer than the tokens may take."""
        began = time.monotonic()
        self.watch.moved()
        whole = step = self.tempo.expected(read, written)
        if self.watch.has_counters:
            step = self.tempo.expected(min(read, self.target.max_num_batched_tokens or read), 1)
        still_seconds, whole_seconds = self.patience.still(step), self.patience.whole(whole)
        task = asyncio.ensure_future(work)
        try:
            while not task.done():
                await asyncio.wait([task], timeout=self.patience.every)
                if task.done():
                    break
                now = time.monotonic()
                failed = self.diagnosis()
                if failed is not None:
                    return failed
                if now - self.watch.moved_at > still_seconds:
                    still = f"nothing moved for {now - self.watch.moved_at:.0f} s"
                    return _hung("hung_while_serving", now - began, f"during `{item}` {still}")
                if now - began > whole_seconds:
                    reason = f"`{item}` moved, but had no end in {now - began:.0f} s"
                    return _hung("never_done", now - began, reason)
            return self._discreet(task.result())
        except httpx.HTTPError as error:
            return Crashed(
                cause="server_gone",
                phase="serving",
                reason=f"the connection broke during `{item}`: {type(error).__name__}",
                evidence=(str(error),) if str(error) else (),
            )
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _discreet(self, result: T) -> T:
        """Take the key out of what a server says about it."""
        key = self.target.api_key
        if key and isinstance(result, FailedOutcome):
            evidence = tuple(line.replace(key, "[key]") for line in result.evidence)
            return replace(result, evidence=evidence)
        return result


async def _together(
    work: Sequence[Coroutine[Any, Any, Reply | FailedOutcome]],
) -> list[Reply] | FailedOutcome:
    """Do it all at once, until the first failure."""
    tasks = [asyncio.create_task(each) for each in work]
    replies = []
    try:
        for done in asyncio.as_completed(tasks):
            reply = await done
            if not isinstance(reply, Reply):
                return reply
            replies.append(reply)
        return replies
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _hung(cause: str, seconds: float, reason: str) -> Hung:
    return Hung(cause=cause, phase="serving", seconds=seconds, reason=reason)
