"""What came back for a request. Pure."""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

# Lines of a stream that carry no data (WHATWG HTML, "Server-sent events").
FIELDS = (":", "event:", "id:", "retry:")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A good answer to one request.

    `began` is when the request was sent, `times` when each piece of the answer came (monotonic
    clock); `note` says what the answer does not show.
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
    vector: list[float] = field(default_factory=list)
    raw: str = ""
    done: bool = False
    error: str | None = None
    malformed: str | None = None
    times: list[float] = field(default_factory=list)

    def read_line(self, line: str, now: float) -> None:
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
            self._read(document)
            if document.get("choices"):
                self.times.append(now)

    def read_whole(self, text: str, now: float) -> None:
        self.times.append(now)
        self.raw = text[:300]
        document = parsed(text)
        data = document.get("data")
        self.vector = _numbers(data[0]) if isinstance(data, list) and data else []
        self._read(document)

    def _read(self, document: Mapping[str, Any]) -> None:
        usage = document.get("usage")
        if isinstance(usage, dict):
            self.usage = usage
        choices = document.get("choices")
        if isinstance(choices, list) and choices and isinstance(choices[0], dict):
            choice = choices[0]
            self.text = self.text or _text(choice)
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
            self.choice = choice


def parsed(text: str) -> dict[str, Any]:
    """Return the JSON object in a text, an empty one if there is none."""
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
