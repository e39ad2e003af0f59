"""What drafts tokens beside a model."""

import math
from dataclasses import replace

import pytest

from tests.support.memory import estimated, setup
from vllm_autotune.checkpoint import Checkpoint
from vllm_autotune.memory import Interval, estimate
from vllm_autotune.vllm.config import LaunchConfig, Value

DRAFT = '{"model": "yuhuili/EAGLE3-LLaMA3.1-Instruct-8B", "method": "eagle3"}'


@pytest.mark.parametrize(
    ("args", "most"),
    [
        ({"speculative-config": '{"method": "ngram", "num_speculative_tokens": 4}'}, 1),
        ({"speculative-config": '{"model": "ngram"}'}, 1),
        ({"spec-method": "suffix"}, 1),
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


@pytest.mark.parametrize(
    "args",
    [
        {"speculative-config": '{"method": "mtp", "num_speculative_tokens": 1}'},
        {"speculative-config.method": "deepseek_mtp", "spec-tokens": 1},
    ],
)
def test_prediction_layers_of_the_model_weigh_what_its_files_say(
    shapes: dict[str, Checkpoint], args: dict[str, Value]
) -> None:
    v3 = shapes["deepseek-v3"]
    assert v3.weights
    layer, tables = 11 * 2**30, 2 * 129280 * 7168 * 2
    weights = replace(v3.weights, draft_bytes=layer + tables, draft_tables=tables)
    model = replace(v3, weights=weights, load_format="safetensors")
    plain, found = estimated(model), estimated(model, args)
    assert found.weights.low - plain.weights.low == pytest.approx(layer, rel=0.01)
    assert found.weights.high - plain.weights.high == pytest.approx(layer + tables, rel=0.1)
    # One layer more keeps what each of the 61 does.
    more = found.kv_bytes(8192).low / plain.kv_bytes(8192).low
    assert more == pytest.approx(62 / 61)


def test_a_draft_that_can_be_read_is_weighed_like_any_model(
    shapes: dict[str, Checkpoint],
) -> None:
    model, small = shapes["llama-3.1-8b"], shapes["llama-3.2-1b"]
    plain = setup(model)
    asked = LaunchConfig("m", {"speculative-config": DRAFT})
    found = estimate(replace(plain, config=asked, draft=small))
    alone, together = estimate(setup(small)), estimate(plain)
    assert found.weights.high == pytest.approx(together.weights.high + alone.weights.high, rel=0.01)
    # Its table may be the model's own.
    shared = 128256 * 2048 * 2
    assert found.weights.low == pytest.approx(
        together.weights.low + alone.weights.low - shared, rel=0.01
    )
    both = together.kv_bytes(8192).low + alone.kv_bytes(8192).low
    assert found.kv_bytes(8192).low == both
    assert found.kv_bytes(8192).known


def test_states_and_convolutions_are_wider_by_each_drafted_token(
    shapes: dict[str, Checkpoint],
) -> None:
    """MambaSpec and MambaStateShapeCalculator, 0.32."""
    hybrid = shapes["qwen3-next-80b"]
    plain = estimated(hybrid).cache
    drafting = estimated(hybrid, {"spec-method": "mtp", "spec-tokens": 2}).cache
    state, wider = (next(g for g in c.groups or () if g.kind == "state") for c in (plain, drafting))
    assert wider.blocks(8192, 16, 0, most=False) == state.blocks(8192, 16, 0, most=False) + 2
    channels = 2 * 16 * 128 + 32 * 128
    assert wider.state.low - state.state.low == 2 * channels * 2


def test_more_drafted_tokens_capture_larger_graphs(shapes: dict[str, Checkpoint]) -> None:
    args: dict[str, Value] = {"max-num-seqs": 8, "spec-method": "ngram"}
    seven = shapes["qwen2.5-7b"]
    none, eight = (estimated(seven, {**args, "spec-tokens": n}).graphs for n in (0, 8))
    assert eight.high > 1.5 * none.high
