"""The winner in a container of vLLM's own image: docker, docker compose, Kubernetes."""

import csv
import io
import math
import re
import shlex
from typing import TYPE_CHECKING, Any

from ..errors import BadReport
from ..machine.device import visible_environment
from ..vllm.config import LaunchConfig
from .winner import STOP_SECONDS, devices_of, server_name, to_yaml, winner_of

if TYPE_CHECKING:
    from ..report.report import Report, Winner

PORT = 8000
# Where this user keeps models from the Hub, and where the image does (it runs as root).
HUB_CACHE = "${HF_HOME:-${HOME}/.cache/huggingface}:/root/.cache/huggingface"
# A start takes longer on a busy machine, and a model from the Hub is downloaded first.
LEAST_START_SECONDS = 300
DOWNLOAD_SECONDS = 1800
# A path, a LoRA adapter's `name=path`, or one within JSON (a draft model, an adapter).
PATHS = re.compile(r'^(?:[\w.-]+=)?(/.*)|"(?:model|path)": *"(/[^"]+)"', re.DOTALL)
HEALTH = f"import urllib.request as r; r.urlopen('http://127.0.0.1:{PORT}/health', timeout=9)"


def docker(report: "Report") -> str:
    """Write the line that runs the winner; `-e HF_TOKEN` hands on the caller's, if there is one."""
    winner, image = winner_of(report), _image(report)
    words = ["docker", "run", "--rm", "--gpus", f'"device={_gpu_ids(report)}"']
    words += ["--ipc=host", "-p", f"{PORT}:{PORT}"]
    for path in _mounted_paths(winner):
        mount = io.StringIO()  # docker reads it as a line of CSV
        fields = ("type=bind", f"src={path}", f"dst={path}", "readonly")
        csv.writer(mount, lineterminator="").writerow(fields)
        words += ["--mount", mount.getvalue()]
    for name, value in winner.env.items():
        words += ["-e", f"{name}={value}"]
    line = shlex.join(words)
    if _from_hub(winner):
        line += f' -v "{HUB_CACHE}" -e HF_TOKEN'
    # The image's own entry point was the API server before it was `vllm serve`.
    return f"{line} {shlex.join(['--entrypoint', 'vllm', image, *_arguments(winner)])}"


def compose(report: "Report") -> str:
    """Write the file for `docker compose -f - up`, as JSON."""
    winner, image = winner_of(report), _image(report)
    variables: dict[str, str | None] = {n: _escaped(v) for n, v in winner.env.items()}
    bind = {"create_host_path": False}
    volumes: list[Any] = [
        {"type": "bind", "source": path, "target": path, "read_only": True, "bind": bind}
        for path in map(_escaped, _mounted_paths(winner))
    ]
    if _from_hub(winner):
        variables["HF_TOKEN"] = None  # the caller's, if there is one
        volumes.append(HUB_CACHE)
    gpus = {"driver": "nvidia", "device_ids": _gpu_ids(report).split(","), "capabilities": ["gpu"]}
    test, wait = ["CMD", "python3", "-c", HEALTH], f"{_start_seconds(winner)}s"
    health = {"test": test, "interval": "10s", "timeout": "10s", "retries": 3, "start_period": wait}
    service = {
        "image": image,
        "entrypoint": ["vllm"],
        "command": [_escaped(word) for word in _arguments(winner)],
        "environment": variables,
        "ports": [f"{PORT}:{PORT}"],
        "ipc": "host",
        "volumes": volumes,
        "deploy": {"resources": {"reservations": {"devices": [gpus]}}},
        "healthcheck": health,
        "stop_grace_period": f"{STOP_SECONDS}s",
        "restart": "on-failure",
    }
    return to_yaml({"name": server_name(report), "services": {"vllm": service}}, indent=2)


def k8s(report: "Report") -> str:
    """Write a Deployment and its Service for `kubectl apply -f -`."""
    valid_for, name = winner_of(report).valid_for, server_name(report)
    label = {"app.kubernetes.io/name": name}
    port = {"name": "http", "port": PORT, "targetPort": PORT}
    proven = {"vllm-autotune/proven-on": f"{valid_for.count} x {valid_for.device}"}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": label, "annotations": proven},
        "spec": {
            "replicas": 1,
            "strategy": {"type": "Recreate"},  # there may be no second GPU to roll over to
            "selector": {"matchLabels": label},
            "template": {"metadata": {"labels": label}, "spec": _pod(report)},
        },
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "labels": label},
        "spec": {"selector": label, "ports": [port]},
    }
    return to_yaml({"apiVersion": "v1", "kind": "List", "items": [deployment, service]}, indent=2)


def _pod(report: "Report") -> dict[str, Any]:
    winner = winner_of(report)
    variables: list[Any] = [{"name": n, "value": _escaped(v)} for n, v in winner.env.items()]
    if _from_hub(winner):
        secret = {"name": "hf-token", "key": "token", "optional": True}
        variables.append({"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": secret}})
    volumes: list[Any] = [{"name": "shm", "emptyDir": {"medium": "Memory"}}]
    mounts: list[Any] = [{"name": "shm", "mountPath": "/dev/shm"}]  # noqa: S108  not a file
    model = None if _from_hub(winner) else _mounted_path(winner.model)
    for number, path in enumerate(_mounted_paths(winner)):
        kind = "Directory" if path == model else ""  # a node without it would make an empty one
        volumes.append({"name": f"files-{number}", "hostPath": {"path": path, "type": kind}})
        mounts.append({"name": f"files-{number}", "mountPath": path, "readOnly": True})
    get = {"path": "/health", "port": PORT}
    probe = {"httpGet": get, "periodSeconds": 10, "timeoutSeconds": 10}
    starts = math.ceil(_start_seconds(winner) / 10)
    container = {
        "name": "vllm",
        "image": _image(report),
        "command": ["vllm"],
        "args": [_escaped(word) for word in _arguments(winner)],
        "env": variables,
        "ports": [{"name": "http", "containerPort": PORT}],
        "resources": {"limits": {"nvidia.com/gpu": winner.valid_for.count}},
        "startupProbe": {**probe, "failureThreshold": starts},
        "readinessProbe": {**probe, "failureThreshold": 3},
        "livenessProbe": {**probe, "failureThreshold": 6},
        "volumeMounts": mounts,
    }
    return {
        # A Service `vllm` would set VLLM_PORT to an address (refused in envs.py, `get_vllm_port`).
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": STOP_SECONDS,
        "containers": [container],
        "volumes": volumes,
    }


def _image(report: "Report") -> str:
    version, reason = report.versions.vllm.partition("+")[0], ""
    if devices_of(report)[0].kind == "cpu":
        reason = "the winner was found on a CPU build of vLLM"
    elif not re.fullmatch(r"\d+(\.\d+)+(\.post\d+)?", version):
        reason = f"vLLM {report.versions.vllm} is not a release"
    if reason:
        hint = "use --as shell or --as systemd, which start the installed vLLM"
        raise BadReport(f"{reason}: no container image of it is known", hint)
    return f"vllm/vllm-openai:v{version}"


def _arguments(winner: "Winner") -> list[str]:
    return ["serve", winner.model, *LaunchConfig(winner.model, winner.args).flags()]


def _gpu_ids(report: "Report") -> str:
    return visible_environment(devices_of(report))["CUDA_VISIBLE_DEVICES"]


def _from_hub(winner: "Winner") -> bool:
    """Tell whether the model is downloaded; a report has the whole path of a local one."""
    return not winner.model.startswith("/")


def _mounted_paths(winner: "Winner") -> list[str]:
    """Return the paths of this machine that a container must see, the model's first."""
    named = [] if _from_hub(winner) else [winner.model]
    for name, value in winner.args.items():
        if not name.endswith("-dir"):  # vLLM writes to those
            words = value if isinstance(value, tuple) else (str(value),)
            named += [a or b for word in words for a, b in PATHS.findall(word)]
    found: list[str] = []
    for path in map(_mounted_path, named):
        if not any(path == seen or path.startswith(f"{seen}/") for seen in found):
            found.append(path)
    return found


def _mounted_path(path: str) -> str:
    """Return the folder that a path needs around it."""
    # A snapshot is links to its sister `blobs`; a GGUF file may have other parts beside it.
    if cached := re.match(r"(.*/models--[^/]+)/snapshots(?:/|$)", path):
        return cached[1]
    return path.rpartition("/")[0] or "/" if path.endswith(".gguf") else path.rstrip("/") or "/"


def _start_seconds(winner: "Winner") -> int:
    usual = max(LEAST_START_SECONDS, math.ceil(3 * winner.startup_seconds))
    return usual + (DOWNLOAD_SECONDS if _from_hub(winner) else 0)


def _escaped(text: str) -> str:
    """Return text in which compose (`$NAME`) and Kubernetes (`$(NAME)`) find no variable."""
    return text.replace("$", "$$")
