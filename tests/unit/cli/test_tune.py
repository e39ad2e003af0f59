"""`autotune tune`: what it refuses before any launch, and what needs none."""

import json
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import Autotune, child
from tests.support.memory_model import install

CONFIG = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 8192,
    "vocab_size": 2048,
}


def test_a_model_that_is_not_there(autotune: Autotune) -> None:
    autotune("--model", "/no/such/model").refused(3, "/no/such/model")


def test_a_folder_without_config_json(autotune: Autotune, model: Path) -> None:
    (model / "config.json").unlink()
    autotune("--model", model).refused(3, "config.json")


def test_a_config_json_that_is_broken(autotune: Autotune, model: Path) -> None:
    (model / "config.json").write_text('{"model_type": ')
    autotune("--model", model).refused(3, "not valid JSON")


@pytest.mark.parametrize("text", ["[]", "3", "null", '"x"'])
def test_a_config_json_that_is_no_object(autotune: Autotune, model: Path, text: str) -> None:
    (model / "config.json").write_text(text)
    autotune("--model", model).refused(3, "config.json")


@pytest.mark.parametrize(
    "missing", ["hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"]
)
def test_a_config_json_without_a_field_it_needs(
    autotune: Autotune, model: Path, missing: str
) -> None:
    config = {name: value for name, value in CONFIG.items() if name != missing}
    (model / "config.json").write_text(json.dumps(config))
    autotune("--model", model).refused(3, missing)


@pytest.mark.parametrize("value", ["many", -1, 0, None, [4], {"a": 1}, 1e400])
def test_a_config_json_with_nonsense_in_a_field(
    autotune: Autotune, model: Path, value: object
) -> None:
    (model / "config.json").write_text(json.dumps({**CONFIG, "num_hidden_layers": value}))
    autotune("--model", model).refused(3, "num_hidden_layers")


def test_a_model_without_weights(autotune: Autotune, model: Path) -> None:
    (model / "model.safetensors").unlink()
    autotune("--model", model).refused(3, "no weights")


@pytest.mark.parametrize("size", [0, 4, 100, 100_000])
def test_weights_that_are_cut_short(autotune: Autotune, model: Path, size: int) -> None:
    os.truncate(model / "model.safetensors", size)
    autotune("--model", model).refused(3, "model.safetensors")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_files_that_cannot_be_read(autotune: Autotune, model: Path, name: str) -> None:
    (model / name).unlink()
    (model / name).mkdir()  # for root as well, a folder is no file
    autotune("--model", model).refused(3)


def test_no_vllm(autotune: Autotune, model: Path, site: Path, tmp_path: Path) -> None:
    shutil.rmtree(site / "vllm")
    done = child("--model", str(model), PATH="/usr/bin:/bin", AUTOTUNE_MEMORY_LIMIT="1MiB")
    if " vLLM 0" in done.err:
        pytest.skip("a vLLM is installed beside autotune")
    done.refused(3, "no vLLM is installed")


@pytest.mark.parametrize("python", ["/no/such/python", "/bin/true", "/", "/etc/passwd"])
def test_a_vllm_python_that_is_no_interpreter(autotune: Autotune, model: Path, python: str) -> None:
    autotune("--model", model, "--vllm-python", python).refused(3, python)


def test_a_cuda_build_of_vllm_without_a_gpu(
    autotune: Autotune, model: Path, site: Path, tmp_path: Path
) -> None:
    shutil.rmtree(site)
    install(site, version="0.26.0")
    ended = autotune("--model", model, "--results-dir", tmp_path / "results", "--max-launches", 1)
    if "NVIDIA" in ended.err and "free)" in ended.err:
        pytest.skip("there is a GPU")
    ended.refused(3, "NVIDIA")


def test_gpus_asked_of_a_cpu_build(autotune: Autotune, model: Path) -> None:
    autotune("--model", model, "--gpus", "0").refused(2, "--gpus 0", "CPU build")


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_every_port_in_use(autotune: Autotune, model: Path, taken_port: int) -> None:
    ended = autotune("--model", model, "--json", "--port-range", f"{taken_port}-{taken_port}")
    report = json.loads(ended.out)
    assert (ended.code, report["status"]) == (3, "environment")
    assert f"every port from {taken_port} to {taken_port} is in use" in report["reason"]
    assert "--port-range" in report["hint"]
    assert report["trials"] == []


def test_a_ladder_with_a_typo_names_the_line_and_the_key(
    autotune: Autotune, model: Path, tmp_path: Path
) -> None:
    ladder = tmp_path / "mine.toml"
    ladder.write_text('[[rung]]\nname = "a"\ngives_up = "b"\ncure = ["load"]\n')
    ended = autotune("--model", model, "--ladder", ladder)
    ended.refused(2, "mine.toml, line 4", "unknown key `cure`", "did you mean `cures`?")


@pytest.mark.parametrize("name", ["defualt", "nothing-like-it", "missing.toml"])
def test_a_ladder_that_is_not_there(autotune: Autotune, model: Path, name: str) -> None:
    autotune("--model", model, "--ladder", name).refused(2, name)


def test_a_rung_to_skip_that_is_not_there(autotune: Autotune, model: Path) -> None:
    ended = autotune("--model", model, "--skip", "shorter-contxt")
    ended.refused(2, "did you mean `shorter-context`?")


def test_a_context_longer_than_the_models(autotune: Autotune, model: Path) -> None:
    autotune("--model", model, "--context", "8193").refused(2, "8,193", "8,192")
    autotune("--model", model, "--context", "1000000000").refused(2, "1,000,000,000")
    autotune("--model", model, "--min-context", "9K").refused(2, "--min-context", "8,192")


def test_lengths_that_contradict_each_other(autotune: Autotune, model: Path) -> None:
    ended = autotune("--model", model, "--context", "4096", "--min-context", "5000")
    ended.refused(2, "--min-context 5,000")
    ended = autotune("--model", model, "--context", "4096", "--", "--max-model-len", "2048")
    ended.refused(2, "--context 4096", "--max-model-len 2048")


def test_a_bad_file_of_requests_is_refused_before_anything_else(
    autotune: Autotune, model: Path, tmp_path: Path
) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "x"}\n{"prompt": }\n')
    ended = autotune("--model", str(model), "--probe-file", str(file))
    ended.refused(2, f"{file}, line 2: not JSON")


def test_a_memory_limit_too_small_for_anything_needs_no_launch(
    autotune: Autotune, model: Path
) -> None:
    ended = autotune("--model", model, "--memory-limit", "1MiB", "--json")
    report = json.loads(ended.out)
    assert (ended.code, report["status"], report["launches"]) == (1, "exhausted", 0)
    assert report["reason"]
    assert report["hint"]
    assert {skip["rung"] for skip in report["skipped"]} >= {"utilization", "shorter-context"}


@pytest.mark.parametrize("option", ["--results-dir", "--cache-dir"])
@pytest.mark.parametrize("below", [False, True])
def test_a_folder_that_cannot_be_written(
    autotune: Autotune, model: Path, tmp_path: Path, option: str, below: bool
) -> None:
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "below" if below else Path("/proc/nothing")
    ended = autotune("--model", model, "--memory-limit", "1MiB", option, folder)
    ended.refused(3, f"cannot write {folder}", "--results-dir")


@pytest.mark.parametrize("command", ["foo 'bar", "   "])
def test_a_command_that_is_none(autotune: Autotune, model: Path, command: str) -> None:
    autotune("--model", model, "--vllm-command", command).refused(2, "--vllm-command")


def test_a_stray_word_is_refused(autotune: Autotune, model: Path) -> None:
    autotune("--model", model, "stray").refused(2, "unexpected argument `stray`")
    autotune("--model", model, "stray", "--", "--dtype", "half").refused(2, "`stray`")


def test_tune_is_what_is_meant_without_a_command(autotune: Autotune, model: Path) -> None:
    ended = autotune("--model", model, "--memory-limit", "1MiB", "--json")
    same = autotune("tune", "--model", model, "--memory-limit", "1MiB", "--json")
    assert json.loads(ended.out)["cache"] == json.loads(same.out)["cache"]
    assert autotune("--json", "--model", model, "--memory-limit", "1MiB").code == 1


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("--memory-limit", "1MiB"), 1),
        (("--memory-limit", "1MiB", "--results-dir", "/proc/nothing"), 3),
        (("--memory-limit", "1MiB", "--vllm-python", "/no/python"), 3),
        (("--context", "1000000"), 2),
    ],
)
def test_json_is_exactly_one_document_however_it_ends(
    autotune: Autotune, model: Path, words: tuple[str, ...], code: int
) -> None:
    ended = autotune("--model", model, "--json", *words)
    document = json.loads(ended.out)
    assert ended.code == code
    assert document["reason"]
    assert document["winner"] is None
    assert document["status"] in {"exhausted", "refused"}


def test_vllms_arguments_with_secrets_are_not_repeated(autotune: Autotune, model: Path) -> None:
    words = ("--", "--api-key", "sesame", "--port", "99", "--dtype", "half")
    ended = autotune("--model", model, "--memory-limit", "1MiB", "--json", *words)
    assert "sesame" not in ended.out + ended.err
    assert json.loads(ended.out)["fixed"] == {"dtype": "half"}
