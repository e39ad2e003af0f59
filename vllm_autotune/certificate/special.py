"""Requests whose answers must be more than tokens: kept to a schema, a call, numbers. Pure."""

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ..probe import Inspect

COLOURS = ("red", "green", "blue")
# No spaces fit in between, with which a model that is no good could fill its answer.
COLOUR = {"type": "string", "enum": list(COLOURS)}
PAINT = {"name": "paint", "parameters": {"type": "object", "properties": {"colour": COLOUR}}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Special:
    """A chat: what is asked, and what is wrong with an answer, or left open by it."""

    question: str
    more: Mapping[str, Any]
    fault: Inspect
    note: Inspect


def _message(choice: Mapping[str, Any]) -> Mapping[str, Any]:
    return choice.get("message") or {}


def _still_thinking(choice: Mapping[str, Any]) -> str | None:
    """Say whether a reasoning parser put aside all there is: a grammar begins after that."""
    message = _message(choice)
    thought = message.get("reasoning") or message.get("reasoning_content")
    return "it was still thinking" if thought and not message.get("content") else None


def _off_schema(choice: Mapping[str, Any]) -> str | None:
    with suppress(ValueError):
        if json.loads(_message(choice).get("content") or "") in COLOURS:
            return None
    return None if _still_thinking(choice) else "the answer does not keep to its JSON Schema"


def _called(choice: Mapping[str, Any]) -> bool:
    calls = _message(choice).get("tool_calls") or ()
    return any((call.get("function") or {}).get("name") == PAINT["name"] for call in calls)


def _cut_short(choice: Mapping[str, Any]) -> str | None:
    cut = choice.get("finish_reason") == "length" and not _called(choice)
    return "it was cut short before there was a call" if cut else None


def _no_tool_call(choice: Mapping[str, Any]) -> str | None:
    done = _called(choice) or _cut_short(choice)
    return None if done else "the answer is no call of the tool that it must call"


BY_SCHEMA = Special(
    question="Which colour is the sky?",
    more={
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "colour", "schema": COLOUR},
        }
    },
    fault=_off_schema,
    note=_still_thinking,
)
TOOL_CALL = Special(
    question="Paint the sky.",
    more={
        "tools": [{"type": "function", "function": PAINT}],
        "tool_choice": {"type": "function", "function": {"name": PAINT["name"]}},
    },
    fault=_no_tool_call,
    note=_cut_short,
)


def prompt_logprobs_of(tokens: int) -> Inspect:
    """Return what says whether the log probability of a prompt's token is missing."""

    def fault(choice: Mapping[str, Any]) -> str | None:
        got = len(choice.get("prompt_logprobs") or ())
        return f"{tokens} prompt tokens got {got} log probabilities" if got != tokens else None

    return fault


def no_numbers(choice: Mapping[str, Any]) -> str | None:
    """Say whether a token's log probability is no number: then the logits were none either.

    So a model overflows whose range is too small (float16); its tokens look like any others. Where
    there are no log probabilities at all, nobody wanted to tell.
    """
    found = (choice.get("logprobs") or {}).get("token_logprobs") or ()
    numbers = [n for n in found if isinstance(n, int | float) and math.isfinite(n)]
    return None if len(numbers) == len(found) else "a token has no log probability"
