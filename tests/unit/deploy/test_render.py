"""A winner in every format: what starts is what was proven, on the devices it was proven on."""

import csv
import itertools
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from tests.support.paths import EXAMPLES
from vllm_autotune.cli import cli
from vllm_autotune.deploy import FORMATS, ModelVolume, Service
from vllm_autotune.errors import BadReport
from vllm_autotune.report.read import read_report
from vllm_autotune.report.report import Report
from vllm_autotune.vllm.config import LaunchConfig, Value

H200 = EXAMPLES / "h200"
REPORTS = {path.parent.name: read_report(path) for path in sorted(H200.glob("*/report.json"))}
WON = {name: report for name, report in REPORTS.items() if report.winner}
FP8 = REPORTS["7b-11GiB-fp8"]
CONTAINERS = ("docker", "compose", "k8s")
IMAGES = (*CONTAINERS, "quadlet", "llm-d", "production-stack", "skypilot")
ANYWHERE = tuple(form for form in FORMATS if form != "kaito")
MODEL = "/models/qwen2.5-7b"
AWKWARD = "a 'b' \"c\" \\d %i $HOME ${x} $(y) ; #é\n\t🙂\u2028\x85 end\\"

every_winner = pytest.mark.parametrize("report", WON.values(), ids=WON)
in_containers = pytest.mark.parametrize("form", CONTAINERS)
with_image = pytest.mark.parametrize("form", IMAGES)

# What a process can be given: no NUL, and no halves of characters.
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)
words = texts | st.text("ab \\\"'%${};#\n-", max_size=12)
flags = st.from_regex(r"x-[a-z][a-z-]{0,8}[a-z]", fullmatch=True)
values: st.SearchStrategy[Value] = st.one_of(
    words, st.booleans(), st.integers(), st.floats(0, 1), st.lists(words, max_size=3).map(tuple)
)
variables = st.from_regex(r"VLLM_[A-Z]{1,8}", fullmatch=True)


def changed(
    *,
    model: str = MODEL,
    args: Mapping[str, Value] = {},
    env: Mapping[str, str] = {},
    indices: tuple[int, ...] = (0,),
    version: str = "0.26.0",
    startup: float = 31.0,
    device: Mapping[str, Any] = {},
) -> Report:
    """Return a real report with another winner: the tests say what about it matters."""
    assert FP8.winner
    winner = replace(
        FP8.winner,
        argv=("/opt/my env/bin/vllm", "serve", model, *LaunchConfig(model, args).flags()),
        model=model,
        args=dict(args),
        env=dict(env),
        startup_seconds=startup,
        valid_for=replace(FP8.winner.valid_for, count=len(indices)),
    )
    devices = tuple(replace(FP8.devices[0], index=index, **device) for index in (*indices, 7))
    versions = replace(FP8.versions, vllm=version)
    return replace(FP8, winner=winner, devices=devices, versions=versions)


def render(report: Report, form: str = "shell") -> str:
    volume = ModelVolume("models", "a/b") if form.startswith("kserve") else None
    return FORMATS[form](Service(report, volume=volume))


def argv_of(report: Report) -> list[str]:
    assert report.winner
    return list(report.winner.argv)


def served(report: Report) -> list[str]:
    """Return what `vllm` is given to start the winner."""
    assert report.winner
    return ["serve", report.winner.model, *LaunchConfig("", report.winner.args).flags()]


# How each format is read, by the rules of whoever reads it.


def shell_words(text: str) -> list[str]:
    """Return the words that bash makes of a line, below comments."""
    program = f"words=({text}\n); printf '%s\\0' \"${{words[@]}}\""
    said = subprocess.run(
        ["bash", "-c", program], env={"LC_ALL": "C.UTF-8"}, capture_output=True, check=True
    )
    assert not said.stderr
    return said.stdout.decode().split("\0")[:-1]


def sections(unit: str) -> Iterator[tuple[str, str]]:
    """Read a unit file: systemd joins lines that end in a backslash, and skips comments."""
    for line in unit.split("\n"):
        assert not line.endswith("\\")
        if line and line[0] not in "#;[":
            name, _, value = line.partition("=")
            yield name, value


ESCAPED = re.compile(r"\\(?:x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8})|(.))", re.DOTALL)


def systemd_words(text: str) -> list[str]:
    """Split as systemd does: words in double quotes have C escapes, `%%` is one `%`."""
    found, at = [], 0
    for match in re.finditer(r'"((?:[^"\\]|\\.)*)"(?: |$)|([^\s"\'\\;]+)(?: |$)', text):
        assert match.start() == at, f"not read: {text[at : match.start()]}"
        at = match.end()
        quoted, plain = match.groups()
        word = plain if quoted is None else ESCAPED.sub(_unescaped, quoted)
        assert not re.search(r"(?<!%)(?:%%)*%(?!%)", word), f"a specifier: {word}"
        found.append(word.replace("%%", "%"))
    assert at == len(text), f"not read: {text[at:]}"
    return found


def _unescaped(match: re.Match[str]) -> str:
    *codes, letter = match.groups()
    code = "".join(filter(None, codes))
    assert code or letter in '\\"'
    return chr(int(code, 16)) if code else str(letter)


def started_by_systemd(unit: str) -> tuple[list[str], dict[str, str]]:
    """Return what a unit starts, `$$` being one `$` in arguments, and with which variables."""
    argv, env = [], {}
    for name, value in sections(unit):
        if name == "Environment":
            (word,) = systemd_words(value)
            variable, _, content = word.partition("=")
            env[variable] = content
        elif name == "ExecStart":
            program, *arguments = systemd_words(value)
            assert not any(re.search(r"\$", word.replace("$$", "")) for word in arguments)
            argv = [program, *(word.replace("$$", "$") for word in arguments)]
    return argv, env


def loaded_by_vllm(config: str) -> list[str]:
    """Return the words that `load_config_file` of vLLM makes of a file (0.32), in order."""
    made: list[str] = []
    (document,) = documents(config)
    for name, value in document.items():
        assert value is not False, "older ones drop it"
        assert value != [], "it would be dropped"
        made.append(f"--{name}")
        made += [] if value is True else map(str, value if isinstance(value, list) else [value])
    return made


def docker_words(line: str) -> list[str]:
    found = shell_words(line)
    assert found[:2] == ["docker", "run"]
    return found


def options(line: str, name: str) -> list[str]:
    found = docker_words(line)
    found = found[: found.index("--entrypoint") + 2]
    return [value for option, value in itertools.pairwise(found) if option == name]


def documents(text: str) -> list[dict[str, Any]]:
    """Read documents as YAML 1.1 (Kubernetes, Helm, compose) and 1.2 have it: they must agree."""
    found = list(yaml.safe_load_all(text))
    newer = YAML(typ="safe", pure=True)
    assert list(newer.load_all(text)) == found
    return found


def composed(report: Report) -> dict[str, Any]:
    (document,) = documents(render(report, "compose"))
    service: dict[str, Any] = document["services"]["vllm"]
    return service


def deployed(report: Report) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the pod and its container."""
    deployment, _ = documents(render(report, "k8s"))
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    return pod, container


def expanded(text: str) -> str:
    """Return what compose and Kubernetes make of text that names no variable."""
    assert "$" not in text.replace("$$", ""), f"a variable: {text}"
    return text.replace("$$", "$")


def in_docker(report: Report) -> tuple[list[str], dict[str, str]]:
    line = render(report, "docker")
    found = docker_words(line)
    env = dict(pair.split("=", 1) for pair in options(line, "-e"))
    return found[found.index("--entrypoint") + 3 :], env


def in_compose(report: Report) -> tuple[list[str], dict[str, str]]:
    service = composed(report)
    assert service["entrypoint"] == ["vllm"]
    env = {name: expanded(value) for name, value in service["environment"].items()}
    return [expanded(word) for word in service["command"]], env


def in_k8s(report: Report) -> tuple[list[str], dict[str, str]]:
    _, container = deployed(report)
    assert container["command"] == ["vllm"]
    env = {each["name"]: expanded(each["value"]) for each in container["env"]}
    return [expanded(word) for word in container["args"]], env


IN_CONTAINERS: dict[str, Callable[[Report], tuple[list[str], dict[str, str]]]] = {
    "docker": in_docker,
    "compose": in_compose,
    "k8s": in_k8s,
}


# What was proven is what starts.


@every_winner
def test_the_real_winners_start_with_the_very_words_that_were_proven(report: Report) -> None:
    assert report.winner
    argv = argv_of(report)
    assert argv[-len(served(report)) :] == served(report)
    line = shell_words(render(report))
    assert line[-len(argv) :] == argv
    assert started_by_systemd(render(report, "systemd"))[0] == argv
    assert ["serve", *loaded_by_vllm(render(report, "vllm-config"))] == [
        *("serve", "--model", report.winner.model),
        *served(report)[2:],
    ]
    for start in IN_CONTAINERS.values():
        assert start(report) == (served(report), report.winner.env)


@given(words, st.dictionaries(flags, values, max_size=3), st.dictionaries(variables, words))
def test_every_value_comes_back_from_every_format(
    folder: str, args: dict[str, Value], env: dict[str, str]
) -> None:
    report = changed(model=f"/{folder}", args=args, env=env)
    line = shell_words(render(report))
    assert line == [*(f"{name}={value}" for name, value in env.items()), *argv_of(report)]
    assert started_by_systemd(render(report, "systemd")) == (argv_of(report), env)
    model, flags_given = ["--model", f"/{folder}"], served(report)[2:]
    assert loaded_by_vllm(render(report, "vllm-config")) == [*model, *flags_given]
    for start in IN_CONTAINERS.values():
        assert start(report) == (served(report), env)


@pytest.mark.parametrize("form", ["vllm-config", "compose", "k8s"])
def test_a_document_has_no_line_ends_but_its_own(form: str) -> None:
    """YAML ends a line at U+0085 and U+2028, too, and reads no surrogate pairs."""
    text = render(changed(model=f"/{AWKWARD}", args={"x-y": AWKWARD}), form)
    assert text.splitlines() == text.split("\n")
    assert AWKWARD in str(documents(text)) or "🙂" in str(documents(text))


def test_what_a_flag_alone_says_is_one_in_the_file_for_vllm() -> None:
    args: dict[str, Value] = {
        "enable-prefix-caching": False,
        "enforce-eager": True,
        "hf-overrides": '{"rope_theta": 1e6}',
        "middleware": ("a.B", "c.D"),
        "seed": 0,
    }
    lines = render(changed(args=args), "vllm-config").splitlines()
    assert [line for line in lines if not line.startswith("#")] == [
        "model: /models/qwen2.5-7b",
        "no-enable-prefix-caching: true",
        "enforce-eager: true",
        'hf-overrides: "{\\"rope_theta\\": 1e6}"',
        "middleware:",
        "  - a.B",
        "  - c.D",
        "seed: 0",
    ]


def test_the_variables_that_vllms_file_cannot_set_are_told_in_a_comment() -> None:
    report = changed(env={"VLLM_X": "a\nport: 1"}, indices=(3,))
    text = render(report, "vllm-config")
    assert '# VLLM_X="a\\nport: 1"\n' in text
    assert '# CUDA_VISIBLE_DEVICES="3"\n' in text
    assert loaded_by_vllm(text) == ["--model", MODEL]


# The devices it was proven on.


@pytest.mark.parametrize(
    ("indices", "mig", "shown"),
    [
        ((0,), False, {}),
        ((0, 1), False, {}),
        ((3,), False, {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "3"}),
        ((1, 0), False, {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "1,0"}),
        ((0,), True, {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "MIG-9"}),
    ],
)
def test_on_the_machine_itself_a_winner_is_shown_its_devices_unless_it_takes_them_anyway(
    indices: tuple[int, ...], mig: bool, shown: dict[str, str]
) -> None:
    report = changed(indices=indices, device={"mig": mig, "uuid": "MIG-9"}, env={"VLLM_X": "1"})
    pairs = [f"{name}={value}" for name, value in {**shown, "VLLM_X": "1"}.items()]
    assert shell_words(render(report))[: len(pairs)] == pairs
    assert render(report, "env").splitlines() == pairs
    assert started_by_systemd(render(report, "systemd"))[1] == {**shown, "VLLM_X": "1"}


@pytest.mark.parametrize(
    ("indices", "mig", "ids"),
    [((0,), False, ["0"]), ((2, 0), False, ["2", "0"]), ((0,), True, ["MIG-9"])],
)
def test_a_container_is_given_the_devices_and_need_not_be_told_which(
    indices: tuple[int, ...], mig: bool, ids: list[str]
) -> None:
    report = changed(indices=indices, device={"mig": mig, "uuid": "MIG-9"})
    assert f"--gpus '\"device={','.join(ids)}\"' " in render(report, "docker")
    (gpus,) = composed(report)["deploy"]["resources"]["reservations"]["devices"]
    assert gpus == {"driver": "nvidia", "device_ids": ids, "capabilities": ["gpu"]}
    assert deployed(report)[1]["resources"] == {"limits": {"nvidia.com/gpu": len(ids)}}
    for form in CONTAINERS:
        assert "CUDA_VISIBLE_DEVICES" not in render(report, form)


@with_image
def test_no_path_of_the_python_that_was_tuned_gets_into_a_container(form: str) -> None:
    assert "/opt/my env" not in render(changed(), form)


# The image.


@with_image
@pytest.mark.parametrize(
    ("version", "tag"),
    [("0.26.0", "v0.26.0"), ("0.26.0+cu130", "v0.26.0"), ("0.10.1.1", "v0.10.1.1")],
)
def test_the_image_is_that_of_the_release_that_was_proven(
    form: str, version: str, tag: str
) -> None:
    text = render(changed(version=version), form)
    assert re.findall(r"vllm/vllm-openai(?::|\s+tag: )([\w.+]+)", text) == [tag]


@with_image
@pytest.mark.parametrize("version", ["0.11.1rc2.dev42+gabcdef", "0.1.dev1", "0"])
def test_a_build_that_is_no_release_has_no_image(form: str, version: str) -> None:
    with pytest.raises(BadReport, match="is not a release") as refused:
        render(changed(version=version), form)
    assert "--as systemd" in refused.value.hint


@with_image
def test_a_cpu_build_has_no_image_but_can_be_started_where_it_is(form: str) -> None:
    report = changed(device={"kind": "cpu"}, version="0.26.0+cpu")
    with pytest.raises(BadReport, match="CPU build") as refused:
        render(report, form)
    assert "--as shell" in refused.value.hint
    for usable in ("shell", "vllm-config", "systemd", "ray-serve"):
        assert MODEL in render(report, usable)


# The model.


def seen(report: Report) -> list[str]:
    """Return the paths of this machine a container sees, read-only; all formats have the same."""
    mounts = list(csv.reader(options(render(report, "docker"), "--mount")))
    paths = [mount[1].removeprefix("src=") for mount in mounts]
    assert mounts == [["type=bind", f"src={p}", f"dst={p}", "readonly"] for p in paths]
    volumes = [volume for volume in composed(report)["volumes"] if isinstance(volume, dict)]
    assert [(v["source"], v["target"], v["read_only"]) for v in volumes] == [
        (path, path, True) for path in paths
    ]
    pod, container = deployed(report)
    hosts = {v["name"]: v["hostPath"]["path"] for v in pod["volumes"] if "hostPath" in v}
    assert [m for m in container["volumeMounts"] if m["name"] in hosts] == [
        {"name": name, "mountPath": path, "readOnly": True} for name, path in hosts.items()
    ]
    assert list(hosts.values()) == paths
    return paths


@pytest.mark.parametrize(
    ("model", "folder"),
    [
        (MODEL, MODEL),
        ('/models/a,b "c"', '/models/a,b "c"'),
        ("/models/q-Q4.gguf", "/models"),
        ("/hub/models--Qwen--Qwen3-8B/snapshots/0123", "/hub/models--Qwen--Qwen3-8B"),
    ],
)
def test_a_container_sees_all_that_a_local_model_consists_of(model: str, folder: str) -> None:
    assert seen(changed(model=model)) == [folder]


def test_a_container_sees_the_other_files_that_the_arguments_name() -> None:
    args: dict[str, Value] = {
        "chat-template": "/templates/a.jinja",
        "download-dir": "/written/to",
        "lora-modules": ("sql=/adapters/sql", '{"name": "b", "path": "/adapters/b"}'),
        "quantization": "fp8",
        "speculative-config": '{"model": "/models/draft", "num_speculative_tokens": 3}',
        "tokenizer": f"{MODEL}/tokenizer",
    }
    others = ["/templates/a.jinja", "/adapters/sql", "/adapters/b", "/models/draft"]
    assert seen(changed(args=args)) == [MODEL, *others]


def test_a_node_without_the_model_is_found_out_before_the_server_starts() -> None:
    pod, _ = deployed(changed(args={"chat-template": "/templates/a.jinja"}))
    kinds = [volume["hostPath"]["type"] for volume in pod["volumes"] if "hostPath" in volume]
    assert kinds == ["Directory", ""]


def test_a_model_from_the_hub_is_kept_in_the_callers_cache() -> None:
    report = changed(model="Qwen/Qwen3-8B")
    assert seen(report) == []
    theirs = "/".join(("", "root", ".cache", "huggingface"))  # the image runs as root
    cache = "${HF_HOME:-${HOME}/.cache/huggingface}:" + theirs
    assert f'-v "{cache}"' in render(report, "docker")
    assert composed(report)["volumes"] == [cache]


def test_the_token_of_the_hub_is_handed_on_but_not_written_down(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_very_secret")
    report = changed(model="Qwen/Qwen3-8B")
    for form in FORMATS:
        assert "hf_very_secret" not in render(report, form)
    for form in ANYWHERE:
        assert "HF_TOKEN" not in render(changed(), form)
    assert "-e HF_TOKEN " in render(report, "docker")
    assert composed(report)["environment"] == {"HF_TOKEN": None}
    (variable,) = deployed(report)[1]["env"]
    assert variable["valueFrom"]["secretKeyRef"]["optional"] is True


@pytest.mark.parametrize(
    "model", [MODEL, "Qwen/Qwen3-8B:Q4_K_M", "/m/" + "X" * 70 + "-1", "/é/ü", f"/{AWKWARD}", "/"]
)
def test_names_are_valid_wherever_they_are_used(model: str) -> None:
    report = changed(model=model)
    items = documents(render(report, "k8s"))
    names = {documents(render(report, "compose"))[0]["name"]}
    names |= {item["metadata"]["name"] for item in items}
    assert len(names) == 1
    assert re.fullmatch(r"vllm(-[a-z0-9]+)*", *names)
    assert len(names.pop()) <= 63 - len("-0123456789-01234")  # what a pod's name has more
    volumes = [volume["name"] for volume in deployed(report)[0]["volumes"]]
    assert all(re.fullmatch(r"[a-z]+(-\d+)?", name) for name in volumes)


def test_a_snapshot_in_the_hubs_cache_is_named_after_its_model() -> None:
    report = changed(model="/hub/models--Qwen--Qwen3-8B/snapshots/0123")
    assert documents(render(report, "compose"))[0]["name"] == "vllm-qwen3-8b"


# How long it takes.


@pytest.mark.parametrize(
    ("model", "startup", "seconds"),
    [(MODEL, 31.0, 300), (MODEL, 200.5, 602), ("Qwen/Qwen3-8B", 31.0, 300 + 1800)],
)
def test_a_server_is_given_time_to_start(model: str, startup: float, seconds: int) -> None:
    report = changed(model=model, startup=startup)
    assert composed(report)["healthcheck"]["start_period"] == f"{seconds}s"
    probe = deployed(report)[1]["startupProbe"]
    assert seconds <= probe["failureThreshold"] * probe["periodSeconds"] < seconds + 10


def test_kubernetes_asks_for_the_servers_health_all_its_life() -> None:
    pod, container = deployed(changed())
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[name]["httpGet"] == {"path": "/health", "port": 8000}
    assert {"name": "shm", "emptyDir": {"medium": "Memory"}} in pod["volumes"]
    assert pod["enableServiceLinks"] is False
    deployment, service = documents(render(changed(), "k8s"))
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"] == labels


def test_a_unit_starts_again_after_a_failure_and_at_boot() -> None:
    unit = dict(sections(render(changed(), "systemd")))
    assert unit["Restart"] == "on-failure"
    assert int(unit["TimeoutStopSec"]) >= 30
    assert unit["WantedBy"] == "multi-user.target"


# What cannot be said.


def test_a_file_of_variables_says_so_when_there_are_none() -> None:
    assert render(changed(), "env").startswith("#")


@pytest.mark.parametrize("value", ["a\nb", " a", "a ", "'a'", '"a', "a\\b"])
def test_a_variable_that_docker_and_systemd_read_differently_is_refused(value: str) -> None:
    with pytest.raises(BadReport, match="differently") as refused:
        render(changed(env={"VLLM_X": value}), "env")
    assert "--as docker" in refused.value.hint


@pytest.mark.parametrize("value", ["", "1", "a b", '{"a": "b"}', "it's", "a=b", "$HOME %i #x"])
def test_a_variable_that_both_read_alike_stays_as_it_is(value: str) -> None:
    assert render(changed(env={"VLLM_X": value}), "env") == f"VLLM_X={value}"


@pytest.mark.parametrize("form", FORMATS)
def test_there_is_nothing_to_render_without_a_winner(form: str) -> None:
    exhausted = REPORTS["7b-kill-engine"]
    with pytest.raises(BadReport, match=re.escape(f"no winner: {exhausted.reason}")):
        render(exhausted, form)


@pytest.mark.parametrize("form", ANYWHERE)
def test_the_command_line_prints_every_format_word_for_word(form: str) -> None:
    path = str(H200 / "7b-11GiB-left" / "report.json")
    more = ["--model-volume", "pvc:models/a/b"] if form.startswith("kserve") else []
    shown = CliRunner().invoke(cli, ["render", path, "--as", form, *more], catch_exceptions=False)
    assert shown.output == render(REPORTS["7b-11GiB-left"], form) + "\n"
