"""The winner on other people's platforms: valid by their own schemas, and started as proven.

The schemas of KServe, KAITO and the Helm charts are not ours to keep: tests that need them look in
the folder that DEPLOY_SCHEMAS names, and are skipped without it. So are those that need SkyPilot or
Ray, where they are not installed.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.command import Autotune
from tests.support.paths import EXAMPLES, ROOT
from tests.unit.deploy.test_render import (
    AWKWARD,
    MODEL,
    WON,
    changed,
    documents,
    every_winner,
    expanded,
    flags,
    sections,
    shell_words,
    systemd_words,
    values,
    variables,
    words,
)
from vllm_autotune.deploy import FORMATS, WITH_VOLUME, ModelVolume, Service
from vllm_autotune.errors import BadReport, BadUsage
from vllm_autotune.report.report import Report
from vllm_autotune.vllm.config import LaunchConfig, Value, parse_arguments

SCHEMAS = Path(os.environ.get("DEPLOY_SCHEMAS", ROOT.parent / "shared" / "schemas"))
needs_schemas = pytest.mark.skipif(
    not SCHEMAS.is_dir(), reason="the schemas of the targets are not here (DEPLOY_SCHEMAS)"
)
HUB = "Qwen/Qwen2.5-7B"
# Where a model may lie.
PLACES = {
    "on the node": (MODEL, None),
    "in a claim": (MODEL, ModelVolume("models", "qwen/7b")),
    "on the Hub": (HUB, None),
    "on the Hub, in a claim": (HUB, ModelVolume("hub")),
}
everywhere = pytest.mark.parametrize("place", PLACES)
HOSTILE: dict[str, Value] = {
    "hf-overrides": '{"a": {"b": "it\'s ${HOME} $(x) `y` %i"}}',
    "x-text": AWKWARD,
    "x-no": "no",
    "x-number": "1e5",
    "x-octal": "0o17",
    "x-time": "12:30:45",
    "x-empty": "",
    "x-null": "~",
    "x-on": True,
    "enable-prefix-caching": False,
}


def write(form: str, report: Report, volume: ModelVolume | None = None) -> str:
    return FORMATS[form](Service(report, volume=volume))


def flag_words(report: Report, *left_out: str) -> list[str]:
    assert report.winner
    args = {n: v for n, v in report.winner.args.items() if n not in left_out}
    return LaunchConfig("", args).flags()


def environment(container: Mapping[str, Any]) -> dict[str, str]:
    """Return the variables of a container that are not from a secret."""
    found = [each for each in container.get("env", ()) if "value" in each]
    return {each["name"]: expanded(each["value"]) for each in found}


def arguments(container: Mapping[str, Any]) -> list[str]:
    return [expanded(word) for word in container["args"]]


# Each returns the arguments of `vllm serve`, behind the model, and the variables.

Started = tuple[list[str], dict[str, str]]


def by_podman(report: Report) -> Started:
    env, command = {}, []
    for name, value in sections(write("quadlet", report)):
        if name == "Environment":
            (word,) = systemd_words(value)
            variable, _, content = expanded(word).partition("=")
            env[variable] = content
        elif name == "Exec":
            command = [expanded(word) for word in systemd_words(value)]
    assert report.winner
    assert command[:2] == ["serve", report.winner.model]
    return command[2:], env


def by_kserve(report: Report) -> Started:
    """Its template says `eval "vllm serve ... ${VLLM_ADDITIONAL_ARGS}"` in a shell."""
    (document,) = documents(write("kserve", report, ModelVolume("models")))
    spec = document["spec"]
    (main,) = spec["template"]["containers"]
    env = environment(main)
    size = spec.get("parallelism", {}).get("tensor")
    tensor = ["--tensor-parallel-size", str(size)] if size else []
    more = env.pop("VLLM_ADDITIONAL_ARGS")
    return [*(shell_words(more) if more else []), *tensor], env


def by_runtime(report: Report) -> Started:
    runtime, front = documents(write("kserve-runtime", report, ModelVolume("models")))
    assert front["spec"]["predictor"]["model"]["runtime"] == runtime["metadata"]["name"]
    (container,) = runtime["spec"]["containers"]
    assert container["command"] == ["vllm", "serve", "/mnt/models"]
    return without_name(arguments(container)), environment(container)


def by_llm_d(report: Report) -> Started:
    (document,) = documents(write("llm-d", report))
    (container,) = document["decode"]["containers"]
    command = [*container["command"], *arguments(container)]
    assert report.winner
    assert command[:3] == ["vllm", "serve", report.winner.model]
    return without_name(command[3:]), environment(container)


def without_name(found: list[str]) -> list[str]:
    assert found[-2] == "--served-model-name"
    return found[:-2]


def by_the_stack(report: Report) -> Started:
    """As the chart's template builds the command (templates/deployment-vllm-multi.yaml)."""
    (document,) = documents(write("production-stack", report))
    (model,) = document["servingEngineSpec"]["modelSpec"]
    config = model["vllmConfig"]
    fields = {
        "maxModelLen": "--max-model-len",
        "dtype": "--dtype",
        "tensorParallelSize": "--tensor-parallel-size",
        "maxNumSeqs": "--max-num-seqs",
        "gpuMemoryUtilization": "--gpu-memory-utilization",
    }
    command = [] if config["enablePrefixCaching"] else ["--no-enable-prefix-caching"]
    for name, flag in fields.items():
        command += [flag, str(config[name])] if name in config else []
    if "--tensor-parallel-size" not in flag_words(report):
        at = command.index("--tensor-parallel-size")
        assert command[at + 1] == "1"
        command = command[:at] + command[at + 2 :]
    return [*command, *map(expanded, config["extraArgs"])], environment(model)


def by_skypilot(report: Report) -> Started:
    (document,) = documents(write("skypilot", report))
    found = shell_words(document["run"].removesuffix("\n"))
    at = found.index("vllm")
    env = dict(pair.split("=", 1) for pair in found[:at])
    assert report.winner
    assert found[at : at + 3] == ["vllm", "serve", report.winner.model]
    return found[at + 3 :], env


STARTS: dict[str, Callable[[Report], Started]] = {
    "quadlet": by_podman,
    "kserve": by_kserve,
    "kserve-runtime": by_runtime,
    "llm-d": by_llm_d,
    "production-stack": by_the_stack,
    "skypilot": by_skypilot,
}
every_start = pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)


@every_winner
@every_start
def test_the_real_winners_start_as_they_were_proven(
    report: Report, start: Callable[[Report], Started]
) -> None:
    assert report.winner
    found, env = start(report)
    assert parse_arguments(found) == parse_arguments(flag_words(report))
    assert env == report.winner.env


@settings(max_examples=15)
@given(words, st.dictionaries(flags, values, max_size=3), st.dictionaries(variables, words))
def test_every_value_comes_back_or_is_refused(
    folder: str, args: dict[str, Value], env: dict[str, str]
) -> None:
    report = changed(model=f"/{folder}", args=args, env=env)
    for form, start in STARTS.items():
        found = refused = None
        try:
            found = start(report)
        except BadReport as refusal:
            refused = refusal
        if refused is None:
            assert found == (flag_words(report), env), form
        else:
            assert "{{" in str([args, env]), refused
            assert form in ("kserve", "kserve-runtime", "llm-d")


@every_start
def test_hostile_values_are_only_values(start: Callable[[Report], Started]) -> None:
    found, env = start(changed(args=HOSTILE, env={"VLLM_X": AWKWARD}))
    assert sorted(found) == sorted(flag_words(changed(args=HOSTILE)))
    assert env == {"VLLM_X": AWKWARD}


@pytest.mark.parametrize("form", ["kserve", "kserve-runtime"])
def test_what_kserve_would_take_for_a_template_is_refused(form: str) -> None:
    report = changed(args={"x-y": "{{ .Secrets }}"})
    with pytest.raises(BadReport, match="template") as refused:
        write(form, report, ModelVolume("m"))
    assert "--as k8s" in refused.value.hint


# Valid by their own schemas.


def check(schema: Any) -> Callable[[Any], None]:
    """Return what validates a document; checking the schema itself would take seconds."""
    validator = jsonschema.validators.validator_for(schema)(schema)

    def checked(document: Any) -> None:
        error = jsonschema.exceptions.best_match(validator.iter_errors(document))
        assert error is None, f"{error.json_path}: {error.message[:300]}"

    return checked


@cache
def by_compose() -> Callable[[Any], None]:
    """Return the specification that comes with check-jsonschema."""
    vendored = resources.files("check_jsonschema") / "builtin_schemas" / "vendor"
    return check(json.loads((vendored / "compose-spec.json").read_text(encoding="utf-8")))


@cache
def by_crd(kind: str, version: str) -> Callable[[Any], None]:
    document = json.loads((SCHEMAS / f"{kind}.json").read_text())
    return check(strict(document["versions"][version]))


@cache
def by_chart(name: str) -> Callable[[Any], None]:
    return check(json.loads((SCHEMAS / f"{name}.json").read_text()))


def strict(schema: Any) -> Any:
    """Return an OpenAPI schema that refuses what an API server would silently drop."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items() if key != "format"}
    known = "properties" in made and "type" in made and isinstance(made["properties"], dict)
    open_to_all = schema.get("x-kubernetes-preserve-unknown-fields")
    if known and not open_to_all and "additionalProperties" not in made:
        made["additionalProperties"] = False
    if schema.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
    return made


def in_place(place: str, args: Mapping[str, Value] = {}) -> tuple[Report, ModelVolume | None]:
    model, volume = PLACES[place]
    return changed(model=model, args=args, env={"VLLM_X": AWKWARD}), volume


def recorded_and_hostile() -> dict[str, Report]:
    return {**WON, "hostile": changed(args=HOSTILE, env={"VLLM_X": AWKWARD})}


REPORTS = recorded_and_hostile()
every_report = pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS)


@every_report
def test_a_compose_file_is_one_by_its_specification(report: Report) -> None:
    (document,) = documents(write("compose", report))
    by_compose()(document)


@every_report
def test_kubernetes_takes_every_document(report: Report) -> None:
    for document in documents(write("k8s", report, ModelVolume("models"))):
        kubernetes_validate.validate(document, "1.37", strict=True)


@everywhere
def test_kubernetes_takes_a_model_from_anywhere(place: str) -> None:
    report, volume = in_place(place, HOSTILE)
    deployment, _ = documents(write("k8s", report, volume))
    kubernetes_validate.validate(deployment, "1.37", strict=True)
    pod = deployment["spec"]["template"]["spec"]
    named = {each["name"]: each for each in pod["volumes"]}
    (mount,) = (m for m in pod["containers"][0]["volumeMounts"] if m["name"] != "shm")
    source = named[mount["name"]]
    if volume:
        assert source["persistentVolumeClaim"]["claimName"] == volume.claim
        assert mount.get("subPath", "") == volume.path
    else:
        assert ("emptyDir" if place == "on the Hub" else "hostPath") in source
    assert mount["mountPath"] == (MODEL if report.winner and report.winner.model == MODEL else HOME)


HOME = "/".join(("", "root", ".cache", "huggingface"))  # the image runs as root


@needs_schemas
@every_report
def test_kserve_takes_them(report: Report) -> None:
    (service,) = documents(write("kserve", report, ModelVolume("models", "a/b")))
    by_crd("kserve-llminferenceservice", "v1alpha2")(service)
    runtime, front = documents(write("kserve-runtime", report, ModelVolume("models", "a/b")))
    by_crd("kserve-servingruntime", "v1alpha1")(runtime)
    by_crd("kserve-inferenceservice", "v1beta1")(front)
    model = front["spec"]["predictor"]["model"]
    assert service["spec"]["model"]["uri"] == model["storageUri"] == "pvc://models/a/b"


@needs_schemas
@pytest.mark.parametrize(
    ("form", "schema"),
    [("llm-d", "llm-d-modelservice-values"), ("production-stack", "production-stack-values")],
)
@every_report
def test_the_charts_take_their_values(form: str, schema: str, report: Report) -> None:
    (document,) = documents(write(form, report))
    by_chart(schema)(document)


@needs_schemas
def test_kaito_takes_a_workspace() -> None:
    args = {name: value for name, value in HOSTILE.items() if not isinstance(value, tuple)}
    settings_map, workspace = documents(write("kaito", changed(model=HUB, args=args)))
    by_crd("kaito-workspace", "v1beta1")(workspace)
    kubernetes_validate.validate(settings_map, "1.37", strict=True)


# What each platform has of its own.


@every_winner
def test_kaito_is_given_every_argument_and_no_choice_of_its_own(report: Report) -> None:
    assert report.winner
    hub = replace(report, winner=replace(report.winner, model=HUB))
    settings_map, workspace = documents(write("kaito", hub))
    inner = yaml.safe_load(settings_map["data"]["inference_config.yaml"])
    assert inner["kv_cache_cpu_memory_utilization"] == 0, "it would take half of the host's memory"
    given = inner["vllm"]
    assert 0 < float(given["gpu-memory-utilization"]) <= 1
    # As it builds the command: `--NAME`, str(VALUE); what a flag does not take is left out.
    said = [w for n, v in given.items() for w in (f"--{n}", str(v)) if w != "True"]
    expected = parse_arguments(flag_words(report))
    found = parse_arguments(said)
    assert {name: found[name] for name in expected} == expected
    assert set(found) - set(expected) <= {"gpu-memory-utilization"}
    assert workspace["inference"] == {
        "preset": {"name": HUB},
        "config": workspace["metadata"]["name"],
    }


@pytest.mark.parametrize("args", [{}, {"x-y": ("a", "b")}])
def test_what_kaito_cannot_say_is_refused(args: dict[str, Value]) -> None:
    with pytest.raises(BadReport) as refused:
        write("kaito", changed(model=HUB if args else MODEL, args=args))
    assert "--as k8s" in refused.value.hint


@every_winner
def test_ray_is_given_every_argument_by_its_name_in_python(report: Report) -> None:
    (document,) = documents(write("ray-serve", report))
    (application,) = document["applications"]
    (llm,) = application["args"]["llm_configs"]
    assert report.winner
    kwargs = llm["engine_kwargs"]
    named: dict[str, Value] = {name.replace("_", "-"): value for name, value in kwargs.items()}
    words = {n: json.dumps(v) if isinstance(v, dict) else v for n, v in named.items()}
    assert LaunchConfig("", words).flags() == flag_words(report)
    assert llm["placement_group_config"]["bundles"] == [{"GPU": 1}] * report.winner.valid_for.count
    assert llm["accelerator_type"] == "H200"
    assert llm.get("runtime_env", {}).get("env_vars", {}) == report.winner.env


def test_values_for_ray_have_the_types_of_python() -> None:
    args: dict[str, Value] = {
        "max-num-seqs": "8",
        "max-model-len": "8K",
        "gpu-memory-utilization": "0.5",
        "hf-overrides": '{"rope_theta": 1e6}',
        "revision": "1234567",
        "enable-prefix-caching": False,
        "middleware": ("a.B",),
    }
    (document,) = documents(write("ray-serve", changed(args=args)))
    assert document["applications"][0]["args"]["llm_configs"][0]["engine_kwargs"] == {
        "enable_prefix_caching": False,
        "gpu_memory_utilization": 0.5,
        "hf_overrides": {"rope_theta": 1e6},
        "max_model_len": 8192,
        "max_num_seqs": 8,
        "middleware": ["a.B"],
        "revision": "1234567",
    }


def test_a_card_that_ray_does_not_know_is_said_and_not_guessed() -> None:
    device = {"name": "NVIDIA GeForce RTX 4090", "memory_bytes": int(23.52 * 2**30)}
    text = write("ray-serve", changed(device=device))
    assert "accelerator_type" not in text
    assert "# Ray has no accelerator type for NVIDIA GeForce RTX 4090" in text


@pytest.mark.parametrize("version", ["0.26.0", "0.29.1"])
def test_a_target_with_another_vllm_says_so(version: str) -> None:
    warned = "prove it again" in write("ray-serve", changed(version=version))
    assert warned == (version != "0.29.1")
    assert f"if that is not {version}" in write("kaito", changed(model=HUB, version=version))


def test_skypilot_takes_the_task() -> None:
    schemas = pytest.importorskip("sky.utils.schemas")
    for report in REPORTS.values():
        (document,) = documents(write("skypilot", report))
        jsonschema.validate(document, schemas.get_task_schema())
        jsonschema.validate(document["resources"], schemas.get_resources_schema())
        jsonschema.validate(document["service"], schemas.get_service_schema())


def test_ray_takes_the_configuration() -> None:
    llm = pytest.importorskip("ray.serve.llm")
    for report in REPORTS.values():
        (document,) = documents(write("ray-serve", report))
        for config in document["applications"][0]["args"]["llm_configs"]:
            llm.LLMConfig.model_validate(config)


@pytest.mark.parametrize("form", ["k8s", "kserve", "kserve-runtime", "llm-d", "production-stack"])
def test_a_pod_is_put_where_it_was_proven(form: str) -> None:
    mig = {"name": "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "mig": True, "uuid": "MIG-1"}
    report = changed(device=mig, startup=400.0, args={"cpu-offload-gb": "2.5", "swap-space": 4})
    text = write(form, report, ModelVolume("models"))
    assert "nvidia.com/mig-1g.10gb" in text
    assert "NVIDIA-H100-80GB-HBM3\n" in text
    assert re.search(r"failureThreshold: 120$", text, re.MULTILINE), "three starts of 400 s"
    memory = re.search(r"[mM]emory: (\d+)Gi", text)
    assert memory
    assert int(memory[1]) == (7 if form != "production-stack" else 15)


def test_a_model_of_a_node_is_no_model_of_kserves() -> None:
    for form in ("kserve", "kserve-runtime"):
        with pytest.raises(BadUsage, match="from a node") as refused:
            write(form, changed())
        assert "--model-volume" in refused.value.hint


def test_a_revision_of_the_hub_is_part_of_the_address() -> None:
    report = changed(model=HUB, args={"revision": "abc"})
    (service,) = documents(write("kserve", report))
    assert service["spec"]["model"] == {"uri": f"hf://{HUB}:abc", "name": HUB}


@pytest.mark.parametrize("text", ["models", "pvc:", "pvc:A", "pvc:a/../b", "host:/x", "pvc:a/b c"])
def test_a_volume_is_the_name_of_a_claim(text: str) -> None:
    with pytest.raises(ValueError, match="pvc:NAME"):
        ModelVolume.parse(text)


@pytest.mark.parametrize("form", [f for f in FORMATS if f not in ("env", "vllm-config", "shell")])
def test_a_file_says_what_was_proven_and_when(form: str) -> None:
    hub = changed(model=HUB)
    text = write(form, hub)
    assert text.startswith("# ")
    assert f"{HUB}, proven on 1 x NVIDIA H200 with vLLM 0.26.0" in text


@needs_schemas
@pytest.mark.parametrize("spelling", ["modell", "template.containers.0.imagee"])
def test_a_field_that_kserve_does_not_know_is_noticed(spelling: str) -> None:
    """Else the tests above could not fail."""
    (document,) = documents(write("kserve", changed(), ModelVolume("models")))
    at = document["spec"]
    *path, name = spelling.split(".")
    for each in path:
        at = at[int(each)] if each.isdigit() else at[each]
    at[name] = "x"
    with pytest.raises(AssertionError, match=name):
        by_crd("kserve-llminferenceservice", "v1alpha2")(document)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not here")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    """With a program that is there, which it looks for as well."""
    for number, report in enumerate(REPORTS.values()):
        assert report.winner
        argv = ("/bin/true", *report.winner.argv[1:])
        here = replace(report, winner=replace(report.winner, argv=argv))
        (tmp_path / f"vllm-{number}.service").write_text(write("systemd", here))
    units = sorted(map(str, tmp_path.iterdir()))
    verify = ["systemd-analyze", "verify", "--man=no", *units]
    done = subprocess.run(verify, capture_output=True, text=True, check=False)
    complaints = [line for line in done.stderr.splitlines() if str(tmp_path) in line]
    assert not complaints
    assert done.returncode == 0, done.stderr


def test_the_stack_finds_what_it_keeps_of_the_hub_in_the_claim() -> None:
    """The same files as with `--as k8s`, where the chart looks for them."""
    volume = ModelVolume("models", "cache")
    (stack,) = documents(write("production-stack", changed(model=HUB), volume))
    (model,) = stack["servingEngineSpec"]["modelSpec"]
    assert model["extraVolumeMounts"] == [
        {"name": "hub", "mountPath": "/".join(("", "tmp", "hub")), "subPath": "cache/hub"}
    ]
    assert model["extraVolumes"][0]["persistentVolumeClaim"] == {"claimName": "models"}
    (bare,) = documents(write("production-stack", changed(model=HUB)))
    assert "extraVolumes" not in bare["servingEngineSpec"]["modelSpec"][0]


def test_a_claim_is_for_formats_that_can_mount_one(autotune: Autotune) -> None:
    report = EXAMPLES / "h200" / "7b-11GiB-fp8"
    render = ("render", report, "--model-volume", "pvc:models/qwen")
    for form in FORMATS:
        ended = autotune(*render, "--as", form)
        if form in WITH_VOLUME:
            assert "claimName: models" in ended.out or "pvc://models/qwen" in ended.out
        else:
            ended.refused(2, "mounts no claim")
