"""Answers that must be more than tokens: by a schema, a tool call, log probabilities. Pure."""

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from ..probe.prompt import Inspection, Question

COLOURS = ("red", "green", "blue")
# Its grammar has no place for spaces, which a bad model could fill its answer with.
COLOUR = {"type": "string", "enum": list(COLOURS)}
SCHEMA = {"name": "colour", "schema": COLOUR}
PAINT = {"name": "paint", "parameters": {"type": "object", "properties": {"colour": COLOUR}}}


def _message(choice: Mapping[str, Any]) -> Mapping[str, Any]:
    return choice.get("message") or {}


def _still_reasoning(choice: Mapping[str, Any]) -> str | None:
    """Say if all of the answer is reasoning: a grammar applies only to what follows."""
    message = _message(choice)
    thought = message.get("reasoning") or message.get("reasoning_content")
    unanswered = thought and not message.get("content")
    return "no final answer: the model was still reasoning" if unanswered else None


def _off_schema(choice: Mapping[str, Any]) -> str | None:
    with suppress(ValueError):
        if json.loads(_message(choice).get("content") or "") in COLOURS:
            return None
    return None if _still_reasoning(choice) else "the answer does not match its JSON Schema"


def _called(choice: Mapping[str, Any]) -> bool:
    calls = _message(choice).get("tool_calls") or ()
    return any((call.get("function") or {}).get("name") == PAINT["name"] for call in calls)


def _cut_short(choice: Mapping[str, Any]) -> str | None:
    cut = choice.get("finish_reason") == "length" and not _called(choice)
    return "the answer was cut off before a tool call" if cut else None


def _no_tool_call(choice: Mapping[str, Any]) -> str | None:
    done = _called(choice) or _cut_short(choice)
    return None if done else "the answer did not call the required tool"


BY_SCHEMA = Question(
    content="Which colour is the sky?",
    more={"response_format": {"type": "json_schema", "json_schema": SCHEMA}},
    fault=_off_schema,
    note=_still_reasoning,
)
TOOL_CALL = Question(
    content="Paint the sky.",
    more={
        "tools": [{"type": "function", "function": PAINT}],
        "tool_choice": {"type": "function", "function": {"name": PAINT["name"]}},
    },
    fault=_no_tool_call,
    note=_cut_short,
)


def prompt_logprobs_of(tokens: int) -> Inspection:
    """Return an inspection that finds prompt tokens without a log probability."""

    def fault(choice: Mapping[str, Any]) -> str | None:
        got = len(choice.get("prompt_logprobs") or ())
        return f"got {got} log probabilities for {tokens} prompt tokens" if got != tokens else None

    return fault


def not_finite(choice: Mapping[str, Any]) -> str | None:
    """Say if the log probability of a token is not a number: then the logits were not either.

    So a model overflows whose range is too small (float16); its tokens look like any others. A
    server that keeps all log probabilities to itself is not blamed.
    """
    found = (choice.get("logprobs") or {}).get("token_logprobs") or ()
    finite = all(isinstance(n, int | float) and math.isfinite(n) for n in found)
    return None if finite else "the log probability of a token is not a number"
