"""What every format takes from a report."""

import json
import re
from typing import TYPE_CHECKING, Any

from ..errors import BadReport
from ..machine.device import Device, visible_environment

if TYPE_CHECKING:
    from ..report.report import Report, Winner

# How long a server may take to stop: requests that run are let end, then memory is freed.
STOP_SECONDS = 60
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
FLAG = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*\+?")


def winner_of(report: "Report") -> "Winner":
    """Return the winner.

    Raises BadReport when there is none, or when a name in it would be read as something else.
    """
    winner = report.winner
    if winner is None:
        raise BadReport(
            f"the report has no winner: {report.reason}", "there is nothing to deploy from it"
        )
    for names, allowed in ((winner.env, VARIABLE), (winner.args, FLAG)):
        for name in names:
            if not allowed.fullmatch(name):
                raise BadReport(
                    f"{json.dumps(name)} is no name of a variable or an argument",
                    "the report was changed: make it again with autotune tune",
                )
    return winner


def used(report: "Report") -> tuple[Device, ...]:
    """Return the devices the winner was proven on."""
    return report.devices[: winner_of(report).valid_for.count]


def environment(report: "Report") -> dict[str, str]:
    """Return the winner's variables, and those that show its devices where it needs them."""
    devices = used(report)
    first = [device.index for device in devices] == list(range(len(devices)))
    usual = first and not devices[0].mig  # what a server takes by itself
    return {**({} if usual else visible_environment(devices)), **winner_of(report).env}


def name_of(report: "Report") -> str:
    """Return a name for the server: a DNS label, as Kubernetes asks for (RFC 1035)."""
    model = winner_of(report).model
    cached = re.search(r"/models--([^/]+)/snapshots/", model)
    last = cached[1].rpartition("--")[2] if cached else model.rstrip("/").rpartition("/")[2]
    return f"vllm-{re.sub(r'[^a-z0-9]+', '-', last.lower())[:40]}".rstrip("-")


def written(content: Any, indent: int | None = None) -> str:
    r"""Return JSON that is YAML, too.

    YAML reads no surrogate pairs, and takes U+0085 and the like for the end of a line (YAML 1.1,
    5.4): what is printable stays as it is, the rest of the first 64 Ki becomes `\uXXXX`.
    """
    text = json.dumps(content, indent=indent, ensure_ascii=False)
    kept = (c if c.isprintable() or c == "\n" or c > "\uffff" else f"\\u{ord(c):04x}" for c in text)
    return "".join(kept)
