"""`autotune cache`, and a cache that is broken."""

import io
import json
import sys
from pathlib import Path

import pytest

from tests.support.command import Autotune, child
from tests.support.fake_nvml import LIBRARY, Cards
from tests.support.memory_model import install
from tests.support.paths import ROOT

RECORDED = ROOT / "results" / "examples" / "h200" / "7b-11GiB-fp8" / "report.json"


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
    recorded = RECORDED
    key = json.loads(recorded.read_text())["cache"]["key"]
    monkeypatch.setenv("AUTOTUNE_CACHE_DIR", str(tmp_path / "one"))
    assert autotune("cache", "import", recorded).out == f"{key}\n"
    exported = autotune("cache", "export", key)
    winner = json.loads(recorded.read_text())["winner"]
    assert json.loads(exported.out)["winner"]["args"] == winner["args"]
    assert autotune("cache", "prune").out == ""
    assert autotune("cache", "prune", "--days", "0").out == f"{key}\n"
    autotune("cache", "export", key).refused(5, f"the cache has no answer for {key}")
    lost = recorded.parents[1] / "7b-kill-engine" / "report.json"
    autotune("cache", "import", lost).refused(2, "has no winner")
    assert autotune("cache", "list").out == ""


@pytest.mark.parametrize("count", [1, 2])
def test_the_key_is_told_where_neither_the_gpu_nor_vllm_is(
    autotune: Autotune, model: Path, tmp_path: Path, count: int
) -> None:
    install(tmp_path / "cuda", version="0.26.0")
    request = ("cache", "key", "--model", str(model), "--context", "4096")
    path = f"{LIBRARY}:{tmp_path / 'cuda'}:{ROOT}"
    cards = Cards.make(tmp_path / "cards", count).environment
    there = child(*request, **cards, PYTHONPATH=path)
    assert there.code == 0, there.err
    device = ("--device", "H200", "--count", str(count))
    assert autotune(*request, *device, "--vllm-version", "v0.26.0").out == there.out
    assert autotune(*request, *device, "--vllm-version", "0.27.0").out != there.out


def test_a_key_for_another_machine_must_say_all_that_decides_it(
    autotune: Autotune, model: Path
) -> None:
    request = ("cache", "key", "--model", model)
    autotune(*request, "--count", "2").refused(2, "--device")
    autotune(*request, "--device", "Voodoo 2", "--vllm-version", "0.26.0").refused(2, "Voodoo")
    version = autotune(*request, "--device", "H200", "--vllm-version", "newest")
    version.refused(2, "such as 0.26.0", hint=False)


def test_the_answers_are_listed_with_what_they_are_for(
    autotune: Autotune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOTUNE_CACHE_DIR", str(tmp_path / "answers"))
    key = autotune("cache", "import", RECORDED).out.strip()
    broken = tmp_path / "answers" / "gpu-1g-x1" / "model@local" / "0123456789abcdef.json"
    broken.parent.mkdir(parents=True)
    broken.write_text("{")
    first, second = json.loads(autotune("cache", "list", "--json").out)["answers"]
    assert (first["key"], first["max_model_len"]) == (
        "gpu-1g-x1/model@local/0123456789abcdef",
        None,
    )
    assert "is ignored" in first["problem"]
    winner = json.loads(RECORDED.read_text())["winner"]
    assert second["key"] == key
    assert second["problem"] == ""
    assert 0 <= second["age_seconds"] < 60
    assert (second["device"], second["count"]) == ("NVIDIA H200", 1)
    assert (second["model"], second["vllm"]) == ("/models/qwen2.5-7b", "0.26.0")
    assert second["max_model_len"] == winner["max_model_len"]


def test_an_answer_is_imported_from_a_pipe(
    autotune: Autotune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOTUNE_CACHE_DIR", str(tmp_path / "answers"))
    for text in (b"", b"{", b"\xff", b"[" * 100_000):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
        autotune("cache", "import", "-").refused(2, "stdin")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(RECORDED.read_bytes())))
    key = autotune("cache", "import", "-").out
    assert autotune("cache", "list").out == key
