"""A request of exact lengths: what is sent, and what must come back. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .reply import Expected, Inspect


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A request for exactly `output` tokens after a prompt of token ids.

    `more` are further fields of its body, `fault` says what is wrong with an answer's choice. It
    leaves after `leave_after` pieces of the stream.
    """

    prompt: Sequence[int]
    output: int
    more: Mapping[str, Any] = field(default_factory=dict)
    fault: Inspect = lambda _: None
    stream: bool = True
    leave_after: int | None = None

    def body(self, model: str) -> dict[str, Any]:
        """Return what is sent, but for the fields of a stream."""
        return {
            "model": model,
            "prompt": list(self.prompt),
            "max_tokens": self.output,
            "ignore_eos": True,
            "skip_special_tokens": False,  # so that every answer has a text
            **self.more,
        }

    def expected(self, item: str, *, speaks: bool) -> Expected:
        """Return what a right answer has."""
        return Expected(
            item=item,
            prompt_tokens=len(self.prompt),
            output_tokens=self.output,
            speaks=speaks,
            fault=self.fault,
        )
