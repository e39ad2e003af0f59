"""Every document that is printed as JSON, by its name; all have the version of the report."""

from collections.abc import Mapping
from typing import Any

from ..diagnose import Document
from .plan import Plan
from .report import Answers, Checked, Refused, Report

DOCUMENTS: Mapping[str, Any] = {
    "report": Report | Refused,
    "plan": Plan | Refused,
    "check": Checked | Refused,
    "diagnose": Document | Refused,
    "cache": Answers | Refused,
}
