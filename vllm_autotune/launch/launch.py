"""One launch: start a server, wait for it, prove it, stop it, and judge the result."""

import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ..certificate.certify import certify
from ..diagnose import LogReader
from ..errors import BudgetSpent
from ..machine import cgroup, device
from ..memory.images import PROCESSOR, image_tokens
from ..outcome import (
    Certificate,
    Crashed,
    Environment,
    FailedOutcome,
    Outcome,
    OutOfMemory,
    Phase,
    Stable,
)
from ..probe.listing import adapters_of, is_healthy, served_length
from ..probe.target import Target
from ..probe.watch import HostMemory
from ..search.auto_length import deployed
from ..search.facts import Facts
from ..search.trial import Candidate, Trial
from ..server.server import READY_GRACE, Server, free_port
from ..vllm.config import LaunchConfig
from ..vllm.flags import SWAPPING
from ..vllm.multimodal import limiting_flag
from ..vllm.pooling import pools
from .adapter import largest_rank
from .device_memory import missing_bytes, not_returned
from .limits import Limits
from .progress import Progress
from .requirements import nothing_swapped, too_little_headroom, too_small, without_effect
from .watchdog import HOST_MEMORY_LOW, host_alarm

POLL_SECONDS = 0.2
HEALTH_SECONDS = 1.0
# How long a server that no longer answers may take to end.
DEATH_SECONDS = 2.0
# How long a dying engine may take to log the reason.
LAST_WORDS_SECONDS = 4.0


def run_trial(
    facts: Facts,
    candidate: Candidate,
    number: int,
    log: Path,
    limits: Limits,
    show: Callable[[Progress], None],
) -> Trial:
    """Launch a candidate and return what became of it; raise BudgetSpent after `limits.until`."""
    try:
        return _Launch(facts, candidate, number, log, limits, show).run()
    except TimeoutError as error:
        raise BudgetSpent("the time budget is spent", "continue with --resume") from error


@dataclass
class _Launch:
    facts: Facts
    candidate: Candidate
    number: int
    log: Path
    limits: Limits
    show: Callable[[Progress], None]

    def __post_init__(self) -> None:
        self.name = f"autotune-{secrets.token_hex(4)}"
        self.url = f"http://127.0.0.1:{free_port(self.limits.ports)}"
        self.config = self.candidate.config
        self.devices = self.facts.used(self.config)
        self.reader = LogReader()
        self.kills = cgroup.oom_kills()
        self.item: str | None = None

    def run(self) -> Trial:
        with largest_rank(self.config) as started:
            return self.started(started)

    def started(self, config: LaunchConfig) -> Trial:
        """Start this configuration: the candidate's, with an adapter more where it needs one."""
        before = [(d, device.free_bytes(d)) for d in self.devices]
        self.began = time.monotonic()
        startup = probing = None
        env = {**device.visible_environment(self.devices), **self.config.env}
        port = self.url.rpartition(":")[2]
        serving = ["--host", "127.0.0.1", "--port", port, "--served-model-name", self.name]
        secret = LaunchConfig("", self.facts.withheld).flags()
        argv = [*self.facts.engine.argv(config), *secret, *serving]
        with Server(argv, env, self.log, f"{os.getpid()}-{self.name}") as server:
            outcome: Outcome | None = self.until_ready(server)
            if outcome is None:
                startup = time.monotonic() - self.began
                server.grace = READY_GRACE
                ignored = without_effect(self.facts, self.config, self.reader.readings)
                outcome = ignored or self.proven(server)
                probing = time.monotonic() - self.began - startup
            stopping = time.monotonic()
            ended = server.stop()
        missing = missing_bytes(before) if ended else 0
        returned = ended and not missing
        # The program that took the memory a request ran out of may still hold it.
        if not returned and not (ended and isinstance(outcome, OutOfMemory)):
            outcome = not_returned(missing, ended=ended)
        return Trial.of(
            self.candidate,
            outcome,
            self.reader.readings,
            number=self.number,
            argv=tuple(self.facts.engine.argv(self.config)),
            startup_seconds=_rounded(startup),
            probe_seconds=_rounded(probing),
            stop_seconds=_rounded(time.monotonic() - stopping),
            memory_returned=returned,
            free_bytes=tuple(d.free_bytes for d in self.facts.devices),
            log=self.log.name,
            log_cut_bytes=server.cut_bytes,
        )

    def until_ready(self, server: Server) -> FailedOutcome | None:
        """Wait until the server answers; return the failure for which it never will."""
        asked = 0.0
        while True:
            failed = self.gone(server) or self.reader.terminal() or self.too_small()
            if failed is not None:
                return failed
            alarm = self.alarm(self.reader.phase)
            if alarm is not None:
                server.kill()
                return alarm
            now = time.monotonic()
            if self.reader.ready or now - asked > HEALTH_SECONDS:
                asked = now
                if is_healthy(self.url):
                    return None
            seconds = now - self.began
            if seconds > self.limits.launch_seconds:
                return self.reader.never_ready(seconds)
            self.tick()
            time.sleep(POLL_SECONDS)

    def read(self, server: Server) -> int | None:
        """Read what was added to the log; return the exit code once the server has ended."""
        code = server.exit_code
        while text := server.new_text():
            self.reader.feed(text)
            if code is None:  # a log that grows faster than it is read must not hold us up
                break
        return code

    def gone(self, server: Server) -> FailedOutcome | None:
        """Return the failure with which the server ended, None while it runs."""
        code = self.read(server)
        return None if code is None else self.verdict(code) or self.reader.unexplained(code)

    def too_small(self) -> OutOfMemory | None:
        return too_small(self.facts, self.config, self.reader.readings)

    def tick(self) -> None:
        """Show progress, and stop when the time is over."""
        now = time.monotonic()
        if self.limits.until is not None and now > self.limits.until:
            raise TimeoutError
        self.show(
            Progress(
                phase="serving" if self.item else self.reader.phase,
                seconds=now - self.began,
                line=self.reader.last_line,
                free_bytes=device.free_bytes(self.devices[0]),
                item=self.item,
            )
        )

    def proven(self, server: Server) -> Outcome:
        """Send the certificate's requests; the log has the last word on a failure."""
        length = served_length(self.url, self.name)
        if length is None:
            deadline = time.monotonic() + DEATH_SECONDS
            while (gone := self.gone(server)) is None and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)
            reason = f"/v1/models on {self.url} does not list {self.name}: another server answers"
            return gone or Environment(cause="stranger_on_port", phase="serving", reason=reason)
        self.read(server)
        small = self.too_small()
        if small is not None:
            return small
        result = certify(
            self.target(length),
            self.facts.workload,
            patience=self.limits.patience,
            until=self.limits.until,
            free_bytes=self.free_bytes(server),
            host=lambda: HostMemory(server.resident_bytes(), device.host_free_bytes()),
            diagnosis=lambda: self.watched(server),
            say=self.probing,
        )
        if isinstance(result, Certificate):
            gone = self.gone(server)  # after the last answer
            on_cpu = self.devices[0].kind == "cpu"
            lacking = None if on_cpu else too_little_headroom(self.facts, result)
            idle = nothing_swapped(self.facts, self.config, result)
            return gone or self.reader.terminal() or lacking or idle or Stable(certificate=result)
        if result.cause == HOST_MEMORY_LOW:
            server.kill()
            return result
        seconds = LAST_WORDS_SECONDS if isinstance(result, Crashed) else 0
        last_words = self.last_words(server, seconds)
        if isinstance(last_words, OutOfMemory):
            return replace(last_words, reason=f"{last_words.reason}, during `{self.item}`")
        return last_words or result

    def probing(self, item: str) -> None:
        self.item = item
        self.tick()

    def watched(self, server: Server) -> FailedOutcome | None:
        """Show progress; return the failure for which the certificate must stop."""
        self.tick()
        return self.ended(server) or self.alarm("serving")

    def alarm(self, phase: Phase) -> OutOfMemory | Environment | None:
        uses_host_memory = self.devices[0].uses_host_memory
        return host_alarm(self.config, phase, uses_host_memory=uses_host_memory)

    def target(self, length: int) -> Target:
        config, setup = self.config, self.facts.setup(self.config)
        readings = replace(self.reader.readings, max_model_len=length)
        final = deployed(self.facts, self.candidate, readings).config
        return Target(
            url=self.url,
            model=self.name,
            max_model_len=length,
            deployed_len=None if final == config else self.facts.length(final),
            max_num_seqs=setup.sequences,
            max_num_batched_tokens=setup.tokens,
            adapters=adapters_of(self.url, self.name) if "lora-modules" in config.args else (),
            drafts=config.drafts,
            swap=next((flag for flag in SWAPPING if config.number(flag)), None),
            vocab_size=setup.checkpoint.vocab_size,
            kv_tokens=self.reader.readings.kv_tokens,
            images=setup.images,
            images_flag=limiting_flag(config),
            image_tokens=(
                None if PROCESSOR in self.facts.fixed else image_tokens(setup.checkpoint, config)
            ),
            speaks=config.text("load-format") != "dummy",
            pooling=pools(config, setup.checkpoint.architecture, pooled=setup.checkpoint.pooled),
            spilled=self.devices[0].kind != "cpu",
        )

    def free_bytes(self, server: Server) -> Callable[[], int]:
        """Return a function that tells how many bytes the server leaves free.

        Other programs use a CPU's memory as well: there only the server's own growth counts.
        """
        if self.devices[0].kind == "cpu":
            left = device.free_bytes(self.devices[0]) + server.resident_bytes()
            return lambda: left - server.resident_bytes()
        return lambda: min(device.free_bytes(d) for d in self.devices)

    def ended(self, server: Server) -> FailedOutcome | None:
        """Return the failure that the log shows, None while it shows none."""
        code = self.read(server)
        return self.verdict(code) if code is not None else self.reader.terminal()

    def last_words(self, server: Server, seconds: float) -> FailedOutcome | None:
        """Wait a moment for the log to say why the server failed."""
        deadline = time.monotonic() + seconds
        while (cause := self.ended(server)) is None and time.monotonic() <= deadline:
            time.sleep(POLL_SECONDS)
        return cause or self.verdict(server.exit_code)

    def verdict(self, code: int | None) -> FailedOutcome | None:
        return self.reader.verdict(exit_code=code, host_oom_kills=cgroup.oom_kills() - self.kills)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 2)
