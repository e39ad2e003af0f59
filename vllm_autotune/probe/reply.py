"""What came back for a request: read it, and say what is wrong with it. Pure."""

import json
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ..outcome import Crashed, Degraded, FailedOutcome

# Fewer tokens than this may be one half of a letter, and no text.
TELLING_TOKENS = 8
# Lines of a stream that carry no data (WHATWG HTML, "Server-sent events").
FIELDS = (":", "event:", "id:", "retry:")

# Looks at a choice of an answer, and says what there is to say.
Inspect = Callable[[Mapping[str, Any]], str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One request that was answered right.

    `began` is when it was sent, `times` when each piece of the answer came (monotonic clock);
    `note` says what it does not show.
    """

    prompt_tokens: int
    output_tokens: int
    began: float
    times: tuple[float, ...]
    note: str | None = None

    @property
    def ttft_seconds(self) -> float:
        """Return the time to first token; without a stream, to the whole answer."""
        return self.times[0] - self.began


@dataclass(slots=True)
class Answer:
    """What a server has sent so far."""

    began: float
    usage: dict[str, Any] = field(default_factory=dict)
    text: str = ""
    finish_reason: str | None = None
    choice: Mapping[str, Any] = field(default_factory=dict)
    done: bool = False
    error: str | None = None
    malformed: str | None = None
    times: list[float] = field(default_factory=list)

    def read_line(self, line: str, now: float) -> None:
        """Read a line of a stream of server-sent events."""
        if not line.strip() or line.startswith(FIELDS):
            return
        data = line.removeprefix("data:").strip()
        document = parsed(data)
        if self.done or not line.startswith("data:") or not (document or data == "[DONE]"):
            self.malformed = self.malformed or line[:300]
        elif data == "[DONE]":
            self.done = True
        elif "error" in document:
            self.error = data[:300]
        else:
            self.read(document)
            if document.get("choices"):
                self.times.append(now)

    def read(self, document: Mapping[str, Any]) -> None:
        """Read a whole answer, or one piece of a stream."""
        usage = document.get("usage")
        if isinstance(usage, dict):
            self.usage = usage
        choices = document.get("choices")
        if isinstance(choices, list) and choices and isinstance(choices[0], dict):
            choice = choices[0]
            self.text = self.text or _text(choice)
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
            self.choice = choice


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What a right answer to a request has: None stands for whatever there is.

    `fault` says what is wrong with its first choice, `note` what that does not show; of a stream
    they see the last piece.
    """

    item: str
    prompt_tokens: int | None
    output_tokens: int | None
    speaks: bool = True
    fault: Inspect = lambda _: None
    note: Inspect = lambda _: None

    def verdict(self, answer: Answer) -> Reply | FailedOutcome:
        """Return the answer as a reply, or what is wrong with it."""
        wanted = {"prompt_tokens": self.prompt_tokens, "completion_tokens": self.output_tokens}
        for key, tokens in wanted.items():
            got = answer.usage.get(key)
            if not isinstance(got, int) or (tokens is not None and got != tokens):
                asked = "some" if tokens is None else tokens
                reason = (
                    f"`{self.item}`: asked for {asked} {key.replace('_', ' ')}, "
                    f"got {'none' if got is None else got}"
                )
                return degraded("wrong_tokens", reason, (json.dumps(answer.usage),))
        written = int(answer.usage["completion_tokens"])
        if self.speaks and not answer.text and written >= TELLING_TOKENS:
            reason = f"`{self.item}`: {written} tokens came back without any text"
            return degraded("empty_text", reason)
        if fault := self.fault(answer.choice):
            evidence = json.dumps(answer.choice)[:300]
            return degraded("wrong_answer", f"`{self.item}`: {fault}", (evidence,))
        if self.output_tokens is not None and answer.finish_reason != "length":
            reason = f"`{self.item}`: it ended for `{answer.finish_reason}`, not for its length"
            return degraded("wrong_finish", reason)
        return Reply(
            prompt_tokens=int(answer.usage["prompt_tokens"]),
            output_tokens=written,
            began=answer.began,
            times=tuple(answer.times),
            note=self.note(answer.choice),
        )

    def streamed(self, answer: Answer) -> Reply | FailedOutcome:
        """Return a stream that has ended as a reply, or what is wrong with it."""
        if answer.error is not None:
            return refused(self.item, 500, answer.error)
        if answer.malformed is not None:
            reason = f"`{self.item}`: a line of the stream is no server-sent event"
            return degraded("bad_stream", reason, (answer.malformed,))
        if not answer.done:
            reason = f"during `{self.item}` a stream ended without [DONE]"
            return degraded("stream_cut", reason)
        return self.verdict(answer)


def embedded(item: str, asked: int, began: float, now: float, text: str) -> Reply | FailedOutcome:
    """Return the answer to one embedding as a reply, or what is wrong with it."""
    document = parsed(text)
    usage, data = document.get("usage"), document.get("data")
    got = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    if got != asked:
        reason = f"`{item}`: asked for {asked} prompt tokens, got {got or 'none'}"
        return degraded("wrong_tokens", reason, (text[:300],))
    numbers = _numbers(data[0]) if isinstance(data, list) and data else []
    if not any(numbers) or not all(map(math.isfinite, numbers)):
        reason = f"`{item}`: the vector is empty, or not all of it is numbers"
        return degraded("empty_vector", reason, (text[:300],))
    return Reply(prompt_tokens=asked, output_tokens=0, began=began, times=(now,))


def refused(item: str, status: int, text: str) -> FailedOutcome:
    """Return what a status other than 200 stands for."""
    kind = Crashed if status >= 500 else Degraded
    return kind(
        cause="server_error" if status >= 500 else "request_refused",
        phase="serving",
        reason=f"`{item}` got HTTP {status}",
        evidence=(text[:300],),
    )


def degraded(cause: str, reason: str, evidence: tuple[str, ...] = ()) -> Degraded:
    """Return that a server serves, but not right."""
    return Degraded(cause=cause, phase="serving", reason=reason, evidence=evidence)


def parsed(text: str) -> dict[str, Any]:
    """Return a JSON object, an empty one where the text is none."""
    with suppress(ValueError):
        value = json.loads(text)
        if isinstance(value, dict):
            return value
    return {}


def _text(choice: Mapping[str, Any]) -> str:
    """Return a completion's text, a chat's, or what a reasoning parser made of it."""
    part = choice.get("delta") or choice.get("message") or choice
    names = ("text", "content", "reasoning", "reasoning_content")
    return str(next((part[name] for name in names if part.get(name)), ""))


def _numbers(entry: object) -> list[float]:
    """Return the vector of an embedding, a classification or a pooling."""
    found = entry if isinstance(entry, dict) else {}
    value = found.get("embedding") or found.get("probs") or found.get("data") or []
    while isinstance(value, list) and value and isinstance(value[0], list):
        value = value[0]
    numbers = value if isinstance(value, list) else []
    return numbers if all(isinstance(number, int | float) for number in numbers) else []
