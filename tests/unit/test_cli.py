"""The command line: bad input ends in a sentence, a hint and an exit code; options, settings."""

import errno
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import CODE, Autotune, Ended, child
from tests.support.memory_model import FLAGS, install
from tests.support.paths import ROOT

CONFIG = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 8192,
    "vocab_size": 2048,
}


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the small model, to be broken."""
    return shutil.copytree(tiny_model, tmp_path / "model")


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


@pytest.mark.parametrize("ports", ["x", "9-", "0-5", "9-3", "1-70000", "-5"])
def test_a_port_range_that_is_none(autotune: Autotune, model: Path, ports: str) -> None:
    autotune("--model", model, f"--port-range={ports}").refused(2, "--port-range", hint=False)


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


@pytest.mark.parametrize("option", ["--context", "--min-context", "--concurrency"])
@pytest.mark.parametrize("tokens", ["0", "-5", "abc", "1.5", "", "1e9", "nan", "٣"])
def test_tokens_that_are_no_number_of_tokens(
    autotune: Autotune, model: Path, option: str, tokens: str
) -> None:
    autotune("--model", model, f"{option}={tokens}").refused(2, option, hint=False)


def test_a_context_longer_than_the_models(autotune: Autotune, model: Path) -> None:
    autotune("--model", model, "--context", "8193").refused(2, "8,193", "8,192")
    autotune("--model", model, "--context", "1000000000").refused(2, "1,000,000,000")
    autotune("--model", model, "--min-context", "9K").refused(2, "--min-context", "8,192")


def test_lengths_that_contradict_each_other(autotune: Autotune, model: Path) -> None:
    ended = autotune("--model", model, "--context", "4096", "--min-context", "5000")
    ended.refused(2, "--min-context 5,000")
    ended = autotune("--model", model, "--context", "4096", "--", "--max-model-len", "2048")
    ended.refused(2, "--context 4096", "--max-model-len 2048")


@pytest.mark.parametrize("option", ["--memory-limit", "--headroom"])
@pytest.mark.parametrize("size", ["0", "-1G", "lots", "11XB", "", "0.0001B", "nan", "1e3G"])
def test_a_size_that_is_none(autotune: Autotune, model: Path, option: str, size: str) -> None:
    autotune("--model", model, f"{option}={size}").refused(2, option, hint=False)


@pytest.mark.parametrize("seconds", ["0", "-1", "soon"])
def test_a_time_that_is_none(autotune: Autotune, model: Path, seconds: str) -> None:
    autotune("--model", model, f"--time-budget={seconds}").refused(2, "--time-budget", hint=False)


@pytest.mark.parametrize("effort", ["hard", "soak=", "soak=0", "soak=x", "quick=1", ""])
def test_an_effort_that_is_none(autotune: Autotune, model: Path, effort: str) -> None:
    ended = autotune("--model", str(model), "--probe", effort)
    ended.refused(2, "--probe", "quick, standard, soak", hint=False)


@pytest.mark.parametrize("effort", ["quick", "standard", "soak", "soak=2.5"])
def test_an_effort_is_part_of_the_answers_key(autotune: Autotune, model: Path, effort: str) -> None:
    usual = autotune("cache", "key", "--model", str(model))
    key = autotune("cache", "key", "--model", str(model), "--probe", effort)
    assert key.code == 0, key.err
    assert (key.out == usual.out) is (effort == "standard")


def test_a_bad_file_of_requests_is_refused_before_anything_else(
    autotune: Autotune, model: Path, tmp_path: Path
) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "x"}\n{"prompt": }\n')
    ended = autotune("--model", str(model), "--probe-file", str(file))
    ended.refused(2, f"{file}, line 2: not JSON")


def test_a_server_that_is_not_there_is_no_server(autotune: Autotune) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        ended = autotune("check", "--url", f"http://127.0.0.1:{port}", "--api-key", "sk-secret")
    ended.refused(3, f"no server at http://127.0.0.1:{port}")
    assert "sk-secret" not in ended.out + ended.err


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


def test_a_corrupt_cache_entry_is_ignored_and_said(
    autotune: Autotune, model: Path, tmp_path: Path
) -> None:
    options = ("--model", model, "--memory-limit", "1MiB", "--cache-dir", tmp_path / "answers")
    key = autotune("cache", "key", *options[:4]).out.strip()
    entry = tmp_path / "answers" / f"{key}.json"
    entry.parent.mkdir(parents=True)
    for text in ("", "{", "[]", '{"schema_version": 99}', '{"schema_version": 1}', "\x00\xff"):
        entry.write_text(text)
        ended = autotune("tune", *options)
        assert ended.code == 1
        assert "is ignored" in ended.err
        assert key in ended.err.replace("\n", "")


FULL_DISK = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
"""


def test_a_full_disk(autotune: Autotune, model: Path, site: Path) -> None:
    """No file may grow beyond nothing: what a full disk looks like to a program."""
    ended = child(
        *("--model", str(model), "--memory-limit", "1MiB", "--json"),
        code=FULL_DISK + CODE,
        PYTHONPATH=f"{ROOT}:{site}",
    )
    ended.refused(3, "cannot write", os.strerror(errno.EFBIG))
    assert json.loads(ended.out)["status"] == "refused"


def test_output_that_has_no_room() -> None:
    with Path("/dev/full").open("w") as full:
        ended = child("schema", stdout=full.fileno())
    ended.refused(3, os.strerror(errno.ENOSPC))


def test_a_report_that_has_no_room_is_no_answer(
    autotune: Autotune, model: Path, site: Path
) -> None:
    """Nor is the refusal that there is no room for it."""
    words = ("--model", str(model), "--json", "--memory-limit")
    with Path("/dev/full").open("w") as full:
        path = f"{ROOT}:{site}"
        ended = child(*words, "1MiB", stdout=full.fileno(), PYTHONPATH=path)
        ended.refused(3, os.strerror(errno.ENOSPC))
        refused = child(*words, "x", "--model", "/no", stdout=full.fileno(), PYTHONPATH=path)
        refused.refused(2, "--memory-limit", hint=False)
        child("show", "/no/report", "--json", stdout=full.fileno()).refused(2, "/no/report")


def test_a_mistake_that_cannot_be_told_for_want_of_room_is_still_one() -> None:
    done = subprocess.run(
        ["sh", "-c", '"$@" 2> /dev/full', "sh", sys.executable, "-c", CODE, "plam"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 2


@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_what_is_closed_has_no_reader(model: Path, closed: str) -> None:
    def code(*words: str) -> int:
        command = ["sh", "-c", f'"$@" {closed}', "sh", sys.executable, "-c", CODE, *words]
        env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80"}
        return subprocess.run(command, env=env, check=False).returncode

    planned = ("plan", "--model", str(model), "--device", "4090")
    assert code(*planned) == 0
    assert code(*planned, "--json") == 0
    assert code("plan", "--model", "/no/such/model", "--json") == 3
    assert code("--help") == 0


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_letter_that_the_terminal_does_not_have_is_written_as_in_json(
    autotune: Autotune, model: Path, encoding: str
) -> None:
    named = model.rename(model.parent / "modèle-通义-😀")
    words = ("plan", "--model", str(named), "--device", "4090")
    for options in ((), ("--json",)):
        done = subprocess.run(
            [sys.executable, "-c", CODE, *words, *options],
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding},
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        out = done.stdout.decode(encoding)
        assert ("通义" in out) is (encoding == "utf-8")
        if options:
            assert json.loads(out)["model"]["path"] == str(named)


def test_a_model_whose_name_is_no_text_is_refused(
    autotune: Autotune, model: Path, site: Path
) -> None:
    """In a process of its own: such a name in a test's output would end the tests."""
    named = str(model.rename(model.parent / "model-\udcff"))
    for words in (("tune",), ("plan", "--device", "4090"), ("plan", "--json")):
        ended = child(*words, "--model", named, PYTHONPATH=f"{ROOT}:{site}")
        ended.refused(2, r"\udcff` is not UTF-8: rename it", hint=False)
    ended = child("plan", "--model", "m", "--", "--tokenizer", "\udcff")
    ended.refused(2, "is not UTF-8", hint=False)


def test_a_path_that_is_no_text_can_be_refused_in_a_document() -> None:
    ended = child("show", "/no/\udcff", "--json")
    ended.refused(2, "/no/")
    assert json.loads(ended.out)["reason"].startswith(r"/no/\udcff cannot be read")


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_a_fault_of_our_own_is_not_taken_for_an_answer(
    autotune: Autotune, model: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    """Python's own exit code of 1 would say that the model does not fit."""

    def broken(_: object) -> None:
        raise KeyError("rope")

    monkeypatch.setattr("vllm_autotune.report.plan.make_plan", broken)
    ended = autotune("plan", "--model", model, "--device", "4090", *words)
    assert ended.code == 3
    assert "Traceback" in ended.err
    assert "in broken" in ended.err
    assert "this is a fault of autotune's own (KeyError: 'rope')" in ended.err
    assert "hint: please report it" in ended.err
    assert not words or "KeyError" in json.loads(ended.out)["reason"]


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


def test_json_can_be_asked_for_in_the_environment_too(
    autotune: Autotune, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOTUNE_JSON", "1")
    assert json.loads(autotune("--model", "/no/such/model").out)["status"] == "refused"


def test_json_among_vllms_arguments_is_vllms(autotune: Autotune) -> None:
    assert autotune("--model", "/no/such/model", "--", "--json").out == ""


def planned(ended: Ended) -> list[dict[str, Any]]:
    assert ended.code in {0, 1}, ended.err
    rows: list[dict[str, Any]] = json.loads(ended.out)["rungs"]
    return rows


def words_of(row: dict[str, Any]) -> str:
    return " ".join(row["proposal"]["flags"]) if row["proposal"] else ""


def flags(ended: Ended) -> str:
    """Return all flags of a plan."""
    return " ".join(map(words_of, planned(ended)))


def test_tune_is_what_is_meant_without_a_command(autotune: Autotune, model: Path) -> None:
    ended = autotune("--model", model, "--memory-limit", "1MiB", "--json")
    same = autotune("tune", "--model", model, "--memory-limit", "1MiB", "--json")
    assert json.loads(ended.out)["cache"] == json.loads(same.out)["cache"]
    assert autotune("--json", "--model", model, "--memory-limit", "1MiB").code == 1


def test_a_dry_run_is_a_plan(autotune: Autotune, model: Path) -> None:
    what = ("--model", model, "--json", "--memory-limit", "24GiB", "--capability", "8.9")
    plan, dry = (json.loads(autotune(*words, *what).out) for words in (["plan"], ["--dry-run"]))
    assert plan.pop("host_free_bytes")
    assert dry.pop("host_free_bytes")
    assert plan == dry
    assert [row["rung"] for row in plan["rungs"]][:2] == ["float16", "utilization"]


def test_a_mistyped_command_and_option_suggest_the_right_one(autotune: Autotune) -> None:
    assert "plan" in autotune("plam").err
    autotune("--modle", "x").refused(2, "--model", hint=False)
    autotune("plan", "--memory-limt", "x").refused(2, "--memory-limit", hint=False)


def test_a_stray_word_is_refused(autotune: Autotune, model: Path) -> None:
    autotune("--model", model, "stray").refused(2, "`stray` unexpected argument")
    autotune("--model", model, "stray", "--", "--dtype", "half").refused(2, "`stray`")


def test_the_environment_gives_options_and_the_command_line_wins(
    autotune: Autotune, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOTUNE_MODEL", str(model))
    monkeypatch.setenv("AUTOTUNE_MEMORY_LIMIT", "1MiB")
    monkeypatch.setenv("AUTOTUNE_CONTEXT", "2048")
    assert "--max-model-len 2048" in flags(autotune("plan", "--json"))
    assert "--max-model-len 1024" in flags(autotune("plan", "--json", "--context", "1024"))
    assert autotune("tune").code == 1
    monkeypatch.setenv("AUTOTUNE_MEMORY_LIMIT", "none of it")
    autotune("tune").refused(2, "none of it", hint=False)


def test_a_settings_file_comes_after_the_environment(
    autotune: Autotune, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("autotune.toml").write_text(
        f'model = "{model}"\ncontext = 2048\nmemory_limit = "900MiB"\n'
        'skip = ["shorter-context", "utilization"]\njson = true\n'
    )
    assert "--max-model-len 2048" in flags(autotune("plan"))
    assert "you skip" not in autotune("plan").out
    assert {"shorter-context", "utilization"}.isdisjoint(
        row["rung"] for row in planned(autotune("plan"))
    )
    monkeypatch.setenv("AUTOTUNE_CONTEXT", "1024")
    assert "--max-model-len 1024" in flags(autotune("plan"))
    assert "--max-model-len 512" in flags(autotune("plan", "--context", "512"))


def test_home_is_found_where_no_shell_has_looked_for_it(
    autotune: Autotune, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    shutil.copy(ROOT / "strategies" / "default.toml", home / "mine.toml")
    Path("autotune.toml").write_text(f'results-dir = "~/kept"\nmodel = "{model}"\n')
    monkeypatch.setenv("AUTOTUNE_CACHE_DIR", "~/answers")
    assert autotune("--memory-limit=1MiB", "--ladder=~/mine.toml").code == 1
    assert list((home / "kept").rglob("report.json"))
    assert autotune("cache", "list").code == 0
    autotune("plan", "--vllm-python=~/python").refused(3, "~/python: no such interpreter")
    (home / "python").write_text("")
    (home / "python").chmod(0o755)
    autotune("plan", "--vllm-python=~/python").refused(3, "~/python: not a Python")
    autotune("plan", "--probe-file=~/asked.jsonl").refused(2, f"{home}/asked.jsonl")
    autotune("plan", "--ladder=~nobody-here/x.toml").refused(2, "~nobody-here/x.toml")
    assert [path.name for path in Path().iterdir()] == ["autotune.toml"]


def test_vllms_arguments_are_a_list_in_the_settings(autotune: Autotune, model: Path) -> None:
    Path("autotune.toml").write_text('fixed = ["--dtype", "half", "--max-num-seqs", 7]\n')
    words = ("plan", "--json", "--model", model, "--memory-limit", "900MiB")
    assert "--dtype half" in flags(autotune(*words))
    assert "--max-num-seqs 7" in flags(autotune(*words))
    assert "--dtype half" not in flags(autotune(*words, "--", "--dtype", "float32"))
    Path("autotune.toml").write_text('fixed = "--dtype half"\n')
    autotune(*words).refused(2, "`fixed` cannot be --dtype half", 'fixed = ["--dtype", "half"]')


def test_settings_written_with_notepad_are_read(autotune: Autotune, model: Path) -> None:
    Path("autotune.toml").write_text("context = 2048\n", encoding="utf-8-sig")
    assert "--max-model-len 2048" in flags(autotune("plan", "--json", "--model", model))


def test_one_rung_to_skip_needs_no_list_in_the_settings(autotune: Autotune, model: Path) -> None:
    Path("autotune.toml").write_text('skip = "utilization"\nwait = false\n')
    rows = planned(autotune("plan", "--json", "--model", model, "--memory-limit", "900MiB"))
    assert "utilization" not in [row["rung"] for row in rows]


def test_a_results_folder_from_the_settings_is_the_one_that_is_shown(
    autotune: Autotune, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("autotune.toml").write_text('results-dir = "kept"\n')
    autotune("show").refused(2, "kept", hint=False)
    monkeypatch.setenv("AUTOTUNE_RESULTS_DIR", "elsewhere")
    autotune("render").refused(2, "elsewhere", hint=False)
    autotune("check").refused(2, "elsewhere", hint=False)


def test_a_cache_folder_from_the_settings_is_the_one_that_is_listed(
    autotune: Autotune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = tmp_path / "answers" / "gpu-1g-x1" / "model@local" / "0123.json"
    entry.parent.mkdir(parents=True)
    entry.write_text("{}")
    Path("autotune.toml").write_text(f'cache-dir = "{tmp_path / "answers"}"\n')
    assert autotune("cache", "list").out == "gpu-1g-x1/model@local/0123\n"
    monkeypatch.setenv("AUTOTUNE_CACHE_DIR", str(tmp_path / "elsewhere"))
    assert autotune("cache", "list").out == ""
    monkeypatch.delenv("AUTOTUNE_CACHE_DIR")
    autotune("cache", "clear").refused(3, "CACHEDIR.TAG")
    assert entry.exists()


def test_an_answer_is_passed_on_from_one_cache_to_another(
    autotune: Autotune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = ROOT / "results" / "examples" / "h200" / "7b-11GiB-fp8" / "report.json"
    key = json.loads(recorded.read_text())["cache"]["key"]
    monkeypatch.setenv("AUTOTUNE_CACHE_DIR", str(tmp_path / "one"))
    assert autotune("cache", "import", recorded).out == f"{key}\n"
    exported = autotune("cache", "export", key)
    winner = json.loads(recorded.read_text())["winner"]
    assert json.loads(exported.out)["winner"]["args"] == winner["args"]
    assert autotune("cache", "prune").out == ""
    assert autotune("cache", "prune", "--days", "0").out == f"{key}\n"
    autotune("cache", "export", key).refused(2, f"there is no answer for {key}")
    lost = recorded.parents[1] / "7b-kill-engine" / "report.json"
    autotune("cache", "import", lost).refused(2, "has no winner")
    assert autotune("cache", "list").out == ""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('\n\nmemory-limt = "1G"', ("line 3", "`memory-limt`", "did you mean `memory-limit`?")),
        ('model = "x"\n[tune]\ncontext = 3\n', ("line 2", "`tune`")),
        ("context = \n", ("autotune.toml", "line 1")),
        ("context = 0\n", ("--context",)),
        ("context = true\n", ("line 1", "`context` cannot be true")),
        ("\nexact = []\n", ("line 2", "`exact` cannot be []")),
        ("probe-file = true\n", ("line 1", "`probe-file` cannot be true")),
        ("model = { path = 3 }\n", ("line 1", "`model` cannot be")),
    ],
)
def test_a_mistake_in_the_settings_file_is_named(
    autotune: Autotune, model: Path, text: str, words: tuple[str, ...]
) -> None:
    Path("autotune.toml").write_text(text)
    autotune("plan", "--model", model).refused(2, *words, hint=False)


@pytest.mark.parametrize("words", [("schema",), ("plan", "--device", "4090")])
def test_a_reader_that_leaves_changes_no_exit_code(model: Path, words: tuple[str, ...]) -> None:
    """`autotune plan | head -1` in a script with `set -o pipefail`."""
    if words[0] == "plan":
        words = (*words, "--model", str(model))
    command = [sys.executable, "-c", CODE, *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            command, env=environment, stdout=write, stderr=subprocess.PIPE, text=True, check=False
        )
    finally:
        os.close(write)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


@pytest.mark.parametrize("command", ["foo 'bar", "   "])
def test_a_command_that_is_none(autotune: Autotune, model: Path, command: str) -> None:
    autotune("--model", model, "--vllm-command", command).refused(2, "--vllm-command")


def test_more_gpus_than_there_are(autotune: Autotune, model: Path) -> None:
    words = ("plan", "--model", model, "--device", "2 x T4", "--", "-tp", "2", "-pp", "2")
    autotune(*words).refused(2, "your arguments use 4 GPUs, 2 are there")


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
    assert "no memory is left for it" in ended.out


def test_an_address_that_is_empty(autotune: Autotune) -> None:
    autotune("check", "--url", "").refused(2, "--url is empty")


def test_a_broken_report_does_not_hide_the_others(
    autotune: Autotune, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = sorted((ROOT / "results" / "examples").rglob("report.json"))[:2]
    for number, text in enumerate([*(e.read_text() for e in examples), "{"]):
        folder = Path("kept") / str(number)
        folder.mkdir(parents=True)
        (folder / "report.json").write_text(text)
    monkeypatch.setenv("AUTOTUNE_RESULTS_DIR", "kept")
    ended = autotune("show")
    assert ended.code == 0
    assert "left out: kept/2/report.json" in ended.err
    assert "H200" in ended.out


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
    assert reasons["shorter-context"] == "you fixed --max-model-len"


def test_vllms_arguments_with_secrets_are_not_repeated(autotune: Autotune, model: Path) -> None:
    words = ("--", "--api-key", "sesame", "--port", "99", "--dtype", "half")
    ended = autotune("--model", model, "--memory-limit", "1MiB", "--json", *words)
    assert "sesame" not in ended.out + ended.err
    assert json.loads(ended.out)["fixed"] == {"dtype": "half"}


def test_the_stand_in_has_the_flags_the_ladder_sets() -> None:
    assert {"max-model-len", "cpu-offload-gb", "enforce-eager"} <= set(FLAGS)
