"""One server: its start, its log, its end."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import psutil

from ..errors import CannotWrite, NoEngine, NoPort
from ..vllm.credentials import secrets_of
from .environment import TRIAL_ENV, UNSET_ENV
from .leftovers import make_scratch, start_guardian
from .log import HEAD, TAIL, Log
from .processes import MARKER, end_all, processes_of
from .shared_memory import all_segments, remove_segments, segments_of

# How long a server may take to end after SIGTERM. Before it is ready, it ignores that altogether
# (0.26 and 0.32: still running after 15 s).
STARTING_GRACE = 1.0
READY_GRACE = 15.0
# How much longer the engine and the workers may take once the API server has ended.
ORPHAN_SECONDS = 3.0
# How often the tree is searched for the owner of a segment that nobody had mapped so far.
SEGMENT_SECONDS = 1.0
# What a trial writes: a log, a line of the journal, a report.
DISK_BYTES = HEAD + TAIL + 2**20


def free_port(allowed: range | None = None) -> int:
    """Return a port of 127.0.0.1 that nobody listens on, or raise NoPort."""
    for port in allowed or [0]:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))  # without SO_REUSEADDR: a used port says so
            return int(probe.getsockname()[1])
    tried = f"every port from {allowed.start} to {allowed.stop - 1}" if allowed else "every port"
    hint = "give a wider --port-range, or drop it to let the system choose"
    raise NoPort(f"{tried} is in use", hint)


def check_disk(folder: Path, needed: int = DISK_BYTES) -> None:
    """Raise CannotWrite where the folder's disk has no room for what a trial writes."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        space = f"{free // 2**20} MiB of free disk space, a launch may need {needed // 2**20} MiB"
        hint = "free some or choose another folder with --results-dir, then continue with --resume"
        raise CannotWrite(f"{folder} has {space}", hint)


@dataclass
class Server:
    """One child server, logging to `log`; use it as a context manager.

    `env` is added to our own environment. `trial` marks the tree, so it must be unique. `grace`
    is how many seconds the tree has to end after SIGTERM, before it is killed.
    """

    argv: Sequence[str]
    env: Mapping[str, str]
    log: Path
    trial: str
    grace: float = STARTING_GRACE
    cut_bytes: int = field(default=0, init=False)
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _output: Log | None = field(default=None, init=False)
    _guardian: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _segments: set[Path] = field(default_factory=set, init=False)
    _seen_segments: set[Path] = field(default_factory=set, init=False)
    _searched: float = field(default=-SEGMENT_SECONDS, init=False)

    def __enter__(self) -> Self:
        try:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            check_disk(self.log.parent)
            scratch = make_scratch(self.trial)
            self._guardian = start_guardian(self.trial, scratch)
            self._start(str(scratch))
        except BaseException as error:
            self.stop()
            if isinstance(error, OSError):
                raise CannotWrite(f"cannot start a server: {error}", "check the disk") from error
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.stop()
        except KeyboardInterrupt:  # the second one, in the middle of a kill; a third is ignored
            self.stop()
            raise

    def _start(self, scratch: str) -> None:
        inherited = {k: v for k, v in os.environ.items() if k not in UNSET_ENV}
        ours = {"TMPDIR": scratch, "VLLM_RPC_BASE_PATH": scratch, MARKER: self.trial}
        env = {**inherited, **TRIAL_ENV, **self.env, **ours}
        self._output = Log(self.log, secrets_of(env, self.argv))
        try:
            self._process = subprocess.Popen(
                self.argv,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=self._output.writer,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except (FileNotFoundError, PermissionError) as error:
            reason = f"`{self.argv[0]}` cannot be started: {error.strerror}"
            raise NoEngine(reason, "check --vllm-python and --vllm-command") from error
        self._output.close_writer()

    @property
    def exit_code(self) -> int | None:
        """Return the API server's exit code (negative: a signal's number), None while it runs."""
        return self._process.poll() if self._process else None

    def resident_bytes(self) -> int:
        """Return the memory of the tree's processes; what they share is counted for each."""
        total = 0
        for process in self._survivors():
            with suppress(psutil.Error):
                total += int(process.memory_info().rss)
        return total

    def new_text(self) -> str:
        """Return what was added to the log; note the shared memory while its owners still run."""
        seen, now = all_segments(), time.monotonic()
        lately = now - self._searched < SEGMENT_SECONDS
        if not (seen <= self._segments or (seen == self._seen_segments and lately)):
            self._segments |= segments_of(self._survivors())
            self._seen_segments, self._searched = seen, time.monotonic()
        return self._output.new_text() if self._output else ""

    def kill(self) -> None:
        """Kill the server's group at once; `stop` must clean up after it."""
        self._signal_group(signal.SIGKILL)

    def stop(self) -> bool:
        """End the whole tree and remove what it leaves; tell whether all of it has ended.

        SIGTERM to the group, time to end, then SIGKILL to the group and to everything that
        carries the marker. An exception meanwhile (a second Ctrl-C) goes straight to SIGKILL.
        """
        try:
            if self._process:
                self._segments |= segments_of(self._survivors())
                if self._process.poll() is None:
                    self._signal_group(signal.SIGTERM)
                    deadline = time.monotonic() + self.grace
                    while any(self._survivors()) and time.monotonic() < deadline:
                        if self.exit_code is not None:
                            deadline = min(deadline, time.monotonic() + ORPHAN_SECONDS)
                        time.sleep(0.05)
        finally:
            self.kill()
            gone = end_all(self._survivors)
            if self._process and gone:
                self._process.wait()  # a zombie must be reaped
                self._process = None
                remove_segments(self._segments)
                self._segments.clear()
            if self._output:
                self._output.close()
                self.cut_bytes = self._output.cut_bytes
                self._output = None
            if self._guardian:
                self._guardian.communicate()  # all that is left to it is the scratch folder
                self._guardian = None
        return gone

    def _signal_group(self, number: signal.Signals) -> None:
        if self._process:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)

    def _survivors(self) -> Iterator[psutil.Process]:
        # There may be some without a process: a signal came while it was being started.
        return processes_of(self.trial, self._process.pid if self._process else None)
