"""A report's winner as something to deploy. Loads nothing heavy: `--help` lists the formats."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from .container import compose, docker, k8s
from .local import command_line, env, shell, systemd, vllm_config

if TYPE_CHECKING:
    from ..report.report import Report

__all__ = ["FORMATS", "command_line", "shell"]

# Each writes the winner, on the devices it was proven on. It raises BadReport where there is no
# winner, or none that the format can express.
FORMATS: Mapping[str, Callable[["Report"], str]] = {
    write.__name__.replace("_", "-"): write
    for write in (shell, env, vllm_config, systemd, docker, compose, k8s)
}
