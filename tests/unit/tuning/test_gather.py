"""The facts of a run: what was asked for, and what is there."""

from pathlib import Path

import pytest

from tests.support.memory_model import FLAGS, default_ladder, install
from vllm_autotune.deploy.serve import serving_flags
from vllm_autotune.errors import BadUsage
from vllm_autotune.tuning.cache import cache_key
from vllm_autotune.tuning.gather import HOST_HEADROOM_BYTES, Request, describe, gather_facts
from vllm_autotune.workload import Effort


@pytest.fixture(autouse=True)
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    install(tmp_path / "site", (*FLAGS, "host", "api-key"), version="0.32.0+cpu")
    monkeypatch.syspath_prepend(tmp_path / "site")
    return tmp_path / "site"


def request_for(model: Path, **asked: object) -> Request:
    return Request(model=str(model), ladder=default_ladder(), **asked)  # type: ignore[arg-type]


def test_without_wishes_half_the_context_up_to_4096_is_accepted(tiny_model: Path) -> None:
    facts = gather_facts(request_for(tiny_model))
    assert (facts.context, facts.workload.min_context) == (8192, 4096)
    assert facts.base().flags() == []
    assert facts.headroom_bytes == HOST_HEADROOM_BYTES


def test_a_context_that_was_asked_for_is_not_shortened(tiny_model: Path) -> None:
    facts = gather_facts(request_for(tiny_model, context=2048))
    assert (facts.context, facts.workload.min_context) == (2048, 2048)
    assert facts.base().flags() == ["--max-model-len", "2048"]
    lenient = gather_facts(request_for(tiny_model, context=2048, min_context=512))
    assert lenient.workload.min_context == 512


def test_a_length_that_is_fixed_is_the_context(tiny_model: Path) -> None:
    facts = gather_facts(request_for(tiny_model, fixed=("--max-model-len", "4K")))
    assert facts.context == 4096
    assert facts.base().flags() == ["--max-model-len", "4K"]
    assert facts.workload.min_context <= 4096


def test_arguments_of_serving_are_left_to_the_trials(tiny_model: Path) -> None:
    words = ("--port", "1", "--api_key=x", "--host", "0.0.0.0", "--seed", "3")
    assert gather_facts(request_for(tiny_model, fixed=words)).fixed == {"seed": "3"}


def test_a_file_of_arguments_is_not_seen_and_refused(tiny_model: Path) -> None:
    with pytest.raises(BadUsage, match="--config serve"):
        gather_facts(request_for(tiny_model, fixed=("--config", "serve.yaml")))


def test_another_model_after_the_dashes_is_refused(tiny_model: Path) -> None:
    with pytest.raises(BadUsage, match="do not repeat --model after `--`"):
        gather_facts(request_for(tiny_model, fixed=("--model", "/other")))


@pytest.mark.parametrize("way", ["flag", "variable"])
def test_a_context_that_the_user_makes_possible_may_be_asked_for(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    fixed: tuple[str, ...] = ()
    if way == "flag":
        fixed = ("--hf-overrides", '{"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}')
    else:
        monkeypatch.setenv("VLLM_ALLOW_LONG_MAX_MODEL_LEN", "1")
    facts = gather_facts(request_for(tiny_model, context=16384, fixed=fixed))
    assert facts.context == 16384
    assert facts.workload.min_context == 16384


def test_a_home_folder_is_written_out_for_vllm(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tiny_model.parent))
    assert gather_facts(request_for(Path("~") / tiny_model.name)).model == str(tiny_model.resolve())


def test_a_shortened_flag_is_the_users_all_the_same(tiny_model: Path) -> None:
    words = ("--gpu-mem", "0.5", "--max-num-s", "4", "--max-num", "7")
    assert gather_facts(request_for(tiny_model, fixed=words)).fixed == {
        "gpu-memory-utilization": "0.5",
        "max-num-seqs": "4",
        "max-num": "7",  # vLLM will say that it is ambiguous
    }


def test_what_is_left_to_serving_may_be_shortened_too(tiny_model: Path) -> None:
    words = ("--hos", "0.0.0.0", "--api-k", "secret", "--seed", "3")
    facts = gather_facts(request_for(tiny_model, fixed=words))
    assert facts.fixed == {"seed": "3"}
    assert serving_flags(words, facts.engine) == ["--api-key", "secret", "--host", "0.0.0.0"]


def test_a_tool_cannot_be_asked_for_in_a_format_that_nobody_named(tiny_model: Path) -> None:
    probe = Effort(tool=True)
    with pytest.raises(BadUsage, match="--probe-tool") as refused:
        gather_facts(request_for(tiny_model, probe=probe))
    words = refused.value.hint.partition(" -- ")[2].split()
    assert gather_facts(request_for(tiny_model, probe=probe, fixed=words)).workload.probe.tool


def test_what_vllm_reads_from_the_environment_is_part_of_the_answer(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", "0")
    bare = gather_facts(request_for(tiny_model))
    monkeypatch.setenv("VLLM_API_KEY", "sk-1234567890")
    monkeypatch.setenv("VLLM_CACHE_ROOT", "/var/cache/vllm")
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "ERROR")
    monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", "1")
    facts = gather_facts(request_for(tiny_model))
    assert facts.base().env == {"VLLM_USE_V2_MODEL_RUNNER": "1"}
    assert cache_key(facts) != cache_key(bare)


def test_a_revision_is_passed_on(tiny_model: Path) -> None:
    assert gather_facts(request_for(tiny_model, revision="v2")).fixed == {"revision": "v2"}


def test_a_cpu_is_asked_for_what_the_workload_needs_and_not_for_all_it_has(
    tiny_model: Path,
) -> None:
    device = gather_facts(request_for(tiny_model)).devices[0]
    assert device.limit_bytes
    assert device.limit_bytes < device.memory_bytes
    given = gather_facts(request_for(tiny_model, memory_limit=2**30)).devices[0]
    assert given.limit_bytes == 2**30
    fixed = gather_facts(request_for(tiny_model, fixed=("--gpu-memory-utilization", "0.5")))
    assert fixed.devices[0].limit_bytes is None


def test_weights_are_not_needed_for_dummies(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((tiny_model / "config.json").read_text())
    facts = gather_facts(request_for(tmp_path, fixed=("--load-format", "dummy")))
    assert facts.checkpoint.weight_bytes


@pytest.mark.parametrize(
    "asked",
    [
        {"context": 8193},
        {"min_context": 8193},
        {"context": 1024, "min_context": 2048},
        {"context": 1024, "fixed": ("--max-model-len", "2048")},
        {"min_context": 4096, "fixed": ("--max-model-len", "2048")},
        {"fixed": ("stray",)},
    ],
)
def test_wishes_that_cannot_all_be_met_are_refused(
    tiny_model: Path, asked: dict[str, object]
) -> None:
    with pytest.raises(BadUsage) as refused:
        gather_facts(request_for(tiny_model, **asked))
    assert refused.value.hint


def test_a_line_says_what_is_tuned_on_what(tiny_model: Path) -> None:
    line = describe(gather_facts(request_for(tiny_model, memory_limit=2**30)))
    for part in ("Qwen2ForCausalLM", "8,192 tokens", "limited to 1.0 GiB", "vLLM 0.32.0+cpu"):
        assert part in line
