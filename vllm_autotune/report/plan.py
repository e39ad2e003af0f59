"""The plan: what a walk expects before its first launch, as one versioned document."""

from dataclasses import dataclass

from ..machine.device import Device
from ..search.alternatives import served_by
from ..search.facts import Facts
from ..search.missing import Published
from ..search.prediction import calibrate, predict
from ..search.step import next_step, prospects
from ..search.trial import Fits, Prediction
from ..vllm.config import LaunchConfig, Value
from ..workload import Workload
from .alternatives import helps, listed
from .report import SCHEMA_VERSION, Model, PlannedAlternative, PlannedHelp, SchemaVersion, model_of


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedCandidate:
    """A configuration and what is expected of it, in bytes per device.

    `model` is what vLLM is given, `fits` is `no` only where that is certain. `over_limit` says
    that vLLM would reserve more than is free, or than may be used.
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
class PlannedRung:
    """One rung, and the candidate that it and all rungs above it make together.

    A skipped rung has no `proposal`; `expectation` says why, or what to expect.
    """

    rung: str
    gives_up: str
    expectation: str
    proposal: PlannedCandidate | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstLaunch:
    """What would be launched first, with only the rungs that it needs."""

    rungs: tuple[str, ...]
    gives_up: tuple[str, ...]
    proposal: PlannedCandidate


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The ladder before any launch.

    `budget_bytes` is the most of each device that may be used. `vllm_installed` is false where
    the rules of version `vllm` are taken from what is known of it. `first` is None where nothing
    is worth a launch, for `reason`.
    """

    schema_version: SchemaVersion = SCHEMA_VERSION
    model: Model
    devices: tuple[Device, ...]
    left_alone: tuple[str, ...] = ()
    vllm: str
    vllm_installed: bool
    workload: Workload
    ladder: str
    fixed: dict[str, Value]
    budget_bytes: int
    headroom_bytes: int
    host_free_bytes: int
    as_it_is: PlannedCandidate
    rungs: tuple[PlannedRung, ...]
    first: FirstLaunch | None
    reason: str
    alternatives: tuple[PlannedAlternative, ...] = ()
    would_help: tuple[PlannedHelp, ...] = ()


def make_plan(facts: Facts, published: Published = dict) -> Plan:
    """Work out what a walk over these facts expects; nothing is launched.

    Where that gives something up, `published` is asked for quantized checkpoints elsewhere.
    """
    step, base = next_step(facts, ()), facts.base()
    first = found = None
    if (candidate := step.candidate) is not None:
        first = FirstLaunch(
            rungs=tuple(rung.name for rung in candidate.rungs),
            gives_up=tuple(rung.gives_up for rung in candidate.rungs if rung.gives_up),
            proposal=_planned(facts, candidate.config, candidate.predicted),
        )
        found = served_by(facts, candidate.config, candidate.predicted)
    return Plan(
        model=model_of(facts),
        devices=facts.devices,
        left_alone=facts.left_alone,
        vllm=facts.engine.version,
        vllm_installed=facts.engine.installed,
        workload=facts.workload,
        ladder=facts.ladder.name,
        fixed=dict(facts.fixed),
        budget_bytes=min(facts.budget(device) for device in facts.devices),
        headroom_bytes=facts.headroom_bytes,
        host_free_bytes=facts.host_free_bytes,
        as_it_is=_planned(facts, base, predict(facts, calibrate(facts), base)),
        rungs=tuple(
            PlannedRung(
                rung=rung.name,
                gives_up=rung.gives_up,
                expectation=expectation,
                proposal=_planned(facts, found.config, found.predicted) if found else None,
            )
            for rung, found, expectation in prospects(facts)
        ),
        first=first,
        reason=step.reason,
        alternatives=listed(facts, found),
        would_help=helps(facts, found, step.candidate, published),
    )


def _planned(facts: Facts, config: LaunchConfig, predicted: Prediction) -> PlannedCandidate:
    devices = facts.used(config)
    return PlannedCandidate(
        model=config.model,
        flags=tuple(config.flags()),
        env=dict(config.env),
        max_model_len=facts.length(config),
        devices=len(devices),
        predicted=predicted,
        fits=predicted.fits,
        over_limit=predicted.reserved_bytes > facts.limit(config)
        or any(facts.reserved_by(device, config) > device.free_bytes for device in devices),
    )
