"""A report as the outputs of a step of a GitHub workflow, as its GITHUB_OUTPUT takes them."""

import json
import secrets

from ..command_line import command_line
from ..deploy import Service
from ..errors import BadReport
from ..report.report import Report


def to_github_output(report: Report, distrust: BadReport | None = None) -> str:
    """Write the outputs; there is no `command` that is not to be trusted."""
    winner, hit = report.winner, report.cache.hit
    outputs = {
        "status": report.status,
        "cache-hit": json.dumps(hit),
        "launches": str(report.launches),
    }
    if winner:
        outputs["args-json"] = json.dumps(winner.args)
        outputs["max-model-len"] = str(winner.max_model_len)
    if winner and distrust is None:
        service = Service(report)
        outputs["command"] = command_line(service.argv, service.environment)
    # A value could have lines of its own, and so must not know what ends it.
    end = f"end-{secrets.token_hex(16)}"
    return "\n".join(f"{name}<<{end}\n{value}\n{end}" for name, value in outputs.items())
