"""The winner as values of Helm charts: vLLM's production-stack and llm-d's modelservice."""

from typing import Any

from ..errors import BadReport
from ..vllm.config import LaunchConfig, Value
from .kserve import served_name
from .kubernetes import (
    PRODUCT,
    cluster_notes,
    gpu_resource,
    key_secret,
    mounts,
    node_selector,
    probes,
    resources,
    start_failures,
    variables,
    volumes,
    words,
)
from .service import IMAGE, Service
from .yaml_text import write_yaml

# What the chart has a field for, by its flag, and of which type the field is.
FIELDS: dict[str, tuple[str, type]] = {
    "max-model-len": ("maxModelLen", int),
    "max-num-seqs": ("maxNumSeqs", int),
    "tensor-parallel-size": ("tensorParallelSize", int),
    "gpu-memory-utilization": ("gpuMemoryUtilization", str),
    "dtype": ("dtype", str),
}
# vLLM asks for a core for each GPU and two more (docs, "CPU resources").
MORE_CORES = 2
# The least of the host's memory that the scheduler must find; what is offloaded comes on top.
LEAST_GIB = 8


def production_stack(service: Service) -> str:
    """Write values for the chart `vllm-stack` of vllm-project/production-stack.

    The chart says `--no-enable-prefix-caching` where it is not told otherwise, mounts shared
    memory only where it is told a tensor's parallel size, and keeps what comes from the Hub in
    /tmp/hub (templates/deployment-vllm-multi.yaml).
    """
    winner, count = service.winner, service.winner.valid_for.count
    service.refuse_added(["host"], "the chart sets it")
    local = not service.from_hub
    args: dict[str, Value] = {n: v for n, v in service.args.items() if n != "port"}
    args.setdefault("tensor-parallel-size", 1)
    notes = [*service.comments(), *cluster_notes(service)]
    if "enable-prefix-caching" not in args:
        notes.append("the chart decides on prefix caching where vLLM did: it is switched on here")
    config: dict[str, Any] = {
        "enablePrefixCaching": args.pop("enable-prefix-caching", True) is True
    }
    for flag, (name, kind) in FIELDS.items():
        if flag in args:
            config[name] = kind(args.pop(flag))
    config["extraArgs"] = words(LaunchConfig("", args).flags())
    model: dict[str, Any] = {
        "name": service.name,
        "repository": IMAGE,
        "tag": f"v{service.release}",
        "modelURL": winner.model,
        "replicaCount": 1,
        "requestCPU": count + MORE_CORES,
        "requestMemory": f"{LEAST_GIB + service.offloaded_gib}Gi",
        "requestGPU": count,
        "requestGPUType": gpu_resource(service),
        "shmSize": f"{LEAST_GIB}Gi",
        "vllmConfig": config,
        "env": variables(service),
        "extraVolumes": volumes(service, model=local)[1:],
        "extraVolumeMounts": mounts(service, model=local)[1:],
    }
    if service.from_hub and (claim := service.volume):
        source = {"persistentVolumeClaim": {"claimName": claim.claim}}
        path = f"{claim.path}/hub".removeprefix("/")
        model["extraVolumes"].append({"name": "hub", **source})
        mount = {"name": "hub", "mountPath": "/tmp/hub", "subPath": path}  # noqa: S108  no file
        model["extraVolumeMounts"].append(mount)
    if selector := node_selector(service):
        expression = {"key": PRODUCT, "operator": "In", "values": [selector[PRODUCT]]}
        model["nodeSelectorTerms"] = [{"matchExpressions": [expression]}]
    engine: dict[str, Any] = {
        "containerPort": service.port,
        "startupProbe": {
            "periodSeconds": 10,
            "failureThreshold": start_failures(service),
            "httpGet": {"path": "/health", "port": service.port},
        },
    }
    if (secret := key_secret(service)) is not None:
        # The router must know it as well.
        model["env"] = [each for each in model["env"] if each["name"] != "VLLM_API_KEY"]
        engine["vllmApiKey"] = {"secretName": secret["name"], "secretKey": secret["key"]}
    values = {"servingEngineSpec": {**engine, "modelSpec": [_without_empty(model)]}}
    return write_yaml(values, comments=notes)


def llm_d(service: Service) -> str:
    """Write values for llm-d's chart `llm-d-modelservice`: a decode pod with the whole command.

    The chart fills in templates of Go in a container's environment and ports.
    """
    winner = service.winner
    for value in winner.env.values():
        if "{{" in value:
            hint = "use --as k8s, which takes text as it is"
            raise BadReport(f"the chart would take the `{{{{` of {value[:80]} for a template", hint)
    service.refuse_added(["port"], "the chart's probes and its router expect 8000")
    config = LaunchConfig("", winner.args)
    name = served_name(service)
    own = [] if "served-model-name" in service.added else ["--served-model-name", name]
    container = {
        "name": "vllm",
        "image": service.image,
        "modelCommand": "custom",
        "command": ["vllm"],
        "args": words([*service.arguments, *own]),
        "env": variables(service),
        "ports": [{"name": "metrics", "containerPort": service.port, "protocol": "TCP"}],
        "resources": resources(service),
        "mountModelVolume": False,
        "volumeMounts": mounts(service),
        **probes(service),
    }
    selector = node_selector(service)
    accelerators = {"labelKey": PRODUCT, "labelValues": [*selector.values()]}
    values = {
        "fullnameOverride": service.name,
        "modelArtifacts": {
            "name": name,
            # The whole command is below: only the protocol of this is looked at.
            "uri": f"hf://{winner.model}" if service.from_hub else f"hf://{service.name}",
            "labels": {"llm-d.ai/inference-serving": "true", "llm-d.ai/model": service.name},
        },
        "accelerator": {"type": "nvidia", "resources": {"nvidia": gpu_resource(service)}},
        "routing": {"servicePort": service.port, "proxy": {"enabled": False}},
        "decode": {
            "create": True,
            "replicas": 1,
            "parallelism": {"tensor": config.tensor_parallel},
            **({"acceleratorTypes": accelerators} if selector else {}),
            "containers": [container],
            "volumes": volumes(service),
        },
        "prefill": {"create": False},
    }
    return write_yaml(values, comments=[*service.comments(), *cluster_notes(service)])


def _without_empty(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value != []}
