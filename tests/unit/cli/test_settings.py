"""`autotune.toml`: options of the current folder."""

import shutil
from pathlib import Path

import pytest

from tests.support.command import Autotune, flags, planned
from tests.support.paths import ROOT
from vllm_autotune.cli.group import cli
from vllm_autotune.cli.settings import read_settings


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
    autotune(*words).refused(2, "`fixed` must be a list", 'fixed = ["--dtype", "half"]')


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


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('\n\nmemory-limt = "1G"', ("line 3: unknown key `memory-limt`", "mean `memory-limit`?")),
        ('model = "x"\n[tune]\ncontext = 3\n', ("line 2: unknown key `tune`",)),
        ("context = \n", ("autotune.toml is not TOML", "line 1")),
        ("context = 0\n", ("--context",)),
        ("context = true\n", ("line 1: `context` must be text or a number, not true",)),
        ("\nexact = []\n", ("line 2: `exact` must be true or false, not []",)),
        ("exact = 1\n", ("line 1: `exact` must be true or false, not 1",)),
        ("probe-file = true\n", ("line 1: `probe-file` must be text or a number, not true",)),
        ("model = { path = 3 }\n", ('`model` must be text or a number, not {"path": 3}',)),
        ("skip = [['a']]\n", ('line 1: `skip` must be text or a number, not ["a"]',)),
        ("fixed = [true]\n", ("line 1: `fixed` must be text or a number, not true",)),
        ('# context = 1\nmodel = "context"\nmin_context = 1\ncontext = true\n', ("line 4",)),
        ("min_context = true\n", ("line 1: `min-context` must be",)),
        ('model = "m"\nconfig = 3\ncontext = true\n', ("line 2: unknown key `config`",)),
    ],
)
def test_a_mistake_in_the_settings_file_is_named(
    autotune: Autotune, model: Path, text: str, words: tuple[str, ...]
) -> None:
    Path("autotune.toml").write_text(text)
    autotune("plan", "--model", model).refused(2, *words, hint=False)


def test_settings_become_the_words_of_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "autotune.toml"
    file.write_text(
        "model = 3\ncontext = 8192\nskip = 'a'\ngpus = [0, 1]\nwait = true\nexact = false\n"
        "revision = 2024-05-01\nfixed = ['--seed', 7]\njson = true\n"
    )
    params = cli.load("tune").params
    assert read_settings(file, params) == {
        "model": "3",
        "context": "8192",
        "skip": ["a"],
        "gpus": "0,1",
        "wait": "1000000000.0",
        "exact": False,
        "revision": "2024-05-01",
        "fixed": ["--seed", "7"],
        "as_json": True,
    }
    file.write_text("wait = false\n")
    assert read_settings(file, params) == {}
    file.write_text("wait = 1\n")
    assert read_settings(file, params) == {"wait": "1"}
