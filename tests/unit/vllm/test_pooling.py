"""Which models are asked for vectors rather than for text."""

import pytest

from vllm_autotune.vllm.config import LaunchConfig, Value
from vllm_autotune.vllm.pooling import pools


@pytest.mark.parametrize(
    ("architecture", "args", "pooling"),
    [
        ("Qwen2ForCausalLM", {}, False),
        ("LlavaForConditionalGeneration", {}, False),
        ("GPT2LMHeadModel", {}, False),
        ("BertModel", {}, True),
        ("Qwen2ForSequenceClassification", {}, True),
        ("Qwen2ForRewardModel", {}, True),
        ("Qwen2ForCausalLM", {"runner": "pooling"}, True),
        ("Qwen2ForCausalLM", {"convert": "embed"}, True),
        ("Qwen2ForCausalLM", {"task": "embed"}, True),
        ("Qwen2ForCausalLM", {"task": "auto"}, False),
        ("BertModel", {"runner": "auto", "convert": "none"}, True),
        ("Qwen2Model", {"task": "generate"}, False),
        ("", {}, False),
    ],
)
def test_pooling_is_known_by_the_flags_and_else_by_the_name(
    architecture: str, args: dict[str, Value], pooling: bool
) -> None:
    assert pools(LaunchConfig("m", args), architecture) is pooling


@pytest.mark.parametrize(
    ("args", "pooling"),
    [
        ({}, True),
        ({"convert": "none"}, True),
        ({"task": "auto"}, True),
        ({"runner": "generate"}, False),
        ({"task": "generate"}, False),
    ],
)
def test_a_sentence_transformers_model_pools_unless_the_flags_say_otherwise(
    args: dict[str, Value], pooling: bool
) -> None:
    assert pools(LaunchConfig("m", args), "Qwen3ForCausalLM", pooled=True) is pooling
