"""Requests to a running server: each returns what came back, or raises ProbeFailed.

It is given up when the server's own counters stand still, or when it takes far longer than the
speed measured allows.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self, TypeVar

import httpx

from ..outcome import FailedOutcome, Hung
from .failure import ProbeFailed, crashed, degraded, raise_if, refused
from .prompt import Prompt
from .reply import Answer, Reply
from .target import Patience, Target, Throughput
from .watch import Watch

T = TypeVar("T")


async def _metrics(client: httpx.AsyncClient) -> str:
    with suppress(httpx.HTTPError):
        answer = await client.get("/metrics", timeout=10)
        return answer.text if answer.status_code == 200 else ""
    return ""


@dataclass
class Endpoint:
    """Sends requests to a server under test, and watches it meanwhile.

    `diagnosis` says why the server is failing, as soon as anyone knows.
    """

    target: Target
    client: httpx.AsyncClient
    watch: Watch
    patience: Patience
    diagnosis: Callable[[], FailedOutcome | None]
    throughput: Throughput = field(default_factory=Throughput)

    @classmethod
    @asynccontextmanager
    async def of(
        cls,
        target: Target,
        patience: Patience,
        free_bytes: Callable[[], int] | None,
        diagnosis: Callable[[], FailedOutcome | None],
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
            watching = asyncio.create_task(watch.run(patience.poll_seconds))
            try:
                yield cls(target, client, watch, patience, diagnosis)
            finally:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)

    async def send(self, prompts: Sequence[Prompt], *, staggered: bool = False) -> list[Reply]:
        """Send all at once; staggered, each when the one before it has its first token."""
        turns = [asyncio.Event() for _ in prompts]
        for turn in turns[: 1 if staggered else None]:
            turn.set()
        work = _together(map(self._send, prompts, turns, [*turns[1:], asyncio.Event()]))
        return await self._watched(prompts, work)

    async def expect_refusal(self, prompt: Prompt, what: str, cause: str) -> None:
        """Send a prompt that must get HTTP 400, else the server is degraded; `what` names it."""
        work = self.client.post(prompt.path, json=prompt.sent(self.target.model))
        answer = await self._watched([prompt], work)
        if answer.status_code >= 500:
            raise refused(prompt.item, answer.status_code, answer.text)
        if answer.status_code != 400:
            got = f"{what} got HTTP {answer.status_code}, not 400"
            raise ProbeFailed(degraded(cause, got, (answer.text[:300],)))

    async def settled_kv_usage(self, idle: float) -> float | None:
        """Wait until less than `idle` of the KV cache is in use; return the share that is."""
        deadline = time.monotonic() + self.patience.stall_seconds(0.0)
        while True:
            await self.watch.sample()
            usage = self.watch.kv_usage
            if usage is None or usage < idle or time.monotonic() > deadline:
                return usage
            await asyncio.sleep(self.patience.poll_seconds / 4)

    async def _send(self, prompt: Prompt, turn: asyncio.Event, following: asyncio.Event) -> Reply:
        """Send a prompt at its turn; the following turn begins with the first token."""
        await turn.wait()
        answer, body = Answer(began=time.monotonic()), prompt.sent(self.target.model)
        try:
            async with self.client.stream("POST", prompt.path, json=body) as response:
                if prompt.stream and response.status_code == 200:
                    await self._read_stream(response, prompt, answer, following)
                else:
                    await response.aread()
                    if response.status_code != 200:
                        raise refused(prompt.item, response.status_code, response.text)
                    answer.read_whole(response.text, time.monotonic())
            return prompt.reply(answer)
        finally:
            following.set()

    async def _read_stream(
        self, response: httpx.Response, prompt: Prompt, answer: Answer, first_token: asyncio.Event
    ) -> None:
        with suppress(httpx.RemoteProtocolError):  # cut short: no [DONE]
            async for line in response.aiter_lines():
                answer.read_line(line, time.monotonic())
                self.watch.moved()
                if len(answer.times) == 1:
                    self.watch.first_token.set()
                    first_token.set()
                if len(answer.times) >= prompt.leave_after:
                    return

    async def _watched(self, prompts: Sequence[Prompt], work: Awaitable[T]) -> T:
        """Wait as long as the server's counters move, and no longer than the tokens may take."""
        longest, item = self.target.max_model_len, prompts[0].item
        read = sum(longest if p.prompt_tokens is None else p.prompt_tokens for p in prompts)
        written = sum(longest if p.output_tokens is None else p.output_tokens for p in prompts)
        began = time.monotonic()
        self.watch.moved()
        whole = step = self.throughput.seconds(read, written)
        if self.watch.has_counters:
            step = self.throughput.seconds(min(read, self.target.max_num_batched_tokens or read), 1)
        stall_seconds = self.patience.stall_seconds(step)
        finish_seconds = self.patience.finish_seconds(whole)
        task = asyncio.ensure_future(work)
        try:
            while not task.done():
                await asyncio.wait([task], timeout=self.patience.poll_seconds)
                if task.done():
                    break
                now = time.monotonic()
                raise_if(self.diagnosis())
                if now - self.watch.moved_at > stall_seconds:
                    reason = f"`{item}` made no progress for {now - self.watch.moved_at:.0f} s"
                    raise _hung("hung_while_serving", now - began, reason)
                if now - began > finish_seconds:
                    reason = f"`{item}` made progress but did not finish in {now - began:.0f} s"
                    raise _hung("never_done", now - began, reason)
            return task.result()
        except httpx.HTTPError as error:
            reason = f"the connection broke during `{item}`: {type(error).__name__}"
            evidence = (str(error),) if str(error) else ()
            raise ProbeFailed(crashed("server_gone", reason, evidence)) from error
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def _together(work: Iterable[Coroutine[Any, Any, Reply]]) -> list[Reply]:
    """Do it all at once, until the first failure."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each) for each in work]
    except ExceptionGroup as failures:  # the later ones are of what the first one cancelled
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


def _hung(cause: str, seconds: float, reason: str) -> ProbeFailed:
    return ProbeFailed(Hung(cause=cause, phase="serving", seconds=seconds, reason=reason))
