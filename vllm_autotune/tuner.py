"""The walk, for real: recall or search, launch, record."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from . import __version__, device
from .accuracy import accuracy, measurement
from .device import Device
from .diagnose import cures
from .errors import BudgetSpent, CannotWrite, DeviceBusy
from .facts import Attempt, Candidate, Facts, command
from .interruption import Interrupted
from .journal import Run, unfinished
from .lock import Waiting, locked
from .memory import format_bytes
from .outcome import Certificate, Environment, OutOfMemory, Stable
from .recall import here, still_valid
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
from .search import Skip, Step, next_step
from .server import leftovers
from .settle import settled
from .store import Cache, cache_key
from .trial import Limits, Progress, run_trial

# What others may take of a GPU before it counts as busy: a desktop, the driver itself.
BUSY_BYTES = 2 * 2**30
BUSY_SHARE = 0.02
# The host's free memory always changes; so much of it counts as no change.
HOST_SHARE = 0.1


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

    `until` is the monotonic time when everything must end. `wait` is how many seconds to wait
    for another tuning on the same device. `resume` goes on with the newest unfinished run;
    `allow_busy` tunes on devices that others use as well.
    """

    results: Path
    cache: Path
    refresh: bool = False
    max_launches: int = 12
    launch_seconds: float = 1800
    until: float | None = None
    ports: range | None = None
    wait: float = 0.0
    resume: bool = False
    allow_busy: bool = False


def tune(facts: Facts, options: Options, audience: Audience) -> tuple[Report, Path | None]:
    """Return the report, and where it was written (None for an answer from the cache).

    An interruption ends the walk with a report as well; the trial it hit is not in it.
    """
    began = time.monotonic()
    cache, key = Cache(options.cache), cache_key(facts)
    recalled = None if options.refresh else _recall(cache, key, facts, audience, began)
    if recalled is not None:
        return recalled, None
    cache.prepare()
    facts = cache.pooled(facts, audience.note)
    with locked(facts.devices, facts.model, _waiting(options, audience)):
        if options.wait:  # whoever held the device may have found the answer
            facts = _refreshed(facts)
            recalled = None if options.refresh else _recall(cache, key, facts, audience, began)
            if recalled is not None:
                return recalled, None
        for leftover in leftovers():
            audience.note(leftover.remove())
        walk = _begin(facts, options, audience, key)
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
            winner=walk.winner,
            trials=tuple(walk.trials),
            skipped=tuple(Skip(rung=name, reason=why) for name, why in walk.skips.items()),
            launches=len(walk.trials),
            elapsed_seconds=round(time.monotonic() - began, 2),
            cache=CacheUse(key=key, hit=False),
            created_at=walk.run.began,
        )
        path = walk.run.finish(report)
        if status == "stable":
            cache.remember(key, report)
    return report, path


def _waiting(options: Options, audience: Audience) -> Waiting:
    seconds = options.wait
    if options.until is not None:
        seconds = min(seconds, max(0.0, options.until - time.monotonic()))
    return Waiting(seconds=seconds, say=audience.note)


def _refreshed(facts: Facts) -> Facts:
    return replace(facts, devices=tuple(device.refreshed(d) for d in facts.devices))


def _begin(facts: Facts, options: Options, audience: Audience, key: str) -> "_Walk":
    """Go on with an unfinished run if that is wanted and possible, else begin one."""
    left = unfinished(options.results, key)
    if left is not None and options.resume:
        then = replace(facts, measured=facts.measured[: left.measured])
        walk = _Walk(then, options, audience, left)
        trials, torn = left.trials()
        if torn:
            audience.note(torn)
        if walk.replay(trials):
            count = f"{len(trials)} launch{'es' if len(trials) != 1 else ''}"
            audience.note(f"going on with {left.folder}: {count} of it need no repeating")
            left.claim()
            return walk
        audience.note(f"{left.folder} cannot be gone on with: today's search is another one")
    elif left is not None:
        audience.note(f"{left.folder} is unfinished; --resume goes on with it")
    elif options.resume:
        audience.note("there is no unfinished run of this tuning; this is a new one")
    began = datetime.now(UTC).isoformat(timespec="seconds")
    run = Run.begin(options.results, key, began, facts.host_free_bytes, len(facts.measured))
    return _Walk(facts, options, audience, run)


def _recall(
    cache: Cache, key: str, facts: Facts, audience: Audience, began: float
) -> Report | None:
    found = cache.recall(key)
    if isinstance(found, Report):
        objection = still_valid(found, facts)
        if objection is None:
            hit, elapsed = CacheUse(key=key, hit=True), round(time.monotonic() - began, 3)
            return replace(here(found, facts), cache=hit, launches=0, elapsed_seconds=elapsed)
        found = f"the cached answer cannot be used: {objection}"
    if found:
        audience.note(found)
    return None


class _Walk:
    """The launches of one run."""

    def __init__(self, facts: Facts, options: Options, audience: Audience, run: Run) -> None:
        self.facts = facts
        self.options = options
        self.audience = audience
        self.run = run
        self.history: list[Attempt] = []
        self.trials: list[Trial] = []
        self.skips: dict[str, str] = {}
        self.launches = 0
        self.winner: Winner | None = None

    def replay(self, trials: Sequence[Trial]) -> bool:
        """Take over trials made before, and say whether this search would have made them.

        What the surroundings spoiled at the end is tried again: they may be sound today.
        """
        today = self.facts
        for trial in trials:
            self.facts = _then(today, trial, self.run)
            step = next_step(self.facts, self.history)
            if not _led_to(step, trial):
                self.forget_surroundings()
                step = next_step(self.facts, self.history)
            if not _led_to(step, trial) or step.candidate is None:
                return False
            self.note_skips(step)
            self.take(step.candidate, trial)
        self.forget_surroundings()
        if abs(today.host_free_bytes - self.run.host_free_bytes) > (
            HOST_SHARE * self.run.host_free_bytes
        ):
            self.facts = replace(self.facts, host_free_bytes=today.host_free_bytes)
        self.facts = _refreshed(self.facts)
        return True

    def forget_surroundings(self) -> None:
        while self.history and isinstance(self.history[-1].outcome, Environment):
            self.history.pop()

    def go(self) -> tuple[Status, str, str]:
        """Launch until a candidate is stable or there is none; return status, reason, hint."""
        try:
            while True:
                step = next_step(self.facts, self.history)
                self.note_skips(step)
                if step.candidate is None:
                    return self.verdict(step.reason)
                if self.launches >= self.options.max_launches:
                    reason = f"{self.launches} launches are spent"
                    return "budget", reason, "raise --max-launches, and go on with --resume"
                self.launch(step.candidate)
        except BudgetSpent as spent:
            return "budget", spent.message, spent.hint
        except DeviceBusy as busy:
            return "environment", busy.message, busy.hint
        except Interrupted as signal:
            return "interrupted", f"{signal} stopped it", "go on with --resume"

    def note_skips(self, step: Step) -> None:
        self.skips.update((skip.rung, skip.reason) for skip in step.skips)

    def launch(self, candidate: Candidate) -> None:
        if not self.options.allow_busy:
            _refuse_busy(self.facts.used(candidate.config))
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
        self.launches += 1
        self.run.append(trial)
        self.take(candidate, trial)
        self.measure(attempt)
        self.audience.end(trial)
        self.facts = _refreshed(self.facts)

    def take(self, candidate: Candidate, trial: Trial) -> None:
        attempt = Attempt(candidate=candidate, outcome=trial.outcome, readings=trial.readings)
        self.trials.append(trial)
        self.history.append(attempt)
        if isinstance(trial.outcome, Stable):
            deployed = settled(self.facts, candidate, trial.readings)
            self.winner = _winner(self.facts, deployed, trial, trial.outcome.certificate)

    def measure(self, attempt: Attempt) -> None:
        """Keep for later walks what a launch measured; nothing depends on it."""
        measured = measurement(self.facts, attempt)
        if measured is None:
            return
        try:
            Cache(self.options.cache).measure(self.facts, measured)
        except CannotWrite as refusal:
            self.audience.note(refusal.message)

    def verdict(self, reason: str) -> tuple[Status, str, str]:
        last = self.history[-1].outcome if self.history else None
        if isinstance(last, Stable):
            return "stable", "the first configuration that survived the certificate", ""
        if isinstance(last, Environment):
            return "environment", last.reason, "free the device, then go on with --resume"
        if isinstance(last, OutOfMemory) or last is None:
            hint = "accept less (--min-context, --concurrency), or give it more GPUs or memory"
        else:
            hint = "; ".join(cures(last))
        return "exhausted", reason, hint


def _then(facts: Facts, trial: Trial, run: Run) -> Facts:
    """Return the facts as they were when a trial was chosen."""
    free = trial.free_bytes or tuple(d.free_bytes for d in facts.devices)
    devices = tuple(
        replace(d, free_bytes=then) for d, then in zip(facts.devices, free, strict=False)
    )
    return replace(facts, devices=devices, host_free_bytes=run.host_free_bytes)


def _led_to(step: Step, trial: Trial) -> bool:
    return step.candidate is not None and (step.candidate.config.fingerprint() == trial.fingerprint)


def _refuse_busy(devices: Sequence[Device]) -> None:
    """Refuse GPUs that others use: what they take or leave falsifies every measurement.

    Raises DeviceBusy.
    """
    for d in devices:
        taken = d.memory_bytes - device.free_bytes(d)
        if d.kind == "cuda" and taken > max(BUSY_BYTES, BUSY_SHARE * d.memory_bytes):
            raise DeviceBusy(
                f"others use {d.name} ({d.uuid}): {format_bytes(taken)} of "
                f"{format_bytes(d.memory_bytes)} are taken",
                "--gpus picks other devices, --allow-busy tunes on what is left of these",
            )


def _winner(facts: Facts, candidate: Candidate, trial: Trial, certificate: Certificate) -> Winner:
    config, readings = candidate.config, trial.readings
    used = facts.used(config)
    reserved = trial.predicted.reserved_bytes
    return Winner(
        argv=tuple(command(facts, candidate.config)),
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
