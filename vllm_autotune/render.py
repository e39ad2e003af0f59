"""A report's winner as something to deploy."""

import shlex
from collections.abc import Mapping, Sequence

from .errors import BadReport
from .report import Report

FORMATS = ("shell",)


def render(report: Report, form: str = "shell") -> str:
    """Return the winner in one of FORMATS.

    Raises BadReport when the report has no winner.
    """
    assert form in FORMATS
    if report.winner is None:
        raise BadReport(
            f"the report has no winner: {report.reason}", "there is nothing to deploy from it"
        )
    return command_line(report.winner.argv, report.winner.env)


def command_line(argv: Sequence[str], env: Mapping[str, str]) -> str:
    """Return the line to paste into a shell."""
    variables = [f"{name}={shlex.quote(value)}" for name, value in env.items()]
    return " ".join([*variables, shlex.join(argv)])
