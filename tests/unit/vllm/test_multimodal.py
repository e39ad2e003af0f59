"""However it is spelled, the number of images a prompt may have is read as vLLM reads it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_autotune.vllm.config import LaunchConfig, Value
from vllm_autotune.vllm.multimodal import limits, most_per_prompt

LIMIT = "limit-mm-per-prompt"
SPELLINGS: dict[str, tuple[dict[str, Value], int]] = {
    "nothing said": ({}, 999),
    "JSON": ({LIMIT: '{"image": 3, "video": 0}'}, 3),
    "with sizes": ({LIMIT: '{"image": {"count": 5, "width": 512}}'}, 5),
    "sizes alone": ({LIMIT: '{"image": {"width": 512}}'}, 999),
    "of another modality": ({LIMIT: '{"video": 0}'}, 999),
    "as 0.6 to 0.8 had it": ({LIMIT: "image=2,video=1"}, 2),
    "several words": ({LIMIT: ("image=2", "video=1")}, 2),
    "apart": ({f"{LIMIT}.image": 4}, 4),
    "apart, with sizes": ({f"{LIMIT}.image.count": 4, f"{LIMIT}.image.width": 9}, 4),
    "text alone": ({"language-model-only": True, LIMIT: '{"image": 3}'}, 0),
    "not text alone": ({"language-model-only": False}, 999),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_limit_is_read_however_it_is_spelled(spelling: str) -> None:
    args, most = SPELLINGS[spelling]
    assert most_per_prompt(LaunchConfig("m", args), "image", (0, 32)) == most


def test_the_first_engine_took_one() -> None:
    assert most_per_prompt(LaunchConfig("m"), "image", (0, 8, 5)) == 1


@given(st.text() | st.sampled_from(['{"image": -1}', '{"image": null}', "[1]", "1", '"image=1"']))
def test_what_cannot_be_read_limits_nothing(text: str) -> None:
    assert all(most >= 0 for most in limits(LaunchConfig("m", {LIMIT: text})).values())
