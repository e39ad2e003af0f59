"""The command line as a process: its ends, its streams, and what it imports."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from tests.support.command import CODE, Autotune, child, forked
from tests.support.paths import ROOT
from vllm_autotune.cli.group import COMMANDS, cli
from vllm_autotune.interruption import Interrupted

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


def test_output_that_has_no_room_is_no_answer(
    autotune: Autotune, model: Path, site: Path, tmp_path: Path
) -> None:
    """Nor is the refusal that there is no room for it."""
    tune = ("--model", str(model), "--json", "--memory-limit")
    with Path("/dev/full").open("w") as full:
        schema, report, refused, unread = forked(
            tmp_path,
            ("schema",),
            (*tune, "1MiB"),
            (*tune, "x"),
            ("show", "/no/report", "--json"),
            stdout=full.fileno(),
            PYTHONPATH=f"{ROOT}:{site}",
        )
    schema.refused(3, os.strerror(errno.ENOSPC))
    report.refused(3, os.strerror(errno.ENOSPC))
    refused.refused(2, "--memory-limit", hint=False)
    unread.refused(2, "/no/report")


def test_a_mistake_that_cannot_be_told_for_want_of_room_is_still_one() -> None:
    done = subprocess.run(
        ["sh", "-c", '"$@" 2> /dev/full', "sh", sys.executable, "-c", CODE, "plam"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 2


@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_what_is_closed_has_no_reader(model: Path, tmp_path: Path, closed: str) -> None:
    plan = ("plan", "--model", str(model), "--device", "4090")
    refused = ("plan", "--model", "/no/such/model", "--json")
    ended = forked(
        tmp_path, plan, (*plan, "--json"), refused, ("--help",), redirection=closed, COLUMNS="80"
    )
    assert [each.code for each in ended] == [0, 0, 3, 0]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_letter_that_the_terminal_does_not_have_is_written_as_in_json(
    model: Path, tmp_path: Path, encoding: str
) -> None:
    named = model.rename(model.parent / "modèle-通义-😀")
    plan = ("plan", "--model", str(named), "--device", "4090")
    shown, document = forked(tmp_path, plan, (*plan, "--json"), PYTHONIOENCODING=encoding)
    for ended in (shown, document):
        assert ended.code == 0, ended.err
        assert ("通义" in ended.out) is (encoding == "utf-8")
    assert json.loads(document.out)["model"]["path"] == str(named)


def test_a_name_that_is_no_text_is_refused_unless_it_is_a_folder_to_write_to(
    autotune: Autotune, model: Path, site: Path, tmp_path: Path
) -> None:
    """In processes of their own: such a name in a test's output would end the tests."""
    named = ("--model", str(shutil.copytree(model, f"{model}-\udcff")))
    *models, words, path, folder = forked(
        tmp_path,
        ("tune", *named),
        ("plan", "--device", "4090", *named),
        ("plan", "--json", *named),
        ("plan", "--model", "m", "--", "--tokenizer", "\udcff"),
        ("show", "/no/\udcff", "--json"),
        ("--model", str(model), "--memory-limit", "1MiB", "--results-dir", f"{tmp_path}/\udcff"),
        PYTHONPATH=f"{ROOT}:{site}",
    )
    for ended in models:
        ended.refused(2, r"\udcff` is not UTF-8: rename it", hint=False)
    words.refused(2, "is not UTF-8", hint=False)
    path.refused(2, "/no/")
    assert json.loads(path.out)["reason"].startswith(r"/no/\udcff cannot be read")
    assert folder.code == 1, folder.err
    assert r"\udcff" in folder.out


def test_a_reader_that_leaves_changes_no_exit_code(model: Path, tmp_path: Path) -> None:
    """`autotune plan | head -1` in a script with `set -o pipefail`."""
    plan = ("plan", "--model", str(model), "--device", "4090")
    read, write = os.pipe()
    os.close(read)
    try:
        ended = forked(tmp_path, ("schema",), plan, stdout=write)
    finally:
        os.close(write)
    for each in ended:
        assert each.code == 0, each.err
        assert "Traceback" not in each.err
        assert "BrokenPipe" not in each.err


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_a_bug_of_our_own_is_not_taken_for_an_answer(
    autotune: Autotune, model: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    """Python's own exit code of 1 would say that the model does not fit."""

    def broken(*_: object) -> None:
        raise KeyError("rope")

    monkeypatch.setattr("vllm_autotune.cli.plan.make_plan", broken)
    ended = autotune("plan", "--model", model, "--device", "4090", *words)
    assert ended.code == 3
    assert "Traceback" in ended.err
    assert "in broken" in ended.err
    assert "this is a bug in autotune (KeyError: 'rope')" in ended.err
    assert "hint: please report it" in ended.err
    assert not words or "KeyError" in json.loads(ended.out)["reason"]


def test_an_interruption_has_its_exit_code(
    autotune: Autotune, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of whatever is interrupted, also where no tuning has begun."""
    for stop, code in ((Interrupted(signal.SIGTERM), 143), (KeyboardInterrupt(), 130)):

        def stopped(*_: object, stop: BaseException = stop) -> None:
            raise stop

        monkeypatch.setattr("vllm_autotune.cli.plan.make_plan", stopped)
        assert autotune("plan", "--model", model, "--device", "4090").code == code


def test_json_can_be_asked_for_in_the_environment_too(
    autotune: Autotune, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOTUNE_JSON", "1")
    assert json.loads(autotune("--model", "/no/such/model").out)["status"] == "refused"


def test_json_among_vllms_arguments_is_vllms(autotune: Autotune) -> None:
    assert autotune("--model", "/no/such/model", "--", "--json").out == ""


def test_a_mistyped_command_and_option_suggest_the_right_one(autotune: Autotune) -> None:
    assert "plan" in autotune("plam").err
    autotune("--modle", "x").refused(2, "--model", hint=False)
    autotune("plan", "--memory-limt", "x").refused(2, "--memory-limit", hint=False)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_all_commands_is_what_each_of_them_says(name: str) -> None:
    command = cli.load(name)
    assert command.name == name
    assert command.get_short_help_str(1000) == cli.commands[name].get_short_help_str(1000)


def test_the_help_of_all_commands_fits_a_terminal(
    autotune: Autotune, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert "..." not in autotune("--help").out.partition("Commands:")[2]


def test_a_shell_completes_commands_and_options() -> None:
    shell = ShellComplete(cli, {}, "autotune", "_AUTOTUNE_COMPLETE")

    def completions(*words: str) -> set[str]:
        return {found.value for found in shell.get_completions([*words[:-1]], words[-1])}

    assert completions("") == set(COMMANDS)
    assert completions("pl") == {"plan"}
    assert completions("--v") >= {"--version", "--vllm-python"}
    assert completions("tune", "--max") == {"--max-launches"}
    assert completions("cache", "") >= {"list", "key", "clear"}
    assert completions("render", "--as", "kub") == set()
    assert completions("render", "--as", "k8") == {"k8s"}


def test_a_shell_gets_its_completions() -> None:
    asked = {"COMP_WORDS": "autotune pl", "COMP_CWORD": "1"}
    assert child(_AUTOTUNE_COMPLETE="bash_complete", **asked).out == "plain,plan\n"
