"""A request to a model: what is sent, and what must come back. Pure."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from .failure import ProbeFailed, degraded, refused
from .reply import Answer, Reply

COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"
# The paths of pooling models: not every model has every one.
POOLING = ("/v1/embeddings", "/classify", "/pooling")
# Fewer tokens than this may be a part of one letter, which has no text.
TELLING_TOKENS = 8

# Says something about a choice of an answer, None if there is nothing to say.
Inspection = Callable[[Mapping[str, Any]], str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A chat message; with `more` fields in the request its answer may be shorter than allowed."""

    content: object
    more: Mapping[str, Any] | None = None
    fault: Inspection = lambda _: None
    note: Inspection = lambda _: None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A request of an item, and what a good answer has: None stands for any number of tokens.

    `fault` says what is wrong with the first choice of an answer, `note` what that choice does not
    show; of a stream they see the last piece. An answer that `speaks` has a text, one of no tokens
    is a vector. The client disconnects after `leave_after` pieces of a stream.
    """

    item: str
    body: Mapping[str, Any]
    path: str = COMPLETIONS
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    stream: bool = False
    leave_after: float = math.inf
    speaks: bool = False
    fault: Inspection = lambda _: None
    note: Inspection = lambda _: None

    @classmethod
    def completion(
        cls,
        item: str,
        token_ids: Sequence[int],
        output_tokens: int,
        more: Mapping[str, Any] = {},
        **fields: Any,
    ) -> Self:
        """Ask for exactly `output_tokens` after `token_ids`, with `more` fields in the body."""
        body = {
            "prompt": token_ids,
            "max_tokens": output_tokens,
            "ignore_eos": True,
            "skip_special_tokens": False,  # so that every answer has a text
            **more,
        }
        fields = {"prompt_tokens": len(token_ids), "output_tokens": output_tokens, **fields}
        return cls(item=item, body=body, **fields)

    @classmethod
    def chat(cls, item: str, question: Question, output_tokens: int, *, stream: bool) -> Self:
        body = {
            "messages": [{"role": "user", "content": question.content}],
            "max_tokens": output_tokens,
            **({"ignore_eos": True} if question.more is None else question.more),
        }
        return cls(
            item=item,
            body=body,
            path=CHAT,
            output_tokens=output_tokens,
            stream=stream,
            fault=question.fault,
            note=question.note,
        )

    def sent(self, model: str) -> dict[str, Any]:
        stream = {"stream": True, "stream_options": {"include_usage": True}} if self.stream else {}
        return {"model": model, **self.body, **stream}

    def reply(self, answer: Answer) -> Reply:
        """Return a good answer as a reply, raise ProbeFailed for a bad one."""
        if len(answer.times) >= self.leave_after:
            return self._reply(answer, self.prompt_tokens or 0, len(answer.times))
        if self.stream:
            self._expect_whole_stream(answer)
        read = self._count(answer, "prompt_tokens", self.prompt_tokens)
        if self.output_tokens == 0:
            if not any(answer.vector) or not all(map(math.isfinite, answer.vector)):
                words = "the vector is empty, all zeros, or has values that are not numbers"
                raise self._failed("empty_vector", words, answer.raw)
            return self._reply(answer, read, 0)
        exact = self.output_tokens if self.body.get("ignore_eos") else None
        written = self._count(answer, "completion_tokens", exact)
        if self.speaks and not answer.text and written >= TELLING_TOKENS:
            raise self._failed("empty_text", f"the answer has {written} tokens but no text")
        if fault := self.fault(answer.choice):
            raise self._failed("wrong_answer", fault, json.dumps(answer.choice)[:300])
        if exact is not None and answer.finish_reason != "length":
            words = f"the answer has finish reason `{answer.finish_reason}`, expected `length`"
            raise self._failed("wrong_finish", words)
        return self._reply(answer, read, written)

    def _reply(self, answer: Answer, read: int, written: int) -> Reply:
        times, note = tuple(answer.times), self.note(answer.choice)
        return Reply(
            prompt_tokens=read, output_tokens=written, began=answer.began, times=times, note=note
        )

    def _expect_whole_stream(self, answer: Answer) -> None:
        if answer.error is not None:
            raise refused(self.item, 500, answer.error)
        if answer.malformed is not None:
            words = "a line of the stream is not a server-sent event"
            raise self._failed("bad_stream", words, answer.malformed)
        if not answer.done:
            raise self._failed("stream_cut", "the stream ended without [DONE]")

    def _count(self, answer: Answer, key: str, wanted: int | None) -> int:
        got = answer.usage.get(key)
        if isinstance(got, int) and wanted in (None, got):
            return got
        count = "a count of" if wanted is None else wanted
        words = f"expected {count} {key.replace('_', ' ')}, got {'none' if got is None else got}"
        evidence = json.dumps(answer.usage) if answer.usage else answer.raw
        raise self._failed("wrong_tokens", words, evidence)

    def _failed(self, cause: str, words: str, *evidence: str) -> ProbeFailed:
        return ProbeFailed(degraded(cause, f"`{self.item}`: {words}", evidence))
