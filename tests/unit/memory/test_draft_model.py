"""What drafts tokens beside a model."""

import math

import pytest

from tests.support.memory import estimated
from vllm_autotune.checkpoint import Checkpoint
from vllm_autotune.memory import Interval
from vllm_autotune.vllm.config import Value

DRAFT = '{"model": "yuhuili/EAGLE3-LLaMA3.1-Instruct-8B", "method": "eagle3"}'


@pytest.mark.parametrize(
    ("args", "most"),
    [
        ({"speculative-config": '{"method": "ngram", "num_speculative_tokens": 4}'}, 1),
        ({"speculative-config": '{"model": "ngram"}'}, 1),
        ({"spec-method": "suffix"}, 1),
        ({"speculative-config": '{"method": "mtp", "num_speculative_tokens": 1}'}, 2),
        ({"speculative-config.method": "qwen3_next_mtp"}, 2),
        ({"speculative-config": DRAFT}, math.inf),
        ({"speculative-config": "no JSON"}, math.inf),
        ({"spec-model": "some/draft"}, math.inf),
    ],
)
def test_a_draft_of_unknown_size_rules_nothing_out_and_nothing_in(
    shapes: dict[str, Checkpoint], args: dict[str, Value], most: float
) -> None:
    plain, found = estimated(shapes["llama-3.1-8b"]), estimated(shapes["llama-3.1-8b"], args)
    assert found.weights == Interval(plain.weights.low, most * plain.weights.high)
    assert found.kv_bytes(8192).low == plain.kv_bytes(8192).low
    assert found.kv_bytes(8192).high == min(most, 2) * plain.kv_bytes(8192).high
    assert found.graphs.high == min(most, 2) * plain.graphs.high


def test_more_drafted_tokens_capture_larger_graphs(shapes: dict[str, Checkpoint]) -> None:
    args: dict[str, Value] = {"max-num-seqs": 8, "spec-method": "ngram"}
    seven = shapes["qwen2.5-7b"]
    none, eight = (estimated(seven, {**args, "spec-tokens": n}).graphs for n in (0, 8))
    assert eight.high > 1.5 * none.high
