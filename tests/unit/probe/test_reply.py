"""What comes back is read, and what is wrong with it is said."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_autotune.outcome import Crashed, Degraded
from vllm_autotune.probe.failure import ProbeFailed
from vllm_autotune.probe.prompt import Prompt
from vllm_autotune.probe.reply import Answer, Reply
from vllm_autotune.probe.watch import cache_size

PROMPT = Prompt.completion("i", [1, 2, 3, 4, 5], 8, stream=True, speaks=True)
POOLED = Prompt(item="i", body={}, prompt_tokens=5, output_tokens=0)
USAGE = {"prompt_tokens": 5, "completion_tokens": 8}
TEXT: dict[str, object] = {"choices": [{"text": "tok", "finish_reason": None}]}
LAST: dict[str, object] = {"choices": [{"text": "", "finish_reason": "length"}]}


def judged(prompt: Prompt, answer: Answer) -> object:
    try:
        return prompt.reply(answer)
    except ProbeFailed as failed:
        return failed.outcome


def embedded(text: str) -> object:
    answer = Answer(began=0.0)
    answer.read_whole(text, 1.0)
    return judged(POOLED, answer)


def verdict(*events: object) -> object:
    answer = Answer(began=0.0)
    for number, event in enumerate(events):
        line = event if isinstance(event, str) else f"data: {json.dumps(event)}"
        answer.read_line(line, float(number))
        answer.read_line("", float(number))
    return judged(PROMPT, answer)


def test_a_stream_as_it_should_be() -> None:
    reply = verdict(": ping", TEXT, LAST, {"choices": [], "usage": USAGE}, "data: [DONE]")
    assert isinstance(reply, Reply)
    assert (reply.prompt_tokens, reply.output_tokens, reply.ttft_seconds) == (5, 8, 1.0)


@pytest.mark.parametrize(
    ("events", "cause"),
    [
        ([TEXT, LAST, {"choices": [], "usage": USAGE}], "stream_cut"),
        ([TEXT, LAST, "data: [DONE]"], "wrong_tokens"),
        ([TEXT, {**LAST, "usage": {**USAGE, "completion_tokens": 7}}, "data: [DONE]"],
         "wrong_tokens"),
        ([{**LAST, "usage": USAGE}, "data: [DONE]"], "empty_text"),
        ([{**TEXT, "usage": USAGE}, "data: [DONE]"], "wrong_finish"),
        ([TEXT, "data: [DONE]", TEXT], "bad_stream"),
        (["<html>"], "bad_stream"),
        (["data: {"], "bad_stream"),
    ],
)  # fmt: skip
def test_a_stream_that_is_wrong(events: list[object], cause: str) -> None:
    found = verdict(*events)
    assert isinstance(found, Degraded)
    assert found.cause == cause


def test_an_error_in_a_stream_is_one() -> None:
    found = verdict(TEXT, {"error": {"message": "EngineDeadError", "code": 500}})
    assert isinstance(found, Crashed)
    assert "EngineDeadError" in found.evidence[0]


@given(st.lists(st.text()))
def test_no_stream_raises(lines: list[str]) -> None:
    assert isinstance(verdict(*lines), Degraded | Crashed)


@given(st.recursive(st.none() | st.integers() | st.text(), lambda c: st.lists(c) | st.dictionaries(
    st.sampled_from(["choices", "usage", "text", "data", "embedding", "error"]), c)))  # fmt: skip
def test_no_document_raises(document: object) -> None:
    verdict(document)
    entry = {"usage": {"prompt_tokens": 5}, "data": [{"embedding": document}]}
    assert isinstance(embedded(json.dumps(entry)), Reply | Degraded)
    assert not isinstance(embedded(json.dumps(document)), Reply)


def test_what_a_reasoning_parser_put_aside_is_a_text_too() -> None:
    answer = Answer(began=0.0)
    document = {"choices": [{"delta": {"content": None, "reasoning_content": "hm"}}]}
    answer.read_whole(json.dumps(document), 1.0)
    assert answer.text == "hm"


@pytest.mark.parametrize("value", ["embedding", "probs", "data"])
def test_a_vector_is_a_reply(value: str) -> None:
    text = json.dumps({"usage": {"prompt_tokens": 5}, "data": [{value: [0.0, 0.5]}]})
    assert isinstance(embedded(text), Reply)
    for broken in ("0.0", "null"):  # what is no number comes as null
        found = embedded(text.replace("0.5", broken))
        assert isinstance(found, Degraded)
        assert found.cause == "empty_vector"


def test_the_size_of_the_cache_is_read_from_the_metrics_of_each_version() -> None:
    blocks = 'vllm:cache_config_info{block_size="16",num_gpu_blocks="100"} 1.0\n'
    newer = 'vllm:cache_config_info{block_size="16",kv_cache_size_tokens="1500"} 1.0\n'
    assert cache_size(blocks) == 1600
    assert cache_size(newer) == 1500
    assert cache_size('vllm:cache_config_info{block_size="None"} 1.0\n') is None
    assert cache_size("<html>") is None
