"""A vLLM server as a process tree: start, watch, stop, prove it is gone.

The only module that knows subprocess and psutil. vLLM's API server starts an engine process,
which starts workers; killing the first leaves the others holding the device. So every server
gets its own session and a marker in its environment that all its descendants inherit, and
stopping it ends with a search for that marker.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Self

import psutil

from .errors import CannotWrite, NoEngine, NoPort

MARKER = "AUTOTUNE_TRIAL"
CGROUP = Path("/sys/fs/cgroup")

# The caller's key would lock our own probe out; the plan cache would replay other trials' memory.
# setproctitle in vLLM's engine and workers wipes their environment, and the marker with it,
# unless SPT_NOENV is set.
HYGIENE = {
    "NO_COLOR": "1",
    "SPT_NOENV": "1",
    "PYTHONUNBUFFERED": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "VLLM_ENABLE_STARTUP_PLAN": "0",
}
NOT_INHERITED = ("VLLM_API_KEY", "VLLM_PORT")

# How long a server may take to end when it is told to: before it is ready, it does not heed
# SIGTERM at all (0.26 and 0.32: still there after 15 s).
STARTING_GRACE = 1.0
READY_GRACE = 15.0
# What the root should have taken along gets this much longer.
ORPHAN_SECONDS = 3.0
KILL_SECONDS = 10.0


def output_of(argv: Sequence[str], seconds: float = 60) -> str | None:
    """Return what a short command prints on stdout, None if it cannot run or fails."""
    try:
        done = subprocess.run(
            argv,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=True,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def free_port(allowed: range | None = None) -> int:
    """Return a port of 127.0.0.1 that nobody listens on.

    Raises NoPort when every port of `allowed` is taken.
    """
    for port in allowed or [0]:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))  # without SO_REUSEADDR: a used port says so
            return int(probe.getsockname()[1])
    raise NoPort(
        f"every port from {allowed.start} to {allowed.stop - 1} is in use"
        if allowed
        else "no free port",
        "give a wider --port-range, or leave it away to let the system choose",
    )


@dataclass
class Server:
    """One child server, logging to `log`; use it as a context manager.

    `env` comes on top of our own environment. `trial` marks the tree: it must be unique.
    `grace` is how many seconds the tree gets to end by itself.
    """

    argv: Sequence[str]
    env: Mapping[str, str]
    log: Path
    trial: str
    grace: float = STARTING_GRACE
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _reader: IO[bytes] | None = field(default=None, init=False)
    _scratch: Path | None = field(default=None, init=False)
    _guardian: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def __enter__(self) -> Self:
        try:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            # Sockets live in it, and their paths may have 107 characters: keep it short.
            self._scratch = Path(tempfile.mkdtemp(prefix="autotune-"))
            self._guardian = _guardian(self.trial, self._scratch)
            with self.log.open("wb") as log:
                self._start(log)
            self._reader = self.log.open("rb")
        except OSError as error:
            self.stop()
            raise CannotWrite(f"cannot start a server: {error}", "check the disk") from error
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.stop()
        except KeyboardInterrupt:  # the second one, in the middle of a kill; no third one comes
            self.stop()
            raise

    def _start(self, log: IO[bytes]) -> None:
        scratch = str(self._scratch)
        inherited = {k: v for k, v in os.environ.items() if k not in NOT_INHERITED}
        ours = {"TMPDIR": scratch, "VLLM_RPC_BASE_PATH": scratch, MARKER: self.trial}
        try:
            self._process = subprocess.Popen(
                self.argv,
                env={**inherited, **HYGIENE, **self.env, **ours},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except (FileNotFoundError, PermissionError) as error:
            raise NoEngine(
                f"`{self.argv[0]}` cannot be started: {error.strerror}",
                "check --vllm-python and --vllm-command",
            ) from error

    @property
    def exit_code(self) -> int | None:
        """Return how the API server ended (negative: the signal), None while it lives."""
        return self._process.poll() if self._process else None

    def resident_bytes(self) -> int:
        """Return the memory that the processes of the tree hold; what they share counts twice."""
        total = 0
        for process in self._survivors():
            with suppress(psutil.Error):
                total += int(process.memory_info().rss)
        return total

    def new_text(self) -> str:
        """Return what the log gained since the last call."""
        return self._reader.read(1 << 22).decode(errors="replace") if self._reader else ""

    def stop(self) -> bool:
        """End the whole tree, remove its scratch folder; tell whether nothing of it is left.

        SIGTERM to the group, a while to end, then SIGKILL to the group and to everything that
        carries the marker. An exception on the way (a second Ctrl-C) goes straight to SIGKILL.
        """
        try:
            if self._process and self._process.poll() is None:
                self._signal_group(signal.SIGTERM)
                self._wait_until_gone(self.grace)
        finally:
            gone = self._kill()
            if self._reader:
                self._reader.close()
                self._reader = None
            if self._guardian:
                self._guardian.communicate()  # it has nothing to do but remove the scratch folder
                self._guardian = None
        return gone

    def _wait_until_gone(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while any(self._survivors()) and time.monotonic() < deadline:
            if self.exit_code is not None:
                deadline = min(deadline, time.monotonic() + ORPHAN_SECONDS)
            time.sleep(0.05)

    def _kill(self) -> bool:
        self._signal_group(signal.SIGKILL)
        gone = _end_all(self._survivors)
        if self._process and gone:
            self._process.wait()  # a zombie is no survivor, but is to be reaped
            self._process = None
        return gone

    def _signal_group(self, number: signal.Signals) -> None:
        if self._process:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)

    def _survivors(self) -> Iterator[psutil.Process]:
        # Without a process: a signal may have struck while it was being started.
        return _living(self.trial, self._process.pid if self._process else None)


def guard(trial: str, scratch: str) -> None:
    """Wait until our parent is gone, however it went, and clean up behind its server.

    Even SIGKILL closes the pipe that is our stdin.
    """
    sys.stdin.buffer.read()
    _end_all(lambda: _living(trial, None))
    shutil.rmtree(scratch, ignore_errors=True)


def _guardian(trial: str, scratch: Path) -> subprocess.Popen[bytes]:
    code = "import sys; from vllm_autotune.server import guard; guard(*sys.argv[1:])"
    return subprocess.Popen(
        [sys.executable, "-c", code, trial, str(scratch)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # a Ctrl-C at the terminal is not for it
    )


def _end_all(living: Callable[[], Iterator[psutil.Process]]) -> bool:
    """Kill until none is left, 10 s at most; tell whether none is."""
    deadline = time.monotonic() + KILL_SECONDS
    while (left := list(living())) and time.monotonic() < deadline:
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        time.sleep(0.05)
    return not left


def _living(trial: str, session: int | None) -> Iterator[psutil.Process]:
    """Yield the living processes of a session, and those that carry the trial's marker."""
    marker = f"{MARKER}={trial}".encode()
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):  # it ended meanwhile, or is not ours to read
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            variables = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
            if marker in variables or os.getsid(process.pid) == session:
                yield process


def oom_kills() -> int:
    """Return how many processes the kernel has killed for memory in our cgroup so far."""
    for file in ("memory.events", "memory/memory.oom_control"):  # cgroup v2, v1
        with suppress(OSError):
            for line in (CGROUP / file).read_text().splitlines():
                name, _, count = line.partition(" ")
                if name == "oom_kill":
                    return int(count)
    return 0
