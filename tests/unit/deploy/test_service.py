"""What belongs to a deployment: said where it is missing, and added where it is given."""

import re
from dataclasses import replace

import pytest
import yaml

from tests.support.command import Autotune
from tests.support.paths import EXAMPLES
from vllm_autotune.deploy import FORMATS, KeySource, ModelVolume, Service, added_arguments
from vllm_autotune.errors import BadUsage
from vllm_autotune.report.read import read_report
from vllm_autotune.report.report import Report
from vllm_autotune.vllm.flags import DEPLOYMENT

RECORDED = EXAMPLES / "h200" / "7b-as-it-is" / "report.json"
CONTAINERS = ("docker", "compose", "k8s")
SECRETS = ("k8s", "kserve", "kserve-runtime", "llm-d", "production-stack")
KEYLESS = ("env", "kaito", "ray-serve")
every_form = pytest.mark.parametrize("form", FORMATS)
in_containers = pytest.mark.parametrize("form", CONTAINERS)


def report(*left_out: str, model: str | None = None) -> Report:
    recorded = read_report(RECORDED)
    assert recorded.winner
    model = model or recorded.winner.model
    return replace(recorded, winner=replace(recorded.winner, left_out=left_out, model=model))


def service(*left_out: str, added: str = "", key: str = "", form: str = "") -> Service:
    hub = "Qwen/Qwen2.5-7B" if form == "kaito" else None
    volume = ModelVolume("models") if form.startswith("kserve") else None
    source = KeySource.parse(key) if key else None
    found = Service(report(*left_out, model=hub), key=source, volume=volume)
    return replace(found, added=added_arguments(added.split(), found.winner))


def key_of(form: str) -> str:
    return "secret:vllm/key" if form in SECRETS else "env:VLLM_API_KEY"


@every_form
def test_what_was_left_out_of_the_answer_is_named_until_it_is_given(form: str) -> None:
    text = FORMATS[form](service("api-key", "root-path", form=form))
    assert "--api-key, --root-path" in text
    assert "belong to the deployment" in text
    if form in KEYLESS:
        return
    left = ("api-key", "root-path")
    text = FORMATS[form](service(*left, added="--root-path /a", key=key_of(form), form=form))
    assert "belong to the deployment" not in text


@every_form
def test_a_key_is_never_written_down(form: str) -> None:
    with pytest.raises(BadUsage, match="in plain text") as refused:
        service(added="--api-key sk-secret")
    assert "--api-key-from" in refused.value.hint


@in_containers
def test_a_container_says_that_no_key_protects_its_port(form: str) -> None:
    assert "no key protects port 9000" in FORMATS[form](service(added="--port 9000"))
    assert "no key protects" not in FORMATS[form](service(key=key_of(form)))


def test_what_a_person_reads_are_comments_that_nothing_else_reads() -> None:
    for form in FORMATS:
        left = service("api-key", "root-path", form=form)
        notes = [line for line in FORMATS[form](left).split("\n") if "the deployment" in line]
        assert [line[:2] for line in notes] == ["# "]


@every_form
def test_arguments_of_the_deployment_are_added_to_every_format(form: str) -> None:
    if form == "env":
        return
    if form in ("kserve", "kaito", "llm-d"):
        with pytest.raises(BadUsage, match="--port cannot be added"):
            FORMATS[form](service(added="--port 9000", form=form))
        return
    added = "--port 9000 --root-path /llm --disable-fastapi-docs"
    text = FORMATS[form](service(added=added, form=form))
    assert re.search(r"[pP]ort\W+9000", text)
    assert re.search(r"root[-_]path\W+/llm", text)
    assert re.search("disable[-_]fastapi[-_]docs", text)
    assert "8000" not in text


@in_containers
def test_a_port_is_the_same_everywhere(form: str) -> None:
    text = FORMATS[form](service(added="--port 9000"))
    assert text.count("9000") >= 3
    assert "--mount type=bind,src=/llm" not in FORMATS["docker"](service(added="--root-path /llm"))


def test_an_encrypted_server_is_asked_for_its_health_so_and_sees_its_certificate() -> None:
    encrypted = service(added="--ssl-certfile /tls/a.pem --ssl-keyfile /tls/a.key")
    composed = yaml.safe_load(FORMATS["compose"](encrypted))["services"]["vllm"]
    assert "https://127.0.0.1:8000/health" in composed["healthcheck"]["test"][-1]
    mounted = [volume["source"] for volume in composed["volumes"]]
    assert {"/tls/a.pem", "/tls/a.key"} <= set(mounted)
    assert FORMATS["k8s"](encrypted).count("scheme: HTTPS") == 3


@in_containers
def test_a_container_without_a_port_is_refused(form: str) -> None:
    with pytest.raises(BadUsage, match="--uds"):
        FORMATS[form](service(added="--uds /run/vllm.sock"))


@pytest.mark.parametrize(
    ("form", "key", "expected"),
    [
        ("shell", "env:MY_KEY", 'VLLM_API_KEY="${MY_KEY:?}"'),
        ("vllm-config", "env:MY_KEY", "# VLLM_API_KEY, from MY_KEY"),
        ("systemd", "env:VLLM_API_KEY", "PassEnvironment=VLLM_API_KEY"),
        ("docker", "env:MY_KEY", '-e VLLM_API_KEY="${MY_KEY:?}"'),
        ("compose", "env:MY_KEY", 'VLLM_API_KEY: "${MY_KEY:?}"'),
        ("quadlet", "env:VLLM_API_KEY", "PassEnvironment=VLLM_API_KEY"),
        ("skypilot", "env:MY_KEY", 'VLLM_API_KEY="${MY_KEY:?}"'),
        ("production-stack", "secret:vllm/key", "secretName: vllm secretKey: key"),
        *(
            (form, "secret:vllm/key", "secretKeyRef: name: vllm key: key")
            for form in ("k8s", "kserve", "kserve-runtime", "llm-d")
        ),
    ],
)
def test_a_key_comes_from_where_it_is_kept(form: str, key: str, expected: str) -> None:
    assert expected in " ".join(FORMATS[form](service(key=key, form=form)).split())


@pytest.mark.parametrize(
    ("form", "key"),
    [
        *((form, "secret:vllm/key") for form in FORMATS if form not in SECRETS),
        *((form, "env:MY_KEY") for form in (*SECRETS, *KEYLESS, "systemd", "quadlet")),
    ],
)
def test_a_source_that_a_format_cannot_read_is_refused(form: str, key: str) -> None:
    with pytest.raises(BadUsage) as refused:
        FORMATS[form](service(key=key, form=form))
    assert refused.value.hint


@pytest.mark.parametrize("text", ["sk-secret", "env:", "env:a b", "secret:x", "secret:X/y", ""])
def test_a_source_of_a_key_is_a_name(text: str) -> None:
    with pytest.raises(ValueError, match="env:NAME or secret:NAME/KEY"):
        KeySource.parse(text)


@pytest.mark.parametrize("added", ["--max-num-seqs 9", "--dtype half", "--lora-modules a=/b"])
def test_what_was_proven_is_not_changed_by_a_deployment(added: str) -> None:
    with pytest.raises(BadUsage, match=r"could change what was proven|is part of the winner"):
        service(added=added)


def test_the_command_line_adds_what_follows_the_dashes(autotune: Autotune) -> None:
    line = autotune("render", RECORDED, "--", "--port", "9000").out
    assert line.endswith("--port 9000\n")
    autotune("render", RECORDED, "--", "--dtype", "half").refused(2, "--dtype", "tune again")
    autotune("render", RECORDED, "--api-key-from", "sk-1").refused(2, "env:NAME", hint=False)
    autotune("render", "--", "--port", "9").refused(2, "results", hint=False)


def test_no_argument_of_a_deployment_is_one_that_a_ladder_sets() -> None:
    for path in (EXAMPLES.parents[1] / "strategies").glob("*.toml"):
        assert not [name for name in DEPLOYMENT if f'"{name}"' in path.read_text()]
