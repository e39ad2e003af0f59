"""The launches of one walk: choose, launch, record, until one is stable."""

import time
from collections.abc import Sequence
from dataclasses import replace

from ..diagnose import cures
from ..errors import BudgetSpent, CannotWrite, DeviceBusy, Refusal
from ..interruption import Interrupted
from ..launch.launch import run_trial
from ..launch.start_time import quickest_here, quickest_start
from ..machine import device
from ..machine.device import Device
from ..machine.selection import busy_sentence, is_busy
from ..outcome import Crashed, Environment, OutOfMemory, Rejected, Stable
from ..report.report import Status, Winner
from ..search.facts import Facts
from ..search.prediction import accuracy, measured
from ..search.step import Step, next_step
from ..search.trial import Candidate, Trial
from ..search.whole_context import sequences_for_whole_context
from ..vllm.config import LaunchConfig
from .cache import AnswerCache
from .journal import Run
from .options import Audience, Options
from .winner import winner_of

# The host's free memory always changes: up to this share counts as no change.
HOST_SHARE = 0.1


class Walk:
    """The launches of one walk: `trials` in their order, `skips` with the reason for each rung.

    `history` is what the search is told: the trials, less those that are tried again. What is not
    to be `resumed` is not in the journal.
    """

    def __init__(
        self, facts: Facts, options: Options, audience: Audience, run: Run, *, resumed: bool = True
    ) -> None:
        self.facts = facts
        self.options = options
        self.audience = audience
        self.run = run
        self.resumed = resumed
        self.history: list[Trial] = []
        self.trials: list[Trial] = []
        self.skips: dict[str, str] = {}
        self.launches = 0
        self.winner: Winner | None = None

    def replay(self, trials: Sequence[Trial]) -> bool:
        """Take over saved trials; return False where this search would have chosen others.

        Failures outside the configuration at the end are tried again: today may be different.
        """
        today = self.facts
        for trial in trials:
            self.facts = _at_the_time(today, trial, self.run)
            step = next_step(self.facts, self.history)
            if not _led_to(step, trial):
                self._forget_environment()
                step = next_step(self.facts, self.history)
            if not _led_to(step, trial) or step.candidate is None:
                return False
            self._note_skips(step)
            config = step.candidate.config
            self._take(replace(trial, model=config.model, args=dict(config.args)))
        self._forget_environment()
        host = self.run.host_free_bytes
        if abs(today.host_free_bytes - host) > HOST_SHARE * host:
            self.facts = replace(self.facts, host_free_bytes=today.host_free_bytes)
        self.facts = refreshed(self.facts)
        return True

    def _forget_environment(self) -> None:
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
                    reached = f"reached --max-launches {self.launches}"
                    return "budget", reached, "--resume continues with a fresh count"
                self._launch(step.candidate)
        except BudgetSpent as refusal:
            return "budget", refusal.message, refusal.hint
        except CannotWrite:
            raise  # nor can a report be written
        except Refusal as refusal:
            return "environment", refusal.message, refusal.hint
        except Interrupted as signal:
            return "interrupted", f"stopped by {signal}", "continue with --resume"

    def _note_skips(self, step: Step) -> None:
        self.skips.update((skip.rung, skip.reason) for skip in step.skips)

    def _launch(self, candidate: Candidate) -> None:
        if not self.options.allow_busy:
            _refuse_busy(self.facts.used(candidate.config))
        self._see_to_the_time(candidate.config)
        number = len(self.trials) + 1
        self.audience.begin(number, candidate)
        log, show = self.run.log_file(number), self.audience.progress
        trial = run_trial(self.facts, candidate, number, log, self.options, show)
        trial = replace(trial, accuracy=accuracy(self.facts, trial))
        self.launches += 1
        if self.resumed:
            self.run.add_trial(trial)
        self._take(trial)
        boot = measured(self.facts, trial)
        if boot is not None:
            try:
                AnswerCache(self.options.cache).add_boot(self.facts, boot)
            except CannotWrite as refusal:  # only later walks would have used it
                self.audience.note(refusal.message)
        self.audience.end(trial)
        self.facts = refreshed(self.facts)

    def _see_to_the_time(self, config: LaunchConfig) -> None:
        """Raise BudgetSpent where too little is left for a start, by one that was measured here.

        Where none was, say so: this machine may be quicker than those measured.
        """
        if self.options.until is None:
            return
        left = self.options.until - time.monotonic()
        here = quickest_here(self.facts, config, self.trials)
        least = quickest_start(self.facts, config) if here is None else here
        if left >= least:
            return
        count = len(self.facts.used(config))
        where = f"over {count} devices" if count > 1 else "on one device"
        short = f"{max(0.0, left):.0f} s of the time budget are left"
        if here is not None:
            reason = f"{short}, the next launch takes {least:.0f} s to start {where} at the least"
            raise BudgetSpent(reason, "--resume continues with a fresh --time-budget")
        seen = f"the quickest start {where} that we know of took {least:.0f} s"
        self.audience.note(f"{short}, {seen}: raise --time-budget if it does not suffice")

    def _take(self, trial: Trial) -> None:
        self.trials.append(trial)
        self.history.append(trial)
        if isinstance(trial.outcome, Stable):
            self.winner = winner_of(self.facts, trial, trial.outcome.certificate)

    def _verdict(self, step: Step) -> tuple[Status, str, str]:
        """Return status, reason and hint: `exhausted` only if memory alone was missing."""
        last = self.history[-1].outcome if self.history else None
        if isinstance(last, Stable):
            return "stable", "the first configuration that survived the certificate", self._more()
        if isinstance(last, OutOfMemory) or last is None:
            hint = "accept less (--min-context, --concurrency), or give it more GPUs or memory"
            return "exhausted", step.reason, hint
        hint = "; ".join(cures(last)) or f"read {self.run.log_file(len(self.trials))}"
        if isinstance(last, Environment):
            return "environment", last.reason, f"{hint}; then continue with --resume"
        if last.cause == "never_ready":
            hint = "allow more time with --launch-timeout"
        failed = step.stuck and isinstance(last, Rejected | Crashed)
        return "environment" if failed else "exhausted", step.reason, hint

    def _more(self) -> str:
        """Say how the whole context could be had instead, empty where it is there or cannot be."""
        winner = self.winner
        config = LaunchConfig(winner.model, winner.args, winner.env) if winner else None
        n = config and sequences_for_whole_context(self.facts, self.history, config)
        if not n:
            return ""
        at_once, tokens = "one request" if n == 1 else f"{n} requests", self.facts.context
        return (
            f"with at most {at_once} at once all {tokens:,} tokens would fit, by the numbers of "
            f"this launch: add --context {tokens} -- --max-num-seqs {n}"
        )


def refreshed(facts: Facts) -> Facts:
    """Return the facts with what is free on the devices now."""
    return replace(facts, devices=tuple(device.refreshed(d) for d in facts.devices))


def _at_the_time(facts: Facts, trial: Trial, run: Run) -> Facts:
    """Return the facts as they were when a trial was chosen."""
    devices = facts.devices
    if trial.free_bytes:
        pairs = zip(devices, trial.free_bytes, strict=False)
        devices = tuple(replace(d, free_bytes=free) for d, free in pairs)
    return replace(facts, devices=devices, host_free_bytes=run.host_free_bytes)


def _led_to(step: Step, trial: Trial) -> bool:
    return step.candidate is not None and step.candidate.config.fingerprint() == trial.fingerprint


def _refuse_busy(devices: Sequence[Device]) -> None:
    """Raise DeviceBusy for GPUs that other programs use: they distort every measurement."""
    for now in (replace(d, free_bytes=device.free_bytes(d)) for d in devices):
        if is_busy(now):
            raise DeviceBusy(
                busy_sentence(now),
                "pick other GPUs with --gpus, or tune on the memory that is left: --allow-busy",
            )
