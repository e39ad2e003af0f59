"""What else than the winner the machine could serve."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.memory_model import GIB, cards, checkpoints, engine, gather, install
from vllm_autotune.checkpoint import Checkpoint
from vllm_autotune.search.facts import Facts
from vllm_autotune.search.whole_context import sequences_for_whole_context
from vllm_autotune.workload import Workload

RUNNER_V1 = {"VLLM_USE_V2_MODEL_RUNNER": "0"}


@pytest.fixture
def tight(tmp_path: Path) -> Facts:
    """7B where the sampler of 1024 sequences takes what the context lacks (Model Runner V1)."""
    (tmp_path / "shapes").mkdir()
    model: Checkpoint = checkpoints(tmp_path / "shapes")["qwen2.5-7b"]
    card = cards("NVIDIA H100 80GB HBM3", 79.2, (9, 0), 1)[0]
    left = replace(card, free_bytes=int(21.5 * GIB))
    facts = gather(model, (left,), Workload(), engine(install(tmp_path / "site")))
    return replace(facts, env=RUNNER_V1)


def test_fewer_sequences_that_keep_the_whole_context_are_named(tight: Facts) -> None:
    shortened = tight.base().replace({"max-model-len": 8192})
    assert tight.setup(shortened).sequences == 1024
    assert sequences_for_whole_context(tight, [], shortened) == 256


def test_nothing_is_named_where_it_is_not_needed_not_asked_for_or_not_enough(
    tight: Facts,
) -> None:
    shortened = tight.base().replace({"max-model-len": 8192})
    assert sequences_for_whole_context(tight, [], tight.base()) is None
    fixed = replace(tight, fixed={"max-num-seqs": 1024})
    assert sequences_for_whole_context(fixed, [], shortened) is None
    few = replace(tight.devices[0], free_bytes=int(16 * GIB))
    assert sequences_for_whole_context(replace(tight, devices=(few,)), [], shortened) is None
