"""Requests to a running server. The only module that knows HTTP.

A request returns what came back, or the outcome it stands for. There are no time-outs but one:
a server whose own counters stand still is hung.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import httpx

from .outcome import Crashed, Degraded, FailedOutcome, Hung
from .watch import Watch

T = TypeVar("T")

# Fewer tokens than this may be one half of a letter, and no text.
TELLING_TOKENS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a server's counters may stand still before it counts as hung.

    `factor` times what one short request took, but between `least` and `most` seconds: a CPU may
    compute minutes on one batch. They are looked at every `every` seconds.
    """

    factor: float = 50.0
    least: float = 60.0
    most: float = 600.0
    every: float = 1.0

    def after(self, seconds: float) -> float:
        """Return the seconds to wait, after one short request took `seconds`."""
        return min(self.most, max(self.least, self.factor * seconds))


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A running server: `model` is the name it must serve, lengths are in tokens.

    With dummy weights it need not `speak`: their tokens may stand for no text.
    """

    url: str
    model: str
    max_model_len: int
    max_num_seqs: int
    vocab_size: int
    kv_tokens: int | None = None
    speaks: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came back for one request that was answered right."""

    prompt_tokens: int
    output_tokens: int
    ttft_seconds: float


async def _metrics(client: httpx.AsyncClient) -> str:
    """Return the text of `/metrics`, nothing where there is none."""
    with suppress(httpx.HTTPError):
        answer = await client.get("/metrics", timeout=10)
        return answer.text if answer.status_code == 200 else ""
    return ""


def is_healthy(url: str) -> bool:
    """Tell whether `/health` answers 200 within two seconds."""
    try:
        with httpx.Client(trust_env=False, timeout=2) as client:
            return client.get(f"{url}/health").status_code == 200
    except httpx.HTTPError:
        return False


def served_length(url: str, model: str) -> int | None:
    """Return the context in tokens that `/v1/models` promises for `model`, None if it has none."""
    try:
        with httpx.Client(trust_env=False, timeout=10) as client:
            cards = client.get(f"{url}/v1/models").json()["data"]
    except (httpx.HTTPError, ValueError, KeyError):
        return None
    lengths = [c.get("max_model_len") for c in cards if c.get("id") == model]
    return int(lengths[0]) if lengths and lengths[0] else None


@dataclass
class Endpoint:
    """A server under test: requests go through it, the watch looks on."""

    target: Target
    client: httpx.AsyncClient
    watch: Watch
    patience: Patience
    still_seconds: float

    @classmethod
    @asynccontextmanager
    async def of(
        cls, target: Target, patience: Patience, free_bytes: Callable[[], int] | None
    ) -> AsyncIterator["Endpoint"]:
        """Open connections to a server and watch it until the end of the block."""
        async with httpx.AsyncClient(
            base_url=target.url,
            trust_env=False,  # a proxy would swallow requests to 127.0.0.1
            timeout=httpx.Timeout(None, connect=10),
            limits=httpx.Limits(max_connections=None),
        ) as client:
            watch = Watch(partial(_metrics, client), free_bytes)
            await watch.sample()
            watching = asyncio.create_task(watch.run(patience.every))
            try:
                yield cls(target, client, watch, patience, patience.most)
            finally:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)

    def expect_speed(self, seconds: float) -> None:
        """Judge a stand-still by what one short request took."""
        self.still_seconds = self.patience.after(seconds)

    async def complete(
        self, item: str, prompts: Sequence[list[int]], output: int, *, stream: bool = True
    ) -> list[Reply] | FailedOutcome:
        """Complete all prompts at once; each must bring exactly `output` tokens."""
        ask = self._streamed if stream else self._whole
        everyone = asyncio.gather(*(ask(item, prompt, output) for prompt in prompts))
        replies = await self._waited(item, everyone)
        if not isinstance(replies, list):
            return replies
        failed = [reply for reply in replies if not isinstance(reply, Reply)]
        return failed[0] if failed else [reply for reply in replies if isinstance(reply, Reply)]

    async def chat(self, item: str, output: int) -> Reply | str | FailedOutcome:
        """Ask through the chat template; a text says why the model cannot chat."""
        began = time.monotonic()
        question = [{"role": "user", "content": "Say something."}]
        body = {"model": self.target.model, "messages": question, "max_tokens": output}
        sent = self.client.post("/v1/chat/completions", json=body | {"ignore_eos": True})
        answer = await self._waited(item, sent)
        if not isinstance(answer, httpx.Response):
            return answer
        if answer.status_code == 400 and "chat template" in answer.text:
            return "the model has no chat template"
        if answer.status_code != 200:
            return _refused(item, answer.status_code, answer.text)
        usage = _usage(answer.text)
        return _checked(item, {"completion_tokens": output}, usage, time.monotonic() - began)

    async def refusal(self, item: str, prompt: list[int]) -> FailedOutcome | None:
        """Send a prompt that must be refused with HTTP 400."""
        sent = self.client.post("/v1/completions", json=self._body(prompt, 1))
        answer = await self._waited(item, sent)
        if not isinstance(answer, httpx.Response):
            return answer
        if answer.status_code == 400:
            return None
        return Degraded(
            cause="over_long_accepted",
            phase="serving",
            reason=f"a prompt one token too long got HTTP {answer.status_code}, not 400",
            evidence=(answer.text[:300],),
        )

    def _body(self, prompt: list[int], output: int) -> dict[str, Any]:
        return {
            "model": self.target.model,
            "prompt": prompt,
            "max_tokens": output,
            "ignore_eos": True,
            "skip_special_tokens": False,  # so that every answer has a text
        }

    async def _whole(self, item: str, prompt: list[int], output: int) -> Reply | FailedOutcome:
        began = time.monotonic()
        answer = await self.client.post("/v1/completions", json=self._body(prompt, output))
        if answer.status_code != 200:
            return _refused(item, answer.status_code, answer.text)
        seconds = time.monotonic() - began
        return self._completed(
            item, len(prompt), output, _usage(answer.text), _text(answer.text), seconds
        )

    async def _streamed(self, item: str, prompt: list[int], output: int) -> Reply | FailedOutcome:
        began = time.monotonic()
        first: float | None = None
        usage: dict[str, Any] = {}
        text = ""
        done = False
        body = self._body(prompt, output)
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        async with self.client.stream("POST", "/v1/completions", json=body) as answer:
            if answer.status_code != 200:
                refusal = (await answer.aread()).decode(errors="replace")
                return _refused(item, answer.status_code, refusal)
            with suppress(httpx.RemoteProtocolError):  # cut short: no [DONE]
                async for line in answer.aiter_lines():
                    data = line.removeprefix("data:").strip()
                    if data == "[DONE]":
                        done = True
                    elif data:
                        first = first or time.monotonic()
                        if "error" in _json(data):
                            return _refused(item, 500, data)
                        usage = _usage(data) or usage
                        text = text or _text(data)
        if not done:
            reason = f"during `{item}` a stream ended without [DONE]"
            return Degraded(cause="stream_cut", phase="serving", reason=reason)
        seconds = (first or time.monotonic()) - began
        return self._completed(item, len(prompt), output, usage, text, seconds)

    def _completed(
        self, item: str, asked: int, output: int, usage: dict[str, Any], text: str, ttft: float
    ) -> Reply | FailedOutcome:
        wanted = {"prompt_tokens": asked, "completion_tokens": output}
        reply = _checked(item, wanted, usage, ttft)
        if (
            isinstance(reply, Reply)
            and self.target.speaks
            and not text
            and output >= TELLING_TOKENS
        ):
            reason = f"`{item}`: {output} tokens came back without any text"
            return Degraded(cause="empty_text", phase="serving", reason=reason)
        return reply

    async def _waited(self, item: str, work: Awaitable[T]) -> T | FailedOutcome:
        """Wait as long as the server's counters move."""
        began = self.watch.moved_at = time.monotonic()
        task = asyncio.ensure_future(work)
        try:
            while not task.done():
                await asyncio.wait([task], timeout=self.patience.every)
                still = time.monotonic() - self.watch.moved_at
                if not task.done() and still > self.still_seconds:
                    return Hung(
                        cause="hung_while_serving",
                        phase="serving",
                        seconds=time.monotonic() - began,
                        reason=f"during `{item}` nothing moved for {still:.0f} s",
                    )
            return task.result()
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


def _checked(
    item: str, wanted: dict[str, int], usage: dict[str, Any], ttft_seconds: float
) -> Reply | FailedOutcome:
    for key, tokens in wanted.items():
        if usage.get(key) != tokens:
            got = usage.get(key, "none")
            return Degraded(
                cause="wrong_tokens",
                phase="serving",
                reason=f"`{item}`: asked for {tokens} {key.replace('_', ' ')}, got {got}",
                evidence=(json.dumps(usage),),
            )
    return Reply(
        prompt_tokens=int(usage.get("prompt_tokens", 0)),
        output_tokens=int(usage["completion_tokens"]),
        ttft_seconds=ttft_seconds,
    )


def _json(text: str) -> dict[str, Any]:
    with suppress(ValueError):
        value = json.loads(text)
        if isinstance(value, dict):
            return value
    return {}


def _usage(text: str) -> dict[str, Any]:
    usage = _json(text).get("usage")
    return usage if isinstance(usage, dict) else {}


def _text(text: str) -> str:
    choices = _json(text).get("choices")
    return str(choices[0].get("text") or "") if isinstance(choices, list) and choices else ""


def _refused(item: str, status: int, text: str) -> FailedOutcome:
    kind = Crashed if status >= 500 else Degraded
    return kind(
        cause="server_error" if status >= 500 else "request_refused",
        phase="serving",
        reason=f"`{item}` got HTTP {status}",
        evidence=(text[:300],),
    )
