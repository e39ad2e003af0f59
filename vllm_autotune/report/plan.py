"""What a walk expects before its first launch: one versioned document, and its JSON Schema."""

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from pydantic import TypeAdapter

from ..machine.device import Device
from ..search.facts import Facts
from ..search.prediction import calibrate, predict
from ..search.step import next_step, prospects
from ..search.trial import Prediction
from ..vllm.config import LaunchConfig, Value
from ..workload import Workload
from .report import Model, model_of

SCHEMA_VERSION = 1

Fits = Literal["yes", "no", "perhaps", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A configuration and what is expected of it, in bytes per device.

    `model` is what vLLM is given, `fits` is `no` only where that is certain. What it reserves
    may be `over_limit`: more than is free, or than may be used.
    """

    model: str
    flags: tuple[str, ...]
    env: dict[str, str]
    max_model_len: int
    devices: int
    predicted: Prediction
    fits: Fits
    over_limit: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One rung, and the proposal that it and all rungs above it make together.

    Without a proposal the rung is not taken; `expectation` says why, or what to expect.
    """

    rung: str
    gives_up: str
    expectation: str
    proposal: Proposal | None


@dataclass(frozen=True, slots=True, kw_only=True)
class First:
    """What would be launched first: less of the ladder than a row has, where less may do."""

    rungs: tuple[str, ...]
    gives_up: tuple[str, ...]
    proposal: Proposal


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The ladder before any launch.

    `budget_bytes` is the most of each device that may be used. `vllm_installed` is false where
    the rules of version `vllm` are taken from what is known of it. `first` is None where nothing
    is worth a launch, for `reason`.
    """

    schema_version: int = SCHEMA_VERSION
    model: Model
    devices: tuple[Device, ...]
    vllm: str
    vllm_installed: bool
    workload: Workload
    ladder: str
    fixed: dict[str, Value]
    budget_bytes: int
    headroom_bytes: int
    host_free_bytes: int
    as_it_is: Proposal
    rungs: tuple[Row, ...]
    first: First | None
    reason: str


def make_plan(facts: Facts) -> Plan:
    """Return what a walk over these facts expects; nothing is launched."""
    step = next_step(facts, ())
    first = None
    if step.candidate is not None:
        applied = step.candidate.rungs
        first = First(
            rungs=tuple(rung.name for rung in applied),
            gives_up=tuple(rung.gives_up for rung in applied if rung.gives_up),
            proposal=_proposal(facts, step.candidate.config, step.candidate.predicted),
        )
    base = facts.base()
    return Plan(
        model=model_of(facts),
        devices=facts.devices,
        vllm=facts.engine.version,
        vllm_installed=facts.engine.installed,
        workload=facts.workload,
        ladder=facts.ladder.name,
        fixed=dict(facts.fixed),
        budget_bytes=min(facts.budget(device) for device in facts.devices),
        headroom_bytes=facts.headroom_bytes,
        host_free_bytes=facts.host_free_bytes,
        as_it_is=_proposal(facts, base, predict(facts, calibrate(facts), base)),
        rungs=tuple(
            Row(
                rung=rung.name,
                gives_up=rung.gives_up,
                expectation=why,
                proposal=_proposal(facts, found.config, found.predicted) if found else None,
            )
            for rung, found, why in prospects(facts)
        ),
        first=first,
        reason=step.reason,
    )


def _proposal(facts: Facts, config: LaunchConfig, predicted: Prediction) -> Proposal:
    most = min(facts.limit(config), *(device.free_bytes for device in facts.used(config)))
    return Proposal(
        model=config.model,
        flags=tuple(config.flags()),
        env=dict(config.env),
        max_model_len=facts.length(config),
        devices=len(facts.used(config)),
        predicted=predicted,
        fits=predicted.fits,
        over_limit=predicted.reserved_bytes > most,
    )


@cache
def _adapter() -> TypeAdapter[Plan]:
    return TypeAdapter(Plan)


def to_json(plan: Plan) -> str:
    """Return the document, indented; what is unknown or unbounded is null."""
    return _adapter().dump_json(plan, indent=2).decode()


def from_json(text: str) -> Plan:
    """Read a plan.

    Raises ValueError for what is none.
    """
    return _adapter().validate_json(text)


def schema() -> dict[str, Any]:
    """Return the plan's JSON Schema."""
    return _adapter().json_schema(mode="serialization")
