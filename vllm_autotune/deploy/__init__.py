"""A report's winner as something to deploy. Loads nothing heavy: `--help` lists the formats."""

from collections.abc import Callable, Mapping

from .charts import llm_d, production_stack
from .container import compose, docker, quadlet
from .kserve import kserve, kserve_runtime
from .kubernetes import k8s
from .local import env, shell, systemd, vllm_config
from .platforms import kaito, ray_serve, skypilot
from .service import KeySource, ModelVolume, Service, added_arguments

__all__ = [
    "FORMATS",
    "WITH_VOLUME",
    "KeySource",
    "ModelVolume",
    "Service",
    "added_arguments",
    "shell",
]

# The formats that can mount a claim with the model.
WITH_VOLUME = ("k8s", "kserve", "kserve-runtime", "llm-d", "production-stack")
# Each writes the winner, on the devices it was proven on. It raises BadReport where the format
# cannot express it, and BadUsage where it cannot express the source of the key.
FORMATS: Mapping[str, Callable[[Service], str]] = {
    write.__name__.replace("_", "-"): write
    for write in (
        *(shell, env, vllm_config, systemd, quadlet, docker, compose),
        *(k8s, kserve, kserve_runtime, llm_d, production_stack, kaito, ray_serve, skypilot),
    )
}
