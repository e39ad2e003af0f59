"""Reports and their parts: strategies for any, and one that is good."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from tests.support.paths import EXAMPLES
from vllm_autotune.certificate.items import generating_items
from vllm_autotune.machine.device import Device
from vllm_autotune.memory.interval import Interval
from vllm_autotune.outcome import (
    PHASES,
    Certificate,
    Crashed,
    Degraded,
    Environment,
    Hung,
    Item,
    Outcome,
    OutOfMemory,
    Readings,
    Rejected,
    Stable,
)
from vllm_autotune.report.report import (
    CacheUse,
    Memory,
    Model,
    Report,
    Status,
    ValidFor,
    Versions,
    Winner,
    model_of,
    versions_of,
)
from vllm_autotune.search.facts import Facts
from vllm_autotune.search.step import next_step
from vllm_autotune.search.trial import Applied, Prediction, Skip, Trial
from vllm_autotune.tuning.cache import cache_key
from vllm_autotune.tuning.winner import winner_of
from vllm_autotune.vllm.config import LaunchConfig, Value
from vllm_autotune.workload import Workload

words = st.text(max_size=20)
counts = st.integers(0, 2**63)
seconds = st.floats(0, 1e9)
failure = {
    "cause": words,
    "phase": st.sampled_from(PHASES),
    "reason": words,
    "evidence": st.lists(words, max_size=3).map(tuple),
}
checks = st.builds(
    Item,
    name=words,
    requests=counts,
    seconds=seconds,
    ttft_seconds=st.none() | seconds,
    tokens_per_second=st.none() | seconds,
    note=st.none() | words,
)
certificates = st.builds(
    Certificate,
    checks=st.lists(checks, max_size=3).map(tuple),
    seconds=seconds,
    least_free_bytes=st.none() | counts,
)
OUTCOMES: dict[type, st.SearchStrategy[Outcome]] = {
    Stable: st.builds(Stable, certificate=certificates),
    OutOfMemory: st.builds(
        OutOfMemory,
        **failure,
        where=st.sampled_from(("gpu", "host")),
        shortfall_bytes=st.none() | counts,
        limit=st.none() | counts,
    ),
    Rejected: st.builds(Rejected, **failure, argument=st.none() | words),
    Degraded: st.builds(Degraded, **failure),
    Hung: st.builds(Hung, **failure, seconds=seconds),
    Crashed: st.builds(Crashed, **failure, exit_code=st.none() | st.integers(-64, 255)),
    Environment: st.builds(Environment, **failure),
}
ends = st.floats(allow_nan=False, allow_infinity=False)
intervals = st.builds(Interval, low=ends | st.just(-math.inf), high=ends | st.just(math.inf))
NARROW = Interval(1, 2)


def prediction(interval: Interval) -> Prediction:
    return Prediction(reserved_bytes=3, weights=interval, kv_needed=interval, kv_available=interval)


# What the report that is good starts; `trial` is the launch of it.
ARGS: dict[str, Value] = {
    "max-model-len": 16,
    "dtype": "half",
    "enforce-eager": True,
    "middleware": ("a", "b"),
    "r": 0.5,
}
COMMAND = ("vllm", "serve", "it's here", *LaunchConfig("", ARGS).flags())


def trial(outcome: Outcome, interval: Interval = NARROW) -> Trial:
    return Trial(
        number=1,
        fingerprint="0123",
        argv=COMMAND,
        env={"VLLM_X": "a b"},
        rungs=(Applied(name="a", gives_up="b", args={"max-model-len": 16, "x": True}, env={}),),
        predicted=prediction(interval),
        outcome=outcome,
        readings=Readings(weights_bytes=1, concurrency=2.5, model_runner="v2"),
        log="trial-01.log",
    )


STABLE = Stable(certificate=Certificate(checks=(), seconds=1.5))


def make_report(*trials: Trial, status: Status = "stable") -> Report:
    winner = Winner(
        argv=COMMAND,
        model="it's here",
        args=ARGS,
        env={"VLLM_X": "a b"},
        rungs=("shorter-context",),
        gives_up=("context",),
        max_model_len=16,
        max_num_seqs=4,
        kv_cache_tokens=None,
        memory=Memory(reserved=3),
        certificate=STABLE.certificate,
        startup_seconds=2.0,
        valid_for=ValidFor(
            device="NVIDIA H200", count=1, memory_bytes=9, needed_bytes=3, budget_bytes=8
        ),
    )
    if status == "stable" and not any(each.outcome == STABLE for each in trials):
        trials = (*trials, trial(STABLE))
    return Report(
        status=status,
        reason="because",
        model=Model(
            path="m", revision=None, architecture="A", weight_bytes=None, quantization=None,
            context=32,
        ),
        devices=(
            Device(
                kind="cuda", index=0, name="NVIDIA H200", uuid="GPU-0", memory_bytes=9,
                free_bytes=8, capability=(9, 0), driver="570",
            ),
        ),
        versions=Versions(autotune="0", vllm="0.32.0", torch=None, driver="570"),
        workload=Workload(),
        ladder="default",
        fixed={"dtype": "half"},
        winner=winner if status == "stable" else None,
        trials=trials,
        skipped=(Skip(rung="r", reason="so"),),
        launches=len(trials),
        elapsed_seconds=3.0,
        cache=CacheUse(key="a/b/c", hit=False),
        created_at="2026-01-01T00:00:00+00:00",
    )  # fmt: skip


def recorded(case: str) -> dict[str, Any]:
    """Return the report of a case that ran on real GPUs."""
    document: dict[str, Any] = json.loads((EXAMPLES / "h200" / case / "report.json").read_text())
    return document


def answer_for(facts: Facts) -> Report:
    """Return what a tuning of these facts would have found, had its first launch been stable."""
    candidate = next_step(facts, ()).candidate
    assert candidate
    items = generating_items(facts.workload.probe, images=facts.setup(candidate.config).images)
    checks = tuple(Item(name=name, requests=1, seconds=0.1) for name in items)
    certificate = Certificate(checks=checks, seconds=1.5, least_free_bytes=2**30)
    length = facts.workload.min_context
    launched = Trial.of(
        candidate,
        Stable(certificate=certificate),
        Readings(max_model_len=length, kv_tokens=20 * length, kv_bytes=2**30),
        argv=tuple(facts.engine.argv(candidate.config)),
        log="trial-01.log",
    )
    return Report(
        status="stable",
        reason="the first configuration that survived the certificate",
        model=model_of(facts),
        devices=facts.devices,
        busy=facts.busy,
        versions=versions_of(facts),
        workload=facts.workload,
        ladder=facts.ladder.name,
        fixed=dict(facts.fixed),
        winner=winner_of(facts, launched, certificate),
        trials=(launched,),
        skipped=(),
        launches=1,
        elapsed_seconds=3.0,
        cache=CacheUse(key=cache_key(facts), hit=False),
        created_at="2026-01-01T00:00:00+00:00",
    )


def with_settings(
    report: Report,
    args: Mapping[str, Value] = {},
    env: Mapping[str, str] = {},
    model: str | None = None,
) -> Report:
    """Return an answer that was found with these, too: nothing in it contradicts itself."""
    winner, proof = report.winner, report.trials[-1]
    assert winner
    config = LaunchConfig(winner.model, winner.args, winner.env).replace(args, env, model or "")
    command = winner.argv[: winner.argv.index(winner.model)]
    argv = (*command, config.model, *config.flags())
    changed: dict[str, Any] = {
        "model": config.model,
        "args": config.args,
        "env": config.env,
        "argv": argv,
    }
    winner, proof = replace(winner, **changed), replace(proof, **changed)
    return replace(report, winner=winner, trials=(*report.trials[:-1], proof))


Way = tuple[str | int, ...]


def leaves(value: object, way: Way = ()) -> list[Way]:
    """Return the ways to all values of a document, whole parts of it included."""
    inner: list[tuple[str | int, object]] = []
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    found = [way] if way else []
    return found + [leaf for name, part in inner for leaf in leaves(part, (*way, name))]


def changed(document: Any, way: Way, value: object) -> None:
    """Change one field of a document."""
    *outer, last = way
    for part in outer:
        document = document[part]
    document[last] = value
