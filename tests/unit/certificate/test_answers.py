"""Answers that must be more than tokens: what is wrong with them, and what they leave open."""

import pytest

from vllm_autotune.certificate.answers import BY_SCHEMA, TOOL_CALL, not_finite, prompt_logprobs_of


def said(content: str | None, **more: object) -> dict[str, object]:
    return {"message": {"content": content, **more}, "finish_reason": "stop"}


def called(name: str) -> dict[str, object]:
    return said(None, tool_calls=[{"function": {"name": name, "arguments": "{}"}}])


@pytest.mark.parametrize("content", ["blue", '"mauve"', '{"colour": "red"}', "", None])
def test_only_an_answer_by_the_schema_will_do(content: str | None) -> None:
    assert BY_SCHEMA.fault(said(content)) == "the answer does not match its JSON Schema"
    assert BY_SCHEMA.fault(said('"blue"')) is None


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_thoughts_are_no_answer_yet(name: str) -> None:
    thinking = said(None, **{name: "hm"})
    assert BY_SCHEMA.fault(thinking) is None
    assert BY_SCHEMA.note(thinking) == "no final answer: the model was still reasoning"
    assert BY_SCHEMA.note(said('"blue"', **{name: "hm"})) is None


def test_only_a_call_of_the_tool_will_do() -> None:
    assert TOOL_CALL.fault(called("paint")) is None
    for other in (called("erase"), said("I would rather talk"), {}):
        assert TOOL_CALL.fault(other) == "the answer did not call the required tool"


def test_a_call_that_was_cut_short_is_left_open() -> None:
    cut = {**said("<tool_call>"), "finish_reason": "length"}
    assert TOOL_CALL.fault(cut) is None
    assert TOOL_CALL.note(cut) == "the answer was cut off before a tool call"
    assert TOOL_CALL.note({**called("paint"), "finish_reason": "length"}) is None


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), "0.1"])
def test_a_log_probability_is_a_number(value: object) -> None:
    choice = {"logprobs": {"token_logprobs": [-0.5, value]}}
    assert not_finite(choice) == "the log probability of a token is not a number"


@pytest.mark.parametrize("choice", [{}, {"logprobs": None}, {"logprobs": {"token_logprobs": [-1]}}])
def test_log_probabilities_that_nobody_tells_are_no_fault(choice: dict[str, object]) -> None:
    assert not_finite(choice) is None


def test_each_token_of_a_prompt_has_its_log_probability() -> None:
    fault = prompt_logprobs_of(2)
    assert fault({"prompt_logprobs": [None, {"5": {}}]}) is None
    assert fault({}) == "got 0 log probabilities for 2 prompt tokens"
