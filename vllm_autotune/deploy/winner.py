"""What every format takes from a report."""

import json
import re
from typing import TYPE_CHECKING, Any

from ..errors import BadReport
from ..machine.device import Device, visible_environment

if TYPE_CHECKING:
    from ..report.report import Report, Winner

# How long a server may take to stop: running requests may finish, then memory is freed.
STOP_SECONDS = 60
VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
FLAG_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*\+?")


def winner_of(report: "Report") -> "Winner":
    """Return the winner. Raises BadReport without one, or if a name in it is more than a name."""
    winner = report.winner
    if winner is None:
        reason = f"the report has no winner: {report.reason}"
        raise BadReport(reason, "there is nothing to deploy from it")
    for names, allowed in ((winner.env, VARIABLE_NAME), (winner.args, FLAG_NAME)):
        if wrong := [name for name in names if not allowed.fullmatch(name)]:
            reason = f"{json.dumps(wrong[0])} is not a valid name for a variable or an argument"
            raise BadReport(reason, "the report was edited: create it again with autotune tune")
    return winner


def devices_of(report: "Report") -> tuple[Device, ...]:
    return report.devices[: winner_of(report).valid_for.count]


def environment(report: "Report") -> dict[str, str]:
    """Return the winner's variables, and those that select its devices where that is needed."""
    devices = devices_of(report)
    first = [device.index for device in devices] == list(range(len(devices)))
    default = first and not devices[0].mig  # what vLLM takes without being told
    return {**({} if default else visible_environment(devices)), **winner_of(report).env}


def server_name(report: "Report") -> str:
    """Return a name for the server: a DNS label, as Kubernetes asks for (RFC 1035)."""
    model = winner_of(report).model
    cached = re.search(r"/models--([^/]+)/snapshots/", model)
    last = cached[1].rpartition("--")[2] if cached else model.rstrip("/").rpartition("/")[2]
    return f"vllm-{re.sub(r'[^a-z0-9]+', '-', last.lower())[:40]}".rstrip("-")


def to_yaml(content: Any, indent: int | None = None) -> str:
    r"""Write YAML that is JSON, too.

    YAML reads no surrogate pairs, and takes U+0085 and the like for the end of a line (YAML 1.1,
    5.4): what is printable stays as it is, the rest of the first 64 Ki becomes `\uXXXX`.
    """
    text = json.dumps(content, indent=indent, ensure_ascii=False)
    kept = (c if c.isprintable() or c == "\n" or c > "\uffff" else f"\\u{ord(c):04x}" for c in text)
    return "".join(kept)
