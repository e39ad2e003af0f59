"""The winner on KServe: an LLMInferenceService, or a runtime of its own for an InferenceService.

Both fill in templates of Go (`{{`) in what they are given, so no text with one is written.
"""

import shlex
from collections.abc import Iterable
from typing import Any

from ..errors import BadReport, BadUsage
from ..vllm.config import LaunchConfig
from .container import escaped_dollars
from .kubernetes import (
    cluster_notes,
    mounts,
    node_selector,
    probes,
    resources,
    start_failures,
    variables,
    volumes,
    words,
)
from .service import STOP_SECONDS, Service
from .yaml_text import write_yaml

# Where KServe puts a model.
MODEL = "/mnt/models"


def kserve(service: Service) -> str:
    """Write an LLMInferenceService (v1alpha2).

    Its template starts vLLM by `eval` in a shell: what VLLM_ADDITIONAL_ARGS says is split as a
    shell does, and so is quoted as for one (config/llmisvcconfig/config-llm-template.yaml). Its own
    port and certificates stay. Of parallelism it passes on the tensor's size alone.
    """
    image, name = service.image, served_name(service)
    theirs = ("port", "host", "ssl-certfile", "ssl-keyfile")
    service.refuse_added(theirs, "KServe's own template sets it")
    args = {n: v for n, v in service.args.items() if n not in ("served-model-name", "revision")}
    size = LaunchConfig("", args).tensor_parallel
    parallelism = {"parallelism": {"tensor": size}} if size > 1 else {}
    args.pop("tensor-parallel-size", None)
    flags = LaunchConfig("", args).flags()
    _refuse_templates((*flags, *service.winner.env.values(), name))
    extra = {"name": "VLLM_ADDITIONAL_ARGS", "value": escaped_dollars(shlex.join(flags))}
    main = {
        "name": "main",
        "image": image,
        "env": [*variables(service), extra],
        "resources": resources(service),
        # The rest of the probe, its scheme among it, is the template's.
        "startupProbe": {"failureThreshold": start_failures(service)},
        "volumeMounts": mounts(service, model=False)[1:],
    }
    template = {
        **_placed(service),
        "containers": [{key: value for key, value in main.items() if value != []}],
        "volumes": volumes(service, model=False)[1:],
    }
    document = {
        "apiVersion": "serving.kserve.io/v1alpha2",
        "kind": "LLMInferenceService",
        "metadata": {"name": service.name},
        "spec": {
            "model": {"uri": _uri(service), "name": name},
            "replicas": 1,
            **parallelism,
            "template": {key: value for key, value in template.items() if value != []},
        },
    }
    return write_yaml(document, comments=_comments(service))


def kserve_runtime(service: Service) -> str:
    """Write a ServingRuntime that starts the winner, and the InferenceService that uses it."""
    flags = _flags(service)
    name = service.name
    _refuse_templates((*flags, *service.winner.env.values()))
    own = (
        []
        if "served-model-name" in service.added
        else ["--served-model-name", served_name(service)]
    )
    container = {
        "name": "kserve-container",
        "image": service.image,
        "command": ["vllm", "serve", MODEL],
        "args": words([*flags, *own]),
        "env": variables(service),
        "ports": [{"containerPort": service.port, "protocol": "TCP"}],
        "resources": resources(service),
        **probes(service),
        "volumeMounts": mounts(service, model=False),
    }
    runtime = {
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": "ServingRuntime",
        "metadata": {"name": name},
        "spec": {
            "supportedModelFormats": [{"name": "vllm-autotune", "autoSelect": False}],
            **_placed(service),
            "containers": [container],
            "volumes": volumes(service, model=False),
        },
    }
    front = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": name},
        "spec": {
            "predictor": {
                "minReplicas": 1,
                "maxReplicas": 1,
                "terminationGracePeriodSeconds": STOP_SECONDS,
                "model": {
                    "modelFormat": {"name": "vllm-autotune"},
                    "runtime": name,
                    "storageUri": _uri(service),
                },
            }
        },
    }
    return write_yaml(runtime, front, comments=_comments(service))


def served_name(service: Service) -> str:
    """Return the name that requests ask for: the first that was added, else the service's."""
    name = service.added.get("served-model-name")
    if isinstance(name, tuple):
        name = name[0]
    return str(name) if name else service.winner.model if service.from_hub else service.name


def _flags(service: Service) -> list[str]:
    args = {name: value for name, value in service.args.items() if name != "revision"}
    return LaunchConfig("", args).flags()


def _uri(service: Service) -> str:
    """Return where KServe gets the model from. Raises BadUsage for a folder of this machine."""
    if service.from_hub:
        revision = service.winner.args.get("revision")
        return f"hf://{service.winner.model}{f':{revision}' if revision else ''}"
    if service.volume is None:
        hint = "name the claim that has it: --model-volume pvc:NAME/PATH"
        raise BadUsage(f"KServe cannot mount {service.winner.model} from a node", hint)
    return f"pvc://{service.volume.claim}/{service.volume.path}".rstrip("/")


def _comments(service: Service) -> list[str]:
    token = ["a token for the Hub, if it needs one: in a secret of the service account"]
    labels = [note for note in cluster_notes(service) if note.startswith("nodes")]
    return [*service.comments(), *(token if service.from_hub else []), *labels]


def _placed(service: Service) -> dict[str, Any]:
    selector = node_selector(service)
    return {"nodeSelector": selector} if selector else {}


def _refuse_templates(texts: Iterable[str]) -> None:
    for text in texts:
        if "{{" in text:
            hint = "use --as k8s, which takes text as it is"
            raise BadReport(f"KServe would take the `{{{{` of {text[:80]} for a template", hint)
