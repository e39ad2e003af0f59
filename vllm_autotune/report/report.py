"""The report: one versioned document, and its JSON Schema."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from ..errors import BadReport
from ..machine.device import Device
from ..outcome import Certificate, Outcome
from ..search.facts import Facts
from ..search.step import Skip
from ..search.trial import Trial
from ..vllm.config import Value
from ..workload import Workload

SCHEMA_VERSION = 1

Status = Literal["stable", "exhausted", "environment", "budget", "interrupted"]
# 1: the ladder is exhausted; 3: the environment failed; 4: launches or time ran out.
EXIT_CODES: Mapping[Status, int] = {
    "stable": 0,
    "exhausted": 1,
    "environment": 3,
    "budget": 4,
    "interrupted": 130,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """What was tuned; `weight_bytes` is None where it is not known."""

    path: str
    revision: str | None
    architecture: str
    weight_bytes: int | None
    quantization: str | None
    context: int


def model_of(facts: Facts) -> Model:
    """Return what is tuned."""
    checkpoint = facts.checkpoint
    return Model(
        path=facts.model,
        revision=checkpoint.revision,
        architecture=checkpoint.architecture,
        weight_bytes=checkpoint.weight_bytes,
        quantization=checkpoint.quantization,
        context=checkpoint.context,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Versions:
    """The software an answer depends on."""

    autotune: str
    vllm: str
    torch: str | None
    driver: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Where the memory of one device went, in bytes; None where vLLM did not say.

    `reserved` is the share vLLM was given, `least_free` the least left while it was probed.
    """

    reserved: int
    weights: int | None = None
    kv_cache: int | None = None
    activations: int | None = None
    graphs: int | None = None
    least_free: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidFor:
    """Where the answer holds: the devices, the free bytes each must have and must keep."""

    device: str
    count: int
    memory_bytes: int
    needed_bytes: int
    budget_bytes: int
    headroom_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Winner:
    """The configuration to deploy. `argv` starts it as it is; it has no host, port or keys."""

    argv: tuple[str, ...]
    model: str
    args: dict[str, Value]
    env: dict[str, str]
    rungs: tuple[str, ...]
    gives_up: tuple[str, ...]
    max_model_len: int
    max_num_seqs: int
    kv_cache_tokens: int | None
    memory: Memory
    certificate: Certificate
    startup_seconds: float
    valid_for: ValidFor


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheUse:
    """The key of the answer, and whether it came from the cache."""

    key: str
    hit: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What one run found, and how. `reason` says in a sentence why it ended as it did."""

    schema_version: int = SCHEMA_VERSION
    status: Status
    reason: str
    hint: str = ""
    model: Model
    devices: tuple[Device, ...]
    versions: Versions
    workload: Workload
    ladder: str
    fixed: dict[str, Value] = field(default_factory=dict)
    winner: Winner | None
    trials: tuple[Trial, ...]
    skipped: tuple[Skip, ...]
    launches: int
    elapsed_seconds: float
    cache: CacheUse
    created_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """What is printed in a report's place where nothing was begun."""

    schema_version: int = SCHEMA_VERSION
    status: Literal["refused"] = "refused"
    reason: str
    hint: str
    winner: None = None
    trials: tuple[()] = ()

    def to_json(self) -> str:
        """Return the document, indented."""
        return TypeAdapter(Refused).dump_json(self, indent=2).decode()


@cache
def _adapter() -> TypeAdapter[Report]:
    return TypeAdapter(Report)


@cache
def _trial_adapter() -> TypeAdapter[Trial]:
    return TypeAdapter(Trial)


def to_json(report: Report) -> str:
    """Return the document, indented; what is unknown or unbounded is null."""
    return _adapter().dump_json(report, indent=2).decode()


def trial_line(trial: Trial) -> str:
    """Return a trial as one line of the journal."""
    return _trial_adapter().dump_json(trial).decode()


def trial_from_line(line: str) -> Trial:
    """Read a line of the journal.

    Raises ValueError for what is none.
    """
    return _trial_adapter().validate_json(line)


def outcome_line(outcome: Outcome) -> str:
    """Return an outcome as one line of JSON."""
    return TypeAdapter(Outcome).dump_json(outcome).decode()


def from_json(text: str) -> Report:
    """Read a report.

    Raises ValueError for what is none, or has another schema version.
    """
    try:
        version = json.loads(text)["schema_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError("it is no autotune report") from error
    if version != SCHEMA_VERSION:
        raise ValueError(f"it has schema version {version}, this autotune reads {SCHEMA_VERSION}")
    try:
        return _adapter().validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"it is broken at `{where}`: {first['msg']}") from error


def find_report(path: Path) -> Path:
    """Return a report's path, or that of the newest one below a folder.

    Raises BadReport when there is none.
    """
    if not path.is_dir():
        return path
    found = sorted(path.rglob("report.json"), key=lambda p: p.stat().st_mtime)
    if not found:
        raise BadReport(f"{path} holds no report.json", "run autotune first")
    return found[-1]


def read_report(path: Path) -> Report:
    """Read a report file, or the newest one below a folder.

    Raises BadReport when there is none.
    """
    path = find_report(path)
    try:
        return from_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadReport(f"{path} cannot be read: {error.strerror}", "check the path") from error
    except ValueError as error:
        raise BadReport(f"{path}: {error}", "make it again with autotune tune") from error


def schema() -> dict[str, Any]:
    """Return the JSON Schema of a report, and of what stands in its place."""
    documents: TypeAdapter[Any] = TypeAdapter(Report | Refused)
    return documents.json_schema(mode="serialization")
