"""The winner on Kubernetes: a Deployment, and what its pod has in common with other targets'."""

import math
import re
from typing import Any

from ..errors import BadUsage
from .container import HUB_HOME, escaped_dollars
from .paths import mounted_path, mounted_paths
from .service import KEY_VARIABLE, STOP_SECONDS, Service
from .yaml_text import write_yaml

# What NVIDIA's GPU feature discovery labels a node with.
PRODUCT = "nvidia.com/gpu.product"
LABEL = re.compile(r"[A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?", re.ASCII)
HUB_SECRET = {"name": "hf-token", "key": "token", "optional": True}
PERIOD_SECONDS = 10

Pod = dict[str, Any]


def k8s(service: Service) -> str:
    """Write a Deployment and its Service for `kubectl apply -f -`."""
    valid_for, name = service.winner.valid_for, service.name
    label = {"app.kubernetes.io/name": name}
    port = {"name": "http", "port": service.port, "targetPort": service.port}
    command = {"command": ["vllm"], "args": words(service.arguments)}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": name,
            "labels": label,
            "annotations": {"vllm-autotune/proven-on": f"{valid_for.count} x {valid_for.device}"},
        },
        "spec": {
            "replicas": 1,
            "strategy": {"type": "Recreate"},  # there may be no second GPU to roll over to
            "selector": {"matchLabels": label},
            "template": {"metadata": {"labels": label}, "spec": _pod(service, command)},
        },
    }
    front = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "labels": label},
        "spec": {"selector": label, "ports": [port]},
    }
    comments = (*service.comments(), *cluster_notes(service))
    return write_yaml(deployment, front, comments=comments)


def _pod(service: Service, command: Pod) -> Pod:
    container = {
        "name": "vllm",
        "image": service.image,
        **command,
        "env": variables(service),
        "ports": [{"name": "http", "containerPort": service.port}],
        "resources": resources(service),
        **probes(service),
        "volumeMounts": mounts(service),
    }
    return {
        # A Service `vllm` would set VLLM_PORT to an address (refused in envs.py, `get_vllm_port`).
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": STOP_SECONDS,
        **({"nodeSelector": found} if (found := node_selector(service)) else {}),
        "containers": [container],
        "volumes": volumes(service),
    }


def words(arguments: list[str]) -> list[str]:
    """Return a container's arguments, in which Kubernetes finds no variable."""
    return [escaped_dollars(word) for word in arguments]


def variables(service: Service) -> list[Pod]:
    """Return a container's environment, keys from their secrets."""
    made: list[Pod] = [
        {"name": name, "value": escaped_dollars(value)}
        for name, value in service.winner.env.items()
    ]
    if (key := key_secret(service)) is not None:
        made.append({"name": KEY_VARIABLE, "valueFrom": {"secretKeyRef": key}})
    if service.from_hub:
        made.append({"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": HUB_SECRET}})
    return made


def key_secret(service: Service) -> dict[str, str] | None:
    """Return the name of the secret and of the key in it. Raises BadUsage for a variable."""
    if service.key is None:
        return None
    if service.key.kind == "env":
        hint = "use --api-key-from secret:NAME/KEY"
        raise BadUsage(f"Kubernetes knows no variable {service.key.name} to read a key from", hint)
    return {"name": service.key.name, "key": service.key.key}


def gpu_resource(service: Service) -> str:
    """Return what a GPU is called as a resource; a MIG slice by its profile (`mixed` strategy)."""
    device = service.devices[0]
    profile = re.search(r"MIG (\d+g\.\d+gb)", device.name) if device.mig else None
    return f"nvidia.com/mig-{profile[1]}" if profile else "nvidia.com/gpu"


def resources(service: Service) -> Pod:
    """Return the GPUs, and the host's memory that weights and KV cache are offloaded into."""
    made: Pod = {"limits": {gpu_resource(service): service.winner.valid_for.count}}
    if offloaded := service.offloaded_gib:
        made["requests"] = {"memory": f"{offloaded}Gi"}
    return made


def node_selector(service: Service) -> dict[str, str]:
    """Return the label of nodes with such GPUs, none for a name that no label can have.

    Nor for GPUs of several kinds: a node has the label of one.
    """
    if service.mixed:
        return {}
    product = re.sub(r" MIG .*", "", service.devices[0].name).replace(" ", "-")
    return {PRODUCT: product} if LABEL.fullmatch(product) else {}


def probes(service: Service) -> Pod:
    """Return the three probes; a start may take as long as the service says."""
    get: Pod = {"path": "/health", "port": service.port}
    if service.encrypted:
        get["scheme"] = "HTTPS"
    probe = {"httpGet": get, "periodSeconds": PERIOD_SECONDS, "timeoutSeconds": 10}
    return {
        "startupProbe": {**probe, "failureThreshold": start_failures(service)},
        "readinessProbe": {**probe, "failureThreshold": 3},
        "livenessProbe": {**probe, "failureThreshold": 6},
    }


def start_failures(service: Service) -> int:
    """Return how many probes may fail while it starts."""
    return math.ceil(service.start_seconds / PERIOD_SECONDS)


def volumes(service: Service, *, model: bool = True) -> list[Pod]:
    """Return a pod's volumes, without that of the `model` where something else mounts it."""
    made: list[Pod] = [{"name": "shm", "emptyDir": {"medium": "Memory"}}]
    made += [volume for volume, _ in _files(service, model=model)]
    return made


def mounts(service: Service, *, model: bool = True) -> list[Pod]:
    """Return where a container mounts `volumes`."""
    made: list[Pod] = [{"name": "shm", "mountPath": "/dev/shm"}]  # noqa: S108  not a file
    made += [mount for _, mount in _files(service, model=model)]
    return made


def _files(service: Service, *, model: bool) -> list[tuple[Pod, Pod]]:
    claim = service.volume
    own = None if service.from_hub else mounted_path(service.winner.model)
    found: list[tuple[Pod, Pod]] = []
    for number, path in enumerate(mounted_paths(service)):
        name = f"files-{number}"
        mount = {"name": name, "mountPath": path, "readOnly": True}
        # A node without the model would make an empty folder of a path of no type.
        host: Pod = {"path": path, "type": "Directory" if path == own else ""}
        volume: Pod = {"name": name, "hostPath": host}
        if path == own and not model:
            continue
        if path == own and claim:
            volume = {"name": name, "persistentVolumeClaim": _claim(claim.claim)}
            mount |= {"subPath": claim.path} if claim.path else {}
        found.append((volume, mount))
    if service.from_hub and model:
        hub: Pod = (
            {"persistentVolumeClaim": {"claimName": claim.claim}} if claim else {"emptyDir": {}}
        )
        mount = {"name": "hub", "mountPath": HUB_HOME}
        mount |= {"subPath": claim.path} if claim and claim.path else {}
        found.append(({"name": "hub", **hub}, mount))
    return found


def _claim(name: str) -> Pod:
    return {"claimName": name, "readOnly": True}


def cluster_notes(service: Service) -> list[str]:
    """Return what a cluster must have for it, as comments."""
    notes = []
    if service.from_hub:
        notes.append(
            "a token for the Hub, if it needs one: "
            "kubectl create secret generic hf-token --from-literal=token=..."
        )
        if service.volume is None:
            notes.append("each new pod downloads the model: --model-volume pvc:NAME keeps it")
    if selector := node_selector(service):
        notes.append(f"nodes must have the label {PRODUCT}={selector[PRODUCT]}")
    return notes
