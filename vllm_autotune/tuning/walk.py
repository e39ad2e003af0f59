"""The launches of one run: choose, launch, record, until one is stable."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from ..diagnose import cures
from ..errors import BudgetSpent, CannotWrite, DeviceBusy, Refusal
from ..interruption import Interrupted
from ..launch.launch import Limits, Progress, run_trial
from ..machine import device
from ..machine.device import Device
from ..outcome import Certificate, Crashed, Environment, OutOfMemory, Rejected, Stable
from ..report.report import Memory, Status, Trial, ValidFor, Winner
from ..search.accuracy import accuracy, measurement
from ..search.auto_length import settled
from ..search.facts import Attempt, Candidate, Facts, command
from ..search.step import Step, next_step
from ..units import format_bytes
from .cache import AnswerCache
from .journal import Run

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


class Walk:
    """The launches of one run: `trials` as they were made, `skips` the rungs passed over."""

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
                self._forget_surroundings()
                step = next_step(self.facts, self.history)
            if not _led_to(step, trial) or step.candidate is None:
                return False
            self._note_skips(step)
            self._take(attempt_of(step.candidate, trial), trial)
        self._forget_surroundings()
        if abs(today.host_free_bytes - self.run.host_free_bytes) > (
            HOST_SHARE * self.run.host_free_bytes
        ):
            self.facts = replace(self.facts, host_free_bytes=today.host_free_bytes)
        self.facts = refreshed(self.facts)
        return True

    def _forget_surroundings(self) -> None:
        while self.history and isinstance(self.history[-1].outcome, Environment):
            self.history.pop()

    def go(self) -> tuple[Status, str, str]:
        """Launch until a candidate is stable or there is none; return status, reason, hint."""
        try:
            while True:
                step = next_step(self.facts, self.history)
                self._note_skips(step)
                if step.candidate is None:
                    return self._verdict(step)
                if self.launches >= self.options.max_launches:
                    spent = f"the launches of --max-launches {self.launches} are spent"
                    return "budget", spent, "go on with --resume, whose launches count anew"
                self._launch(step.candidate)
        except BudgetSpent as refusal:
            return "budget", refusal.message, refusal.hint
        except CannotWrite:
            raise  # nor can a report be written
        except Refusal as refusal:
            return "environment", refusal.message, refusal.hint
        except Interrupted as signal:
            return "interrupted", f"{signal} stopped it", "go on with --resume"

    def _note_skips(self, step: Step) -> None:
        self.skips.update((skip.rung, skip.reason) for skip in step.skips)

    def _launch(self, candidate: Candidate) -> None:
        if not self.options.allow_busy:
            _refuse_busy(self.facts.used(candidate.config))
        number = len(self.trials) + 1
        self.audience.begin(number, candidate)
        limits = Limits(
            launch_seconds=self.options.launch_seconds,
            until=self.options.until,
            ports=self.options.ports,
        )
        log = self.run.log_file(number)
        trial = run_trial(self.facts, candidate, number, log, limits, self.audience.progress)
        attempt = attempt_of(candidate, trial)
        trial = replace(trial, accuracy=accuracy(self.facts, attempt))
        self.launches += 1
        self.run.add_trial(trial)
        self._take(attempt, trial)
        self._measure(attempt)
        self.audience.end(trial)
        self.facts = refreshed(self.facts)

    def _take(self, attempt: Attempt, trial: Trial) -> None:
        self.trials.append(trial)
        self.history.append(attempt)
        if isinstance(trial.outcome, Stable):
            self.winner = _winner(self.facts, attempt.candidate, trial, trial.outcome.certificate)

    def _measure(self, attempt: Attempt) -> None:
        """Keep for later walks what a launch measured; nothing depends on it."""
        measured = measurement(self.facts, attempt)
        if measured is None:
            return
        try:
            AnswerCache(self.options.cache).add_boot(self.facts, measured)
        except CannotWrite as refusal:
            self.audience.note(refusal.message)

    def _verdict(self, step: Step) -> tuple[Status, str, str]:
        """Return how the walk ended: exhausted only where less memory was all that was missing."""
        last = self.history[-1].outcome if self.history else None
        if isinstance(last, Stable):
            return "stable", "the first configuration that survived the certificate", ""
        if isinstance(last, OutOfMemory) or last is None:
            hint = "accept less (--min-context, --concurrency), or give it more GPUs or memory"
            return "exhausted", step.reason, hint
        hint = "; ".join(cures(last)) or f"read {self.run.log_file(len(self.trials))}"
        if isinstance(last, Environment):
            return "environment", last.reason, f"{hint}; then go on with --resume"
        if last.cause == "never_ready":
            hint = "give it longer with --launch-timeout"
        failed = step.stuck and isinstance(last, Rejected | Crashed)
        return "environment" if failed else "exhausted", step.reason, hint


def attempt_of(candidate: Candidate, trial: Trial) -> Attempt:
    """Return what the search is told of a trial."""
    return Attempt(candidate=candidate, outcome=trial.outcome, readings=trial.readings)


def refreshed(facts: Facts) -> Facts:
    """Return the facts with what is free on the devices now."""
    return replace(facts, devices=tuple(device.refreshed(d) for d in facts.devices))


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
        if not d.on_host and taken > max(BUSY_BYTES, BUSY_SHARE * d.memory_bytes):
            raise DeviceBusy(
                f"others use {d.name} ({d.uuid}): {format_bytes(taken)} of "
                f"{format_bytes(d.memory_bytes)} are taken",
                "--gpus picks other devices, --allow-busy tunes on what is left of these",
            )


def _winner(facts: Facts, candidate: Candidate, trial: Trial, certificate: Certificate) -> Winner:
    readings, launched = trial.readings, candidate.config
    candidate = settled(facts, candidate, readings)
    config = candidate.config
    served = readings.max_model_len if config == launched else None
    used = facts.used(config)
    reserved = taken = trial.predicted.reserved_bytes
    if used[0].kind == "cuda" and trial.free_bytes and certificate.least_free_bytes is not None:
        taken = max(reserved, min(trial.free_bytes[: len(used)]) - certificate.least_free_bytes)
    return Winner(
        argv=tuple(command(facts, config)),
        model=config.model,
        args=dict(config.args),
        env=dict(config.env),
        rungs=tuple(applied.name for applied in candidate.rungs),
        gives_up=tuple(applied.gives_up for applied in candidate.rungs if applied.gives_up),
        max_model_len=served or facts.length(config),
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
            needed_bytes=taken,
            budget_bytes=min(facts.budget(d) for d in used),
            headroom_bytes=facts.headroom_bytes,
        ),
    )
