"""`autotune cache`, and a cache that is broken."""

import json
from pathlib import Path

import pytest

from tests.support.command import Autotune
from tests.support.paths import ROOT


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
    recorded = ROOT / "results" / "examples" / "h200" / "7b-11GiB-fp8" / "report.json"
    key = json.loads(recorded.read_text())["cache"]["key"]
    monkeypatch.setenv("AUTOTUNE_CACHE_DIR", str(tmp_path / "one"))
    assert autotune("cache", "import", recorded).out == f"{key}\n"
    exported = autotune("cache", "export", key)
    winner = json.loads(recorded.read_text())["winner"]
    assert json.loads(exported.out)["winner"]["args"] == winner["args"]
    assert autotune("cache", "prune").out == ""
    assert autotune("cache", "prune", "--days", "0").out == f"{key}\n"
    autotune("cache", "export", key).refused(2, f"the cache has no answer for {key}")
    lost = recorded.parents[1] / "7b-kill-engine" / "report.json"
    autotune("cache", "import", lost).refused(2, "has no winner")
    assert autotune("cache", "list").out == ""
