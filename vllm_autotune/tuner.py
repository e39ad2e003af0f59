"""The walk, for real: recall or search, launch, record."""

import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from . import __version__, device
from .accuracy import accuracy, measurement
from .diagnose import cures
from .errors import BudgetSpent, CannotWrite
from .facts import Attempt, Candidate, Facts
from .fit import settled
from .interruption import Interrupted
from .outcome import Certificate, Environment, OutOfMemory, Stable
from .report import (
    CacheUse,
    Memory,
    Report,
    Status,
    Trial,
    ValidFor,
    Versions,
    Winner,
    model_of,
)
from .search import Skip, next_step
from .store import Cache, Run, cache_key, locked, still_valid
from .trial import Limits, Progress, command, run_trial


class Audience(Protocol):
    """Who watches a tuning."""

    def note(self, text: str) -> None:
        """Hear something that does not stop the run."""

    def begin(self, number: int, candidate: Candidate) -> None:
        """See a launch begin."""

    def progress(self, progress: Progress) -> None:
        """See a launch go on; called several times a second."""

    def end(self, trial: Trial) -> None:
        """See a launch end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to run: where results and cache are, and what may be spent.

    `until` is the monotonic time when everything must end.
    """

    results: Path
    cache: Path
    refresh: bool = False
    max_launches: int = 12
    launch_seconds: float = 1800
    until: float | None = None
    ports: range | None = None


def tune(facts: Facts, options: Options, audience: Audience) -> tuple[Report, Path | None]:
    """Return the report, and where it was written (None for an answer from the cache).

    An interruption ends the walk with a report as well; the trial it hit is not in it.
    """
    began = time.monotonic()
    cache, key = Cache(options.cache), cache_key(facts)
    if not options.refresh:
        recalled = _recall(cache, key, facts, audience)
        if recalled is not None:
            elapsed = round(time.monotonic() - began, 3)
            hit = CacheUse(key=key, hit=True)
            return replace(recalled, cache=hit, launches=0, elapsed_seconds=elapsed), None
    cache.prepare()
    facts = cache.pooled(facts, audience.note)
    with locked(facts.devices):
        stamp = datetime.now(UTC)
        run = Run.begin(options.results, key, f"{stamp:%Y%m%d-%H%M%S}")
        walk = _Walk(facts, options, audience, run, cache)
        status, reason, hint = walk.go()
        report = Report(
            status=status,
            reason=reason,
            hint=hint,
            model=model_of(facts),
            devices=facts.devices,
            versions=Versions(
                autotune=__version__,
                vllm=facts.engine.version,
                torch=facts.engine.torch,
                driver=facts.devices[0].driver,
            ),
            workload=facts.workload,
            ladder=facts.ladder.name,
            fixed=dict(facts.fixed),
            winner=walk.winner(),
            trials=tuple(walk.trials),
            skipped=tuple(Skip(rung=name, reason=why) for name, why in walk.skips.items()),
            launches=len(walk.trials),
            elapsed_seconds=round(time.monotonic() - began, 2),
            cache=CacheUse(key=key, hit=False),
            created_at=stamp.isoformat(timespec="seconds"),
        )
        path = run.finish(report)
        if status == "stable":
            cache.remember(key, report)
    return report, path


def _recall(cache: Cache, key: str, facts: Facts, audience: Audience) -> Report | None:
    found = cache.recall(key)
    if isinstance(found, Report):
        objection = still_valid(found, facts)
        if objection is None:
            return found
        found = f"the cached answer cannot be used: {objection}"
    if found:
        audience.note(found)
    return None


class _Walk:
    """The launches of one run."""

    def __init__(
        self, facts: Facts, options: Options, audience: Audience, run: Run, cache: Cache
    ) -> None:
        self.facts = facts
        self.cache = cache
        self.options = options
        self.audience = audience
        self.run = run
        self.history: list[Attempt] = []
        self.trials: list[Trial] = []
        self.skips: dict[str, str] = {}

    def go(self) -> tuple[Status, str, str]:
        """Launch until a candidate is stable or there is none; return status, reason, hint."""
        try:
            while True:
                step = next_step(self.facts, self.history)
                for skip in step.skips:
                    self.skips[skip.rung] = skip.reason
                if step.candidate is None:
                    return self.verdict(step.reason)
                if len(self.trials) >= self.options.max_launches:
                    return (
                        "budget",
                        f"{len(self.trials)} launches are spent",
                        "raise --max-launches",
                    )
                self.launch(step.candidate)
        except BudgetSpent as spent:
            return "budget", spent.message, spent.hint
        except Interrupted as signal:
            return "interrupted", f"{signal} stopped it", "run the same command again"

    def launch(self, candidate: Candidate) -> None:
        number = len(self.trials) + 1
        self.audience.begin(number, candidate)
        limits = Limits(
            launch_seconds=self.options.launch_seconds,
            until=self.options.until,
            ports=self.options.ports,
        )
        log = self.run.log(number)
        trial = run_trial(self.facts, candidate, number, log, limits, self.audience.progress)
        attempt = Attempt(candidate=candidate, outcome=trial.outcome, readings=trial.readings)
        trial = replace(trial, accuracy=accuracy(self.facts, attempt))
        self.trials.append(trial)
        self.history.append(attempt)
        self.run.append(trial)
        self.measure(attempt)
        self.audience.end(trial)
        now = tuple(device.refreshed(d) for d in self.facts.devices)
        self.facts = replace(self.facts, devices=now)

    def measure(self, attempt: Attempt) -> None:
        """Keep for later walks what a launch measured; nothing depends on it."""
        measured = measurement(self.facts, attempt)
        if measured is None:
            return
        try:
            self.cache.measure(self.facts, measured)
        except CannotWrite as refusal:
            self.audience.note(refusal.message)

    def verdict(self, reason: str) -> tuple[Status, str, str]:
        last = self.history[-1].outcome if self.history else None
        if isinstance(last, Stable):
            return "stable", "the first configuration that survived the certificate", ""
        if isinstance(last, Environment):
            return "environment", last.reason, "free the device, then run the same command again"
        if isinstance(last, OutOfMemory) or last is None:
            hint = "accept less (--min-context, --concurrency), or give it more GPUs or memory"
        else:
            hint = "; ".join(cures(last))
        return "exhausted", reason, hint

    def winner(self) -> Winner | None:
        for attempt, trial in zip(self.history, self.trials, strict=True):
            if isinstance(trial.outcome, Stable):
                candidate = settled(self.facts, attempt)
                return _winner(self.facts, candidate, trial, trial.outcome.certificate)
        return None


def _winner(facts: Facts, candidate: Candidate, trial: Trial, certificate: Certificate) -> Winner:
    config, readings = candidate.config, trial.readings
    used = facts.used(config)
    reserved = trial.predicted.reserved_bytes
    return Winner(
        argv=tuple(command(facts, candidate)),
        model=config.model,
        args=dict(config.args),
        env=dict(config.env),
        rungs=tuple(applied.name for applied in candidate.rungs),
        gives_up=tuple(applied.gives_up for applied in candidate.rungs if applied.gives_up),
        max_model_len=facts.length(config),
        max_num_seqs=facts.sequences(config),
        kv_cache_tokens=readings.kv_tokens,
        memory=Memory(
            reserved=reserved,
            weights=readings.weights_bytes,
            kv_cache=readings.kv_bytes,
            activations=readings.activation_bytes,
            graphs=readings.graph_bytes,
            least_free=certificate.least_free_bytes,
        ),
        certificate=certificate,
        startup_seconds=trial.startup_seconds or 0.0,
        valid_for=ValidFor(
            device=used[0].name,
            count=len(used),
            memory_bytes=used[0].memory_bytes,
            needed_bytes=reserved,
            budget_bytes=min(facts.budget(d) for d in used),
        ),
    )
