"""The winner in a container of vLLM's own image: docker, docker compose, Kubernetes."""

import csv
import io
import math
import re
import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..errors import BadReport
from ..machine.device import visible_environment
from ..vllm.config import LaunchConfig
from .winner import STOP_SECONDS, name_of, used, winner_of, written

if TYPE_CHECKING:
    from ..report.report import Report, Winner

PORT = 8000
# Where the image keeps models from the Hub (it runs as root), and where this user does.
IMAGE_HOME = "/root"
CACHE = f"{IMAGE_HOME}/.cache/huggingface"
OUR_CACHE = "${HF_HOME:-${HOME}/.cache/huggingface}"
# A start takes longer on a busy machine, and a model from the Hub is fetched first.
LEAST_START_SECONDS = 300
FETCH_SECONDS = 1800
# A path, a LoRA adapter's `name=path`, or one within JSON (a draft model, an adapter).
PATHS = re.compile(r'^(?:[\w.-]+=)?(/.*)|"(?:model|path)": *"(/[^"]+)"', re.DOTALL)
ASK = f"import urllib.request as r; r.urlopen('http://127.0.0.1:{PORT}/health', timeout=9)"
HINT = "render it with --as shell or --as systemd, for the vLLM that is installed"


def docker(report: "Report") -> str:
    """Return the line that runs the winner; `-e HF_TOKEN` hands on the caller's, if there is one.

    `--entrypoint` because that of the image was the API server before it was `vllm serve`.
    """
    winner, image = winner_of(report), _image(report)
    words = ["docker", "run", "--rm", "--gpus", f'"device={",".join(_gpus(report))}"']
    words += ["--ipc=host", "-p", f"{PORT}:{PORT}"]
    for path in _folders(winner):
        words += ["--mount", _row("type=bind", f"src={path}", f"dst={path}", "readonly")]
    for name, value in winner.env.items():
        words += ["-e", f"{name}={value}"]
    line = shlex.join(words)
    if _from_hub(winner):
        line += f' -v "{OUR_CACHE}:{CACHE}" -e HF_TOKEN'
    return f"{line} {shlex.join(['--entrypoint', 'vllm', image, *_serve(winner)])}"


def compose(report: "Report") -> str:
    """Return the file for `docker compose -f - up`, as JSON; `$` is doubled, it would expand."""
    winner, image = winner_of(report), _image(report)
    variables: dict[str, str | None] = {n: _literal(v) for n, v in winner.env.items()}
    volumes: list[Any] = [
        {
            "type": "bind",
            "source": _literal(path),
            "target": _literal(path),
            "read_only": True,
            "bind": {"create_host_path": False},
        }
        for path in _folders(winner)
    ]
    if _from_hub(winner):
        variables["HF_TOKEN"] = None  # the caller's, if there is one
        volumes.append(f"{OUR_CACHE}:{CACHE}")
    gpus = {"driver": "nvidia", "device_ids": _gpus(report), "capabilities": ["gpu"]}
    service = {
        "image": image,
        "entrypoint": ["vllm"],
        "command": [_literal(word) for word in _serve(winner)],
        "environment": variables,
        "ports": [f"{PORT}:{PORT}"],
        "ipc": "host",
        "volumes": volumes,
        "deploy": {"resources": {"reservations": {"devices": [gpus]}}},
        "healthcheck": {
            "test": ["CMD", "python3", "-c", ASK],
            "interval": "10s",
            "timeout": "10s",
            "retries": 3,
            "start_period": f"{_start_seconds(winner)}s",
        },
        "stop_grace_period": f"{STOP_SECONDS}s",
        "restart": "on-failure",
    }
    return written({"name": name_of(report), "services": {"vllm": service}}, indent=2)


def k8s(report: "Report") -> str:
    """Return a Deployment and its Service for `kubectl apply -f -`.

    Without service links: a Service called `vllm` would set VLLM_PORT to an address, which vLLM
    refuses (`get_vllm_port` in envs.py). It is recreated rather than rolled over, as there may be
    no second GPU. `$` is doubled: `$(NAME)` would expand.
    """
    winner, name = winner_of(report), name_of(report)
    label = {"app.kubernetes.io/name": name}
    variables: list[Any] = [{"name": n, "value": _literal(v)} for n, v in winner.env.items()]
    if _from_hub(winner):
        secret = {"name": "hf-token", "key": "token", "optional": True}
        variables.append({"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": secret}})
    volumes: list[Any] = [{"name": "shm", "emptyDir": {"medium": "Memory"}}]
    mounts: list[Any] = [{"name": "shm", "mountPath": "/dev/shm"}]  # noqa: S108  not a file
    model = None if _from_hub(winner) else _whole(winner.model)
    for number, path in enumerate(_folders(winner)):
        kind = "Directory" if path == model else ""  # a node without it would make an empty one
        volumes.append({"name": f"files-{number}", "hostPath": {"path": path, "type": kind}})
        mounts.append({"name": f"files-{number}", "mountPath": path, "readOnly": True})
    container = {
        "name": "vllm",
        "image": _image(report),
        "command": ["vllm"],
        "args": [_literal(word) for word in _serve(winner)],
        "env": variables,
        "ports": [{"name": "http", "containerPort": PORT}],
        "resources": {"limits": {"nvidia.com/gpu": winner.valid_for.count}},
        "startupProbe": _probe(math.ceil(_start_seconds(winner) / 10)),
        "readinessProbe": _probe(3),
        "livenessProbe": _probe(6),
        "volumeMounts": mounts,
    }
    pod = {
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": STOP_SECONDS,
        "containers": [container],
        "volumes": volumes,
    }
    proven = f"{winner.valid_for.count} x {winner.valid_for.device}"
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "labels": label},
        "spec": {"selector": label, "ports": [{"name": "http", "port": PORT, "targetPort": PORT}]},
    }
    items = [_deployment(name, label, proven, pod), service]
    return written({"apiVersion": "v1", "kind": "List", "items": items}, indent=2)


def _deployment(
    name: str, label: dict[str, str], proven: str, pod: dict[str, Any]
) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": name,
            "labels": label,
            "annotations": {"vllm-autotune/proven-on": proven},
        },
        "spec": {
            "replicas": 1,
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": label},
            "template": {
                "metadata": {"labels": label},
                "spec": pod,
            },
        },
    }


def _image(report: "Report") -> str:
    """Return vLLM's own image for the release that was proven."""
    version = report.versions.vllm.partition("+")[0]
    if used(report)[0].kind == "cpu":
        reason = "the winner was found on a CPU build of vLLM"
    elif not re.fullmatch(r"\d+(\.\d+)+(\.post\d+)?", version):
        reason = f"vLLM {report.versions.vllm} is no release"
    else:
        return f"vllm/vllm-openai:v{version}"
    raise BadReport(f"{reason}: there is no image known for it", HINT)


def _serve(winner: "Winner") -> list[str]:
    return ["serve", winner.model, *LaunchConfig(winner.model, winner.args).flags()]


def _gpus(report: "Report") -> list[str]:
    return visible_environment(used(report))["CUDA_VISIBLE_DEVICES"].split(",")


def _from_hub(winner: "Winner") -> bool:
    """Tell whether the model is fetched; one that lies here has its whole path in a report."""
    return not winner.model.startswith("/")


def _folders(winner: "Winner") -> list[str]:
    """Return what a container must see of this machine, the model first, at the same paths."""
    found = [] if _from_hub(winner) else [_whole(winner.model)]
    for path in map(_whole, _paths(winner)):
        if not any(path == seen or path.startswith(f"{seen}/") for seen in found):
            found.append(path)
    return found


def _paths(winner: "Winner") -> Iterator[str]:
    """Yield the paths in the arguments, but of folders that vLLM writes to."""
    for name, value in winner.args.items():
        for word in value if isinstance(value, tuple) else (str(value),):
            if not name.endswith("-dir"):
                yield from (a or b for a, b in PATHS.findall(word))


def _whole(path: str) -> str:
    """Return the folder without which a path is of no use.

    A snapshot in the Hub's cache consists of links to its sister `blobs`; a GGUF file may have
    other parts beside it.
    """
    if cached := re.match(r"(.*/models--[^/]+)/snapshots(?:/|$)", path):
        return cached[1]
    return path.rpartition("/")[0] or "/" if path.endswith(".gguf") else path.rstrip("/") or "/"


def _start_seconds(winner: "Winner") -> int:
    """Return how long a start may take before it counts as failed."""
    usual = max(LEAST_START_SECONDS, math.ceil(3 * winner.startup_seconds))
    return usual + (FETCH_SECONDS if _from_hub(winner) else 0)


def _probe(failures: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": "/health", "port": PORT},
        "periodSeconds": 10,
        "timeoutSeconds": 10,
        "failureThreshold": failures,
    }


def _literal(text: str) -> str:
    """Return text in which compose and Kubernetes find no variable."""
    return text.replace("$", "$$")


def _row(*fields: str) -> str:
    """Return a line of CSV, as docker reads the value of `--mount`."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(fields)
    return line.getvalue()
