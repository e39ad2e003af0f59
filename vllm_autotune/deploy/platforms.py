"""The winner on platforms with a format of their own: KAITO, Ray Serve LLM, SkyPilot."""

import json
from contextlib import suppress
from typing import Any

from ..command_line import command_line
from ..errors import BadReport, BadUsage
from ..machine.cards import known_card
from ..machine.device import counted
from ..vllm.config import LaunchConfig, Value
from .kserve import served_name
from .kubernetes import node_selector
from .paths import mounted_paths
from .service import KEY_VARIABLE, Service
from .yaml_text import Block, write_yaml

# The types that Ray knows (ray/util/accelerators/accelerators.py, 2.60), by our cards' names.
RAY_TYPES = {
    **{name: name for name in ("V100", "T4", "A10G", "L4", "L40S", "A100", "H100", "H200", "B200")},
    "RTX PRO 6000": "RTX-PRO-6000",
}
RAY, RAY_VLLM = "2.60", "0.29"
# What SkyPilot calls a card that has other sizes, too.
SKY_SIZES = {("A100", "80GB"): "A100-80GB", ("V100", "32GB"): "V100-32GB"}
# Digits in the values of these are text.
TEXTS = ("revision", "code-revision", "tokenizer-revision", "served-model-name", "tokenizer")


def kaito(service: Service) -> str:
    """Write a ConfigMap of vLLM's arguments and the Workspace (v1beta1) that uses it.

    KAITO writes `--NAME VALUE` for each entry, sets arguments of its own where there is none, and
    takes half of the free host memory for the KV cache unless told otherwise
    (presets/workspace/inference/vllm/inference_api.py).
    """
    winner, device = service.winner, service.devices[0]
    if not service.from_hub:
        hint = "use --as k8s, or tune the model by its name on the Hub"
        raise BadReport(f"KAITO takes models by their names on the Hub, not {winner.model}", hint)
    service.refuse_mixed("KAITO")
    if service.key is not None:
        raise BadUsage("KAITO has no place for a key", "put a gateway in front of the Workspace")
    service.refuse_added(["port", "host"], "KAITO's own Service expects 5000")
    share = round(winner.memory.reserved / device.utilization_base, 4)
    # Else KAITO takes what is free, up to 0.95.
    ours: dict[str, Value] = {"gpu-memory-utilization": share}
    entries: dict[str, Any] = {}
    for name, value in {**ours, **service.args}.items():
        if isinstance(value, tuple):
            hint = "use --as k8s, which writes the words"
            raise BadReport(f"KAITO writes one value for --{name}, and it has {len(value)}", hint)
        entries[name if value is not False else f"no-{name}"] = (
            value if value is not False else True
        )
    inner = write_yaml({"kv_cache_cpu_memory_utilization": 0, "vllm": entries}) + "\n"
    name = service.name
    settings = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name},
        "data": {"inference_config.yaml": Block(inner)},
    }
    workspace = {
        "apiVersion": "kaito.sh/v1beta1",
        "kind": "Workspace",
        "metadata": {"name": name},
        "resource": {
            "count": 1,
            "labelSelector": {"matchLabels": node_selector(service) or {"apps": name}},
        },
        "inference": {"preset": {"name": winner.model}, "config": name},
    }
    notes = [
        *service.proof,
        *service.notes(),
        f"KAITO runs the vLLM of its own image: if that is not {service.release}, prove it again",
        f"it needs a node with {winner.valid_for.count} of these GPUs: set resource.instanceType",
    ]
    if winner.env:
        notes.append(f"KAITO cannot set these variables, which were set: {', '.join(winner.env)}")
    return write_yaml(settings, workspace, comments=notes)


def ray_serve(service: Service) -> str:
    """Write a configuration for `serve deploy`, with an application of `ray.serve.llm`."""
    winner, count = service.winner, service.winner.valid_for.count
    card = None if service.mixed else known_card(service.devices[0])
    kind = RAY_TYPES.get(card.name) if card else None
    notes = [*service.proof, *service.notes()]
    if service.key is not None:
        hint = f"set {KEY_VARIABLE} for Ray's workers, and drop --api-key-from"
        raise BadUsage("Ray Serve has no place for where a key comes from", hint)
    if not service.report.versions.vllm.startswith(f"{RAY_VLLM}."):
        notes.append(
            f"ray[llm] {RAY} comes with vLLM {RAY_VLLM}, it was proven with "
            f"{service.report.versions.vllm}: prove it again with `autotune check --vllm-python`"
        )
    if kind is None:
        which = counted(service.devices) if service.mixed else service.devices[0].name
        notes.append(f"Ray has no accelerator type for {which}: any GPU is taken")
    args = {
        name: value
        for name, value in service.args.items()
        if name not in ("port", "host", "served-model-name")
    }
    llm: dict[str, Any] = {
        "model_loading_config": {"model_id": served_name(service), "model_source": winner.model},
        **({"accelerator_type": kind} if kind else {}),
        "placement_group_config": {"bundles": [{"GPU": 1}] * count, "strategy": "STRICT_PACK"},
        "deployment_config": {"num_replicas": 1},
        "engine_kwargs": {n.replace("-", "_"): _python(n, value) for n, value in args.items()},
    }
    if winner.env:
        llm["runtime_env"] = {"env_vars": dict(winner.env)}
    application = {
        "name": service.name,
        "route_prefix": "/",
        "import_path": "ray.serve.llm:build_openai_app",
        "args": {"llm_configs": [llm]},
    }
    host, port = service.added.get("host"), service.added.get("port")
    http = {**({"host": host} if host else {}), **({"port": service.port} if port else {})}
    document = {**({"http_options": http} if http else {}), "applications": [application]}
    return write_yaml(document, comments=notes)


def skypilot(service: Service) -> str:
    """Write a task for `sky launch`, or with `sky serve up` a service."""
    image, count = service.image, service.winner.valid_for.count
    service.refuse_mixed("SkyPilot")
    card = known_card(service.devices[0])
    if card is None:
        hint = "use --as k8s or --as docker"
        raise BadReport(f"SkyPilot's name for {service.devices[0].name} is not known", hint)
    usual = card.name.replace("RTX ", "RTX").replace(" ", "-")
    name = SKY_SIZES.get((card.name, card.size), usual)
    line = command_line(["vllm", *service.arguments], service.winner.env)
    secrets: dict[str, None] = {}
    if variable := service.key_variable("skypilot"):
        line = f'{KEY_VARIABLE}="${{{variable}:?}}" {line}'
        secrets[variable] = None
    notes = list(service.comments())
    if service.from_hub:
        notes.append("a token for the Hub, if it needs one: sky launch --secret HF_TOKEN")
    task: dict[str, Any] = {
        "name": service.name,
        "resources": {
            "accelerators": {name: count},
            "image_id": f"docker:{image}",
            "ports": [service.port],
            **({"memory": f"{service.offloaded_gib}+"} if service.offloaded_gib else {}),
        },
        **({"secrets": secrets} if secrets else {}),
        "service": {
            "readiness_probe": {
                "path": "/health",
                "initial_delay_seconds": service.start_seconds,
            },
            "replicas": 1,
        },
        "run": Block(f"{line}\n"),
    }
    if paths := mounted_paths(service):
        task["file_mounts"] = {path: path for path in paths}
    return write_yaml(task, comments=notes)


def _python(name: str, value: Value) -> Any:
    """Return a value as vLLM's Python interface takes it: numbers, and JSON as what it says."""
    if isinstance(value, tuple):
        return [_python(name, each) for each in value]
    if not isinstance(value, str) or name in TEXTS:
        return value
    if LaunchConfig("", {name: value}).number(name) is not None and value.isascii():
        number = LaunchConfig("", {name: value}).number(name)
        assert number is not None
        return int(number) if number == int(number) and "." not in value else number
    if value.startswith(("{", "[")):
        with suppress(ValueError):
            return json.loads(value)
    return value
