"""A report's winner as something to deploy. Imports nothing heavy: `--help` lists the formats."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from .container import compose, docker, k8s
from .local import command_line, env, shell, systemd, vllm_config

if TYPE_CHECKING:
    from ..report.report import Report

__all__ = ["FORMATS", "command_line", "render"]

FORMATS: Mapping[str, Callable[["Report"], str]] = {
    "shell": shell,
    "env": env,
    "vllm-config": vllm_config,
    "systemd": systemd,
    "docker": docker,
    "compose": compose,
    "k8s": k8s,
}


def render(report: "Report", form: str = "shell") -> str:
    """Return the winner in one of FORMATS, on the devices it was proven on.

    Raises BadReport when the report has no winner, or none that the format can say.
    """
    return FORMATS[form](report)
