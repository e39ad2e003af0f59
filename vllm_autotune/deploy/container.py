"""The winner in a container of vLLM's own image: docker, docker compose, Kubernetes."""

import csv
import io
import math
import re
from typing import TYPE_CHECKING, Any

from ..errors import BadReport, BadUsage
from ..machine.device import visible_environment
from ..vllm.config import LaunchConfig
from .service import KEY_VARIABLE, STOP_SECONDS, Service, quoted, to_yaml

if TYPE_CHECKING:
    from ..report.report import Winner

# Where this user keeps models from the Hub, and where the image does (it runs as root).
HUB_CACHE = "${HF_HOME:-${HOME}/.cache/huggingface}:/root/.cache/huggingface"
# A start takes longer on a busy machine, and a model from the Hub is downloaded first.
LEAST_START_SECONDS = 300
DOWNLOAD_SECONDS = 1800
# A path, a LoRA adapter's `name=path`, or one within JSON (a draft model, an adapter).
PATHS = re.compile(r'^(?:[\w.-]+=)?(/.*)|"(?:model|path)": *"(/[^"]+)"', re.DOTALL)
# A certificate need not be for 127.0.0.1.
HEALTH = (
    "import ssl, urllib.request as r; "
    "r.urlopen('{url}', timeout=9, context=ssl._create_unverified_context())"
)
# Arguments whose value looks like a path and is none, or is one that vLLM writes to.
NO_PATHS = re.compile("root-path|served-model-name|.*-dir")


def docker(service: Service) -> str:
    """Write the line that runs the winner; `-e HF_TOKEN` hands on the caller's, if there is one."""
    winner, image, port = service.winner, _image(service), service.port
    words = ["docker", "run", "--rm", "--gpus", f'"device={_gpu_ids(service)}"']
    words += ["--ipc=host", "-p", f"{port}:{port}"]
    for path in _mounted_paths(service):
        mount = io.StringIO()  # docker reads it as a line of CSV
        fields = ("type=bind", f"src={path}", f"dst={path}", "readonly")
        csv.writer(mount, lineterminator="").writerow(fields)
        words += ["--mount", mount.getvalue()]
    for variable, value in winner.env.items():
        words += ["-e", f"{variable}={value}"]
    line = " ".join(map(quoted, words))
    if name := service.key_variable("docker"):
        line += f' -e {KEY_VARIABLE}="${{{name}:?}}"'
    if _from_hub(winner):
        line += f' -v "{HUB_CACHE}" -e HF_TOKEN'
    # The image's own entry point was the API server before it was `vllm serve`.
    command = ["--entrypoint", "vllm", image, *_arguments(service)]
    notes = [f"# {note}" for note in service.notes(published=True)]
    return "\n".join((*notes, f"{line} {' '.join(map(quoted, command))}"))


def compose(service: Service) -> str:
    """Write the file for `docker compose -f - up`, as JSON."""
    winner, image, port = service.winner, _image(service), service.port
    variables: dict[str, str | None] = {n: _escaped(v) for n, v in winner.env.items()}
    bind = {"create_host_path": False}
    volumes: list[Any] = [
        {"type": "bind", "source": path, "target": path, "read_only": True, "bind": bind}
        for path in map(_escaped, _mounted_paths(service))
    ]
    if _from_hub(winner):
        variables["HF_TOKEN"] = None  # the caller's, if there is one
        volumes.append(HUB_CACHE)
    if name := service.key_variable("compose"):
        variables[KEY_VARIABLE] = f"${{{name}:?}}"
    ids = _gpu_ids(service).split(",")
    gpus = {"driver": "nvidia", "device_ids": ids, "capabilities": ["gpu"]}
    test, wait = ["CMD", "python3", "-c", _health(service)], f"{_start_seconds(winner)}s"
    health = {"test": test, "interval": "10s", "timeout": "10s", "retries": 3, "start_period": wait}
    container = {
        "image": image,
        "entrypoint": ["vllm"],
        "command": [_escaped(word) for word in _arguments(service)],
        "environment": variables,
        "ports": [f"{port}:{port}"],
        "ipc": "host",
        "volumes": volumes,
        "deploy": {"resources": {"reservations": {"devices": [gpus]}}},
        "healthcheck": health,
        "stop_grace_period": f"{STOP_SECONDS}s",
        "restart": "on-failure",
    }
    notes = list(service.notes(published=True))
    said = {"x-notes": notes} if notes else {}
    return to_yaml({"name": service.name, **said, "services": {"vllm": container}}, indent=2)


def k8s(service: Service) -> str:
    """Write a Deployment and its Service for `kubectl apply -f -`."""
    valid_for, name = service.winner.valid_for, service.name
    label = {"app.kubernetes.io/name": name}
    port = {"name": "http", "port": service.port, "targetPort": service.port}
    proven = {"vllm-autotune/proven-on": f"{valid_for.count} x {valid_for.device}"}
    if notes := "; ".join(service.notes(published=True)):
        proven["vllm-autotune/notes"] = notes
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": label, "annotations": proven},
        "spec": {
            "replicas": 1,
            "strategy": {"type": "Recreate"},  # there may be no second GPU to roll over to
            "selector": {"matchLabels": label},
            "template": {"metadata": {"labels": label}, "spec": _pod(service)},
        },
    }
    front = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "labels": label},
        "spec": {"selector": label, "ports": [port]},
    }
    return to_yaml({"apiVersion": "v1", "kind": "List", "items": [deployment, front]}, indent=2)


def _pod(service: Service) -> dict[str, Any]:
    winner, port = service.winner, service.port
    variables: list[Any] = [{"name": n, "value": _escaped(v)} for n, v in winner.env.items()]
    if key := service.key:
        if key.kind == "env":
            hint = "use --api-key-from secret:NAME/KEY"
            raise BadUsage(f"Kubernetes knows no variable {key.name} to read a key from", hint)
        reference = {"secretKeyRef": {"name": key.name, "key": key.key}}
        variables.append({"name": KEY_VARIABLE, "valueFrom": reference})
    if _from_hub(winner):
        secret = {"name": "hf-token", "key": "token", "optional": True}
        variables.append({"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": secret}})
    volumes: list[Any] = [{"name": "shm", "emptyDir": {"medium": "Memory"}}]
    mounts: list[Any] = [{"name": "shm", "mountPath": "/dev/shm"}]  # noqa: S108  not a file
    model = None if _from_hub(winner) else _mounted_path(winner.model)
    for number, path in enumerate(_mounted_paths(service)):
        kind = "Directory" if path == model else ""  # a node without it would make an empty one
        volumes.append({"name": f"files-{number}", "hostPath": {"path": path, "type": kind}})
        mounts.append({"name": f"files-{number}", "mountPath": path, "readOnly": True})
    get: dict[str, Any] = {"path": "/health", "port": port}
    if service.encrypted:
        get["scheme"] = "HTTPS"
    probe = {"httpGet": get, "periodSeconds": 10, "timeoutSeconds": 10}
    starts = math.ceil(_start_seconds(winner) / 10)
    container = {
        "name": "vllm",
        "image": _image(service),
        "command": ["vllm"],
        "args": [_escaped(word) for word in _arguments(service)],
        "env": variables,
        "ports": [{"name": "http", "containerPort": port}],
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


def _image(service: Service) -> str:
    report = service.report
    version, reason = report.versions.vllm.partition("+")[0], ""
    if "uds" in service.added:
        raise BadUsage("a container publishes a port, and --uds opens none", "drop --uds")
    if service.devices[0].kind == "cpu":
        reason = "the winner was found on a CPU build of vLLM"
    elif not re.fullmatch(r"\d+(\.\d+)+(\.post\d+)?", version):
        reason = f"vLLM {report.versions.vllm} is not a release"
    if reason:
        hint = "use --as shell or --as systemd, which start the installed vLLM"
        raise BadReport(f"{reason}: no container image of it is known", hint)
    return f"vllm/vllm-openai:v{version}"


def _arguments(service: Service) -> list[str]:
    winner = service.winner
    flags = LaunchConfig(winner.model, winner.args).flags()
    return ["serve", winner.model, *flags, *service.added_flags]


def _health(service: Service) -> str:
    scheme = "https" if service.encrypted else "http"
    return HEALTH.format(url=f"{scheme}://127.0.0.1:{service.port}/health")


def _gpu_ids(service: Service) -> str:
    return visible_environment(service.devices)["CUDA_VISIBLE_DEVICES"]


def _from_hub(winner: "Winner") -> bool:
    """Tell whether the model is downloaded; a report has the whole path of a local one."""
    return not winner.model.startswith("/")


def _mounted_paths(service: Service) -> list[str]:
    """Return the paths of this machine that a container must see, the model's first."""
    winner = service.winner
    named = [] if _from_hub(winner) else [winner.model]
    for name, value in (*winner.args.items(), *service.added.items()):
        if not NO_PATHS.fullmatch(name):
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
