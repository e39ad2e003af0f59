"""`autotune plan`, where a vLLM is installed; tests/unit/test_plan.py is about its document."""

import json
from pathlib import Path

import pytest

from tests.support.command import Autotune, flags, planned, words_of
from tests.support.memory_model import FLAGS


def test_a_dry_run_is_a_plan(autotune: Autotune, model: Path) -> None:
    what = ("--model", model, "--json", "--memory-limit", "24GiB", "--capability", "8.9")
    plan, dry = (json.loads(autotune(*words, *what).out) for words in (["plan"], ["--dry-run"]))
    assert plan.pop("host_free_bytes")
    assert dry.pop("host_free_bytes")
    assert plan == dry
    assert [row["rung"] for row in plan["rungs"]][:2] == ["float16", "utilization"]


def test_more_gpus_than_there_are(autotune: Autotune, model: Path) -> None:
    words = ("plan", "--model", model, "--device", "2 x T4", "--", "-tp", "2", "-pp", "2")
    autotune(*words).refused(2, "your arguments use 4 GPUs, found 2")


def test_more_sequences_at_once_than_the_users_own_arguments_allow(
    autotune: Autotune, model: Path
) -> None:
    words = ("plan", "--json", "--model", model, "--device", "T4", "--context", "16")
    few = ("--concurrency", "17", "--", "--max-num-seqs", "16")
    autotune(*words, *few).refused(2, "more than the 16 sequences")
    assert "--max-num-seqs 2000" in flags(autotune(*words, "--concurrency", "2000"))


def test_a_headroom_that_leaves_nothing_is_no_plan(autotune: Autotune, model: Path) -> None:
    ended = autotune("plan", "--model", model, "--device", "T4", "--headroom", "20GiB")
    assert ended.code == 1
    assert "no memory is left" in ended.out


def test_vllms_arguments_are_never_changed(autotune: Autotune, model: Path) -> None:
    plan = planned(
        autotune(
            *("plan", "--model", model, "--json", "--memory-limit", "700MiB", "--"),
            *("--max_num_seqs", "7", "--dtype=half", "--enforce-eager", "--max-model-len", "4k"),
        )
    )
    for row in plan:
        words = words_of(row)
        if words:
            assert "--dtype half --enforce-eager" in words
            assert "--max-model-len 4k" in words
            assert "--max-num-seqs 7" in words
    reasons = {row["rung"]: row["expectation"] for row in plan}
    assert reasons["shorter-context"] == "you set --max-model-len yourself"


def test_the_stand_in_has_the_flags_the_ladder_sets() -> None:
    assert {"max-model-len", "cpu-offload-gb", "enforce-eager"} <= set(FLAGS)


def test_numbers_of_gpus_that_are_not_there_or_do_not_divide(
    autotune: Autotune, model: Path, tmp_path: Path
) -> None:
    words = ("plan", "--model", model, "--device", "4 x T4")
    autotune(*words, "--min-gpus", "5").refused(2, "--min-gpus 5: found 4")
    autotune(*words, "--min-gpus", "0").refused(2, "at least 1", hint=False)
    autotune(*words, "--", "-tp", "3").refused(2, "does not divide", "attention heads")
    few = ("--min-gpus", "4", "--", "-tp", "2", "-pp", "1")
    autotune(*words, *few).refused(2, "only 2 would be used")
    skipped = ("--skip", "tensor-parallel", "--skip", "pipeline-parallel")
    autotune(*words, "--min-gpus", "2", *skipped).refused(2, "only 1 would be used")
    ladder = tmp_path / "three.toml"
    ladder.write_text('[[rung]]\nname = "a"\ngives_up = ""\nset = { tensor-parallel-size = 3 }\n')
    autotune(*words, "--ladder", ladder).refused(2, "of rung `a`", "does not divide")


@pytest.mark.parametrize(
    ("split", "stages", "is_one"),
    [("3,1", "2", True), ("3,1", "1", False), ("3,2", "2", False), ("a,b", "2", False)],
)
def test_layers_that_the_user_deals_must_be_the_models(
    autotune: Autotune,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    split: str,
    stages: str,
    is_one: bool,
) -> None:
    """Four of them. Where they are, each stage has its own numbers."""
    monkeypatch.setenv("VLLM_PP_LAYER_PARTITION", split)
    words = ("--json", "--model", model, "--device", "2 x H100", "--", "-pp", stages)
    ended = autotune("plan", *words)
    if not is_one:
        ended.refused(2, f"VLLM_PP_LAYER_PARTITION={split} does not deal 4 layers")
        return
    first = json.loads(ended.out)["first"]["proposal"]
    assert first["env"]["VLLM_PP_LAYER_PARTITION"] == split
    many, few = (stage["kv_needed"]["low"] for stage in first["predicted"]["stages"])
    assert many == pytest.approx(3 * few, rel=0.01)


def test_an_alternative_that_no_version_knows(autotune: Autotune, model: Path) -> None:
    ended = autotune("--model", model, "--also", "everything")
    ended.refused(2, "everything", "longest-context", hint=False)


def test_at_least_so_many_gpus(autotune: Autotune, model: Path) -> None:
    words = ("plan", "--json", "--model", model, "--device", "2 x T4")
    document = json.loads(autotune(*words, "--min-gpus", "2").out)
    assert document["first"]["proposal"]["devices"] == 2
    assert document["workload"]["min_gpus"] == 2
