"""The recorded and the public logs, and what is known of each."""

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from tests.support.paths import GOLDEN
from vllm_autotune.diagnose import Diagnosis, FileReader
from vllm_autotune.diagnose.milestones import to_bytes

PUBLIC = GOLDEN / "public"
# Of servers that we started ourselves: each has a verdict beside it.
RECORDED = sorted(log for log in GOLDEN.glob("*/*.log") if log.with_suffix(".json").exists())
ALL = sorted((*RECORDED, *PUBLIC.glob("*.log")))
# What a number of the truth is called in a diagnosis.
_NAMES = {"shortfall": "shortfall_bytes", "kv": "kv_bytes", "kv_needed": "kv_needed_bytes"}
_ROUNDED = 0.006  # of a GiB: logs have two decimals


@cache
def truths() -> Mapping[str, Mapping[str, Any]]:
    """What really happened in each public log, decided from its whole thread."""
    truth: Mapping[str, Mapping[str, Any]] = json.loads((PUBLIC / "truth.json").read_text())
    return truth


def diagnosed(text: str) -> Diagnosis:
    reader = FileReader()
    reader.feed(text)
    return reader.diagnosis()


def essence(found: Diagnosis) -> tuple[object, ...]:
    """Return what must not depend on what is around the lines of a log."""
    said = found.document()
    return said.outcome, said.phase, said.cause, said.ready, tuple(sorted(said.numbers.items()))


def errors(found: Diagnosis, truth: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a diagnosis has wrong, of outcome, phase, cause, numbers and cures."""
    outcome = found.outcome
    kind, phase = (outcome.kind, outcome.phase) if outcome else ("none", found.phase)
    if kind not in truth["outcome"]:
        yield f"outcome {kind}"
    if phase not in truth["phase"]:
        yield f"phase {phase}"
    said = f"{outcome.cause}: {outcome.reason}" if outcome else ""
    if not re.search(truth["says"], said, re.IGNORECASE) and outcome:
        yield f"said {said!r}"
    document = found.document()
    for name, value in truth.get("numbers", {}).items():
        shown = document.numbers.get(_NAMES.get(name, name))
        if not _alike(shown, value):
            yield f"{name} {shown!r}"
    if outcome and outcome.cause != "unknown" and not found.cures:
        yield "no cure"
    if "no_cure" in truth and re.search(truth["no_cure"], " ".join(found.cures)):
        yield "a cure that does not help"


def _alike(shown: object, value: object) -> bool:
    if isinstance(value, str) and re.match(r"[\d.]+( [KMG]iB)?$", value) and shown is not None:
        assert isinstance(shown, int)
        return abs(shown - to_bytes(value)) <= _ROUNDED * 2**30
    return shown == value
