"""Run cases on the NVIDIA GPUs at hand, side by side, and leave what they showed.

    python -m tests.gpu.run OUT [--work DIR] [--deadline SECONDS] [--upto GPUS] [CASE ...]

Each case is a tuning as a user would start it, then `autotune check` of its winner. OUT gets
`table.json` (a row per case, written after each), `reports/<case>/report.json` and
`logs/<case>/`, without paths of this machine. Models and caches stay in DIR.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from tests.gpu.cases import BY_NAME, CASES, Case
from tests.gpu.checkpoints import make_checkpoint, make_shape, read_shape
from tests.gpu.scrub import scrubbed, trimmed
from tests.support.command import AUTOTUNE

GIB = 2**30
POLL_SECONDS = 0.2
# How long the driver may take to give memory back, and how much of it stays in caches.
RETURN_SECONDS = 20.0
RETURN_BYTES = 200 * 2**20
MOST_RSS = 150 * 2**20
# How much longer a tuning may take than its launches alone; told of real launches only, since
# those of a rehearsal take as long as Python to start.
MOST_RATIO = 1.3
RATIO_SECONDS = 15.0
MODELS: dict[Path, threading.Lock] = defaultdict(threading.Lock)

# Holds memory of a GPU when told how much on stdin (negative: all but that), until stdin ends.
BALLAST = """
import sys, torch
torch.zeros(1, device="cuda")
print("ready", flush=True)
gib = float(sys.stdin.readline())
size = gib * 2**30 if gib > 0 else torch.cuda.mem_get_info()[0] + gib * 2**30
held = torch.empty(int(size), dtype=torch.uint8, device="cuda")
print("held", flush=True)
sys.stdin.read()
"""


@dataclass
class Place:
    """Where cases run: results in `out`, models and caches in `work`; all ends at `until`.

    `ballast` is the Python that plays another program.
    """

    out: Path
    work: Path
    until: float
    ballast: str = BALLAST

    def left(self) -> float:
        return self.until - time.monotonic()


class Gpus:
    """What NVML says of GPUs by index, as `nvidia-smi` numbers them."""

    def __init__(self) -> None:
        import pynvml  # noqa: PLC0415

        self.nvml = pynvml
        pynvml.nvmlInit()
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        count = range(pynvml.nvmlDeviceGetCount())
        named = (visible or "").split(",")
        self.indices = [int(n) for n in named] if all(map(str.isdigit, named)) else list(count)

    def used(self, index: int) -> int:
        """Return the bytes in use."""
        handle = self.nvml.nvmlDeviceGetHandleByIndex(index)
        return int(self.nvml.nvmlDeviceGetMemoryInfo(handle).used)

    def processes(self, index: int) -> set[int]:
        """Return the processes with a CUDA context there; in some containers none is shown."""
        handle = self.nvml.nvmlDeviceGetHandleByIndex(index)
        with suppress(self.nvml.NVMLError):
            return {p.pid for p in self.nvml.nvmlDeviceGetComputeRunningProcesses(handle)}
        return set()


@dataclass
class Watched:
    """A tuning while it runs, and what was seen of it."""

    process: subprocess.Popen[str]
    talk: Path
    results: Path
    rss: int = 0
    context: bool = False
    logs: dict[Path, float] = field(default_factory=dict)

    def look(self, gpus: Gpus, indices: Sequence[int]) -> None:
        """Note its memory, the logs of its servers, and whether it has a CUDA context."""
        pid = self.process.pid
        with suppress(OSError):
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("VmHWM"):
                    self.rss = max(self.rss, int(line.split()[1]) * 1024)
        self.context |= any(pid in gpus.processes(index) for index in indices)
        for log in self.results.rglob("trial-*.log"):
            self.logs.setdefault(log, time.time())

    def said(self, words: str) -> bool:
        return words in self.talk.read_text(errors="replace")

    def lifetimes(self) -> dict[str, float]:
        """Return how long each server ran, by its log: from when it appeared to its last line."""
        return {log.name: max(0.0, log.stat().st_mtime - seen) for log, seen in self.logs.items()}

    def kin(self) -> Iterator[tuple[int, int, str]]:
        """Yield the processes below the tuning: number, parent, and name with command line."""
        parents: dict[int, int] = {}
        names: dict[int, str] = {}
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError, ValueError, IndexError):
                name, _, rest = (entry / "stat").read_text().rpartition(")")
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
                parents[int(entry.name)] = int(rest.split()[1])
                names[int(entry.name)] = f"{name} {words.decode(errors='replace')}"
        for pid, parent in parents.items():
            above: int | None = parent
            while above and above != self.process.pid:
                above = parents.get(above)
            if above:
                yield pid, parent, names[pid]

    def victim(self, event: str) -> int | None:
        """Return the process that an event kills."""
        if event == "autotune is killed":
            return self.process.pid
        for pid, parent, words in self.kin():
            engine = "VLLM::EngineCor" in words
            if event == "engine is killed" and engine:
                return pid
            server = parent == self.process.pid and "import guard" not in words
            if event == "API server is killed" and server:
                return pid
        return None


def model_of(case: Case, work: Path) -> Path:
    """Write the case's model, and its sibling; what is there already stays."""
    config = {**read_shape(case.shape), **case.changes}
    name = case.shape + ("-changed" if case.changes else "")
    folder: Path = work / "models" / (case.sibling or case.weights or "shape") / name
    with MODELS[folder]:
        if (folder / "tokenizer_config.json").exists() and not case.weights:
            return folder  # a server may be reading it
        if not case.weights:
            return make_shape(folder, config)
        if case.sibling:
            make_checkpoint(folder.with_name(f"{name}-{case.sibling}"), config, case.sibling)
        hollow = case.weights == "hollow"
        return make_checkpoint(folder, config, "bf16", hollow=hollow)


@contextmanager
def tenant(case: Case, gpu: int, place: Place) -> Iterator[subprocess.Popen[str] | None]:
    """Start another program on the GPU, which waits to be told what to take."""
    if not case.tenant_gib:
        yield None
        return
    env = {**os.environ, "CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": str(gpu)}
    with subprocess.Popen(
        [sys.executable, "-c", place.ballast],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=env,
    ) as process:
        assert process.stdout
        assert process.stdin
        assert process.stdout.readline() == "ready\n", "the other program did not start"
        if not case.event:
            hold(process, case.tenant_gib)
        try:
            yield process
        finally:
            process.stdin.close()


def hold(process: subprocess.Popen[str], gib: float) -> None:
    """Let the other program take memory, and wait until it has it."""
    assert process.stdin
    assert process.stdout
    process.stdin.write(f"{gib}\n")
    process.stdin.flush()
    assert process.stdout.readline() == "held\n", "the other program got no memory"


def tune(case: Case, gpus: Sequence[int], place: Place, name: str, talk: IO[str]) -> Watched:
    """Start a tuning."""
    results = place.work / "results" / name
    fixed = case.fixed if case.weights else ("--load-format", "dummy", *case.fixed)
    shown = ",".join(map(str, gpus))
    visible = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": shown}
    options = list(case.options)
    if case.own:
        own = place.work / f"{name}.jsonl"
        own.write_text(json.dumps(case.own))
        options += ["--probe-file", str(own)]
    argv = [
        *(*AUTOTUNE, "tune", "--model", str(model_of(case, place.work)), "--json", "--refresh"),
        *(*(["--gpus", shown] if case.named else ()), "--results-dir", str(results)),
        *("--cache-dir", str(place.work / "cache" / name)),
        *(*options, "--", *fixed),
    ]
    process = subprocess.Popen(
        argv,
        stdout=subprocess.PIPE,
        stderr=talk,
        text=True,
        start_new_session=True,
        env={
            **os.environ,
            **({} if case.named else visible),
            **case.env,
            "NO_COLOR": "1",
            "COLUMNS": "200",
        },
    )
    return Watched(process=process, talk=Path(talk.name), results=results)


def run_case(case: Case, gpus: Sequence[int], place: Place, nvml: Gpus) -> dict[str, Any]:
    """Run a case; return its row of the table, with every fault found."""
    row: dict[str, Any] = {"case": case.name, "asks": case.asks, "gpus": len(gpus), "faults": []}
    faults: list[str] = row["faults"]
    model_of(case, place.work)
    before = {index: nvml.used(index) for index in gpus}
    talk_path = place.work / f"{case.name}.txt"
    with tenant(case, gpus[0], place) as other, talk_path.open("w") as talk:
        twin = case.event.startswith("a twin")
        began = time.monotonic()
        watched = tune(case, gpus[:1] if twin else gpus, place, case.name, talk)
        pair = _twin(case, gpus[1:], place) if twin else None
        printed = _follow(case, watched, other, gpus, place, nvml, faults)
        row["seconds"] = round(time.monotonic() - began, 1)
        row["exit"] = watched.process.returncode
        if pair:
            faults += _twin_faults(case, pair, printed)
    row["rss_mib"] = round(watched.rss / 2**20)
    if watched.rss > MOST_RSS:
        faults.append(f"autotune took {row['rss_mib']} MiB")
    if watched.context:
        faults.append("autotune has a CUDA context")
    row["held_mib"] = _held(before, nvml)
    if row["held_mib"] * 2**20 > RETURN_BYTES:
        faults.append(f"{row['held_mib']} MiB are held afterwards")
    report = _read(printed)
    if report is None:
        if case.event != "autotune is killed":
            faults.append(f"no report: {talk_path.read_text()[-1500:]}")
    else:
        faults += case.faults(report)
        row |= _summary(report)
        path = next(iter(watched.results.rglob("report.json")), None)
        if path and report["winner"] and case.checked and place.left() > 45:
            row |= _check(case, path, gpus, place, report, row["seconds"], watched.lifetimes())
            faults += row.pop("check_faults")
    _keep(case, watched, place)
    row["ok"] = not faults
    return row


def _follow(
    case: Case,
    watched: Watched,
    other: subprocess.Popen[str] | None,
    gpus: Sequence[int],
    place: Place,
    nvml: Gpus,
    faults: list[str],
) -> str:
    """Watch a tuning to its end, and let happen what is to happen; return what it printed."""
    lines: list[str] = []
    assert watched.process.stdout
    reader = threading.Thread(target=lambda: lines.extend(watched.process.stdout or ()))
    reader.start()
    ends = min(time.monotonic() + case.seconds, place.until)
    pending, stopped = bool(case.at), False
    while watched.process.poll() is None:
        watched.look(nvml, gpus)
        if pending and watched.said(case.at):
            pending = False
            if other:
                hold(other, case.tenant_gib)
            elif victim := watched.victim(case.event):
                os.kill(victim, signal.SIGKILL)
            else:
                faults.append(f"{case.event}: there is no such process")
        if time.monotonic() > ends and not stopped:
            stopped = True
            faults.append(f"it took more than {case.seconds} s, or the time was up")
            watched.process.send_signal(signal.SIGINT)
        if time.monotonic() > ends + 30:
            watched.process.kill()
        time.sleep(POLL_SECONDS)
    reader.join()
    watched.process.stdout.close()
    if pending:
        faults.append(f"`{case.at.strip()}` was never seen")
    return "".join(lines)


def _twin(case: Case, gpus: Sequence[int], place: Place) -> subprocess.Popen[str]:
    with (place.work / f"{case.name}-2.txt").open("w") as talk:
        return tune(case, gpus, place, f"{case.name}-2", talk).process


def _twin_faults(case: Case, pair: subprocess.Popen[str], printed: str) -> list[str]:
    try:
        text, _ = pair.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        pair.kill()
        return ["the twin did not end"]
    one, two = _read(printed), _read(text)
    if one is None or two is None:
        return ["a twin has no report"]
    faults: list[str] = case.faults(two)
    tokens = [(report["winner"] or {}).get("kv_cache_tokens") or 0 for report in (one, two)]
    if abs(tokens[0] - tokens[1]) > 0.01 * max(tokens):
        faults.append(f"the twins differ: {tokens[0]} and {tokens[1]} tokens of KV cache")
    return faults


def _held(before: dict[int, int], nvml: Gpus) -> int:
    """Return the most MiB that stay in use on a GPU, after a while to give them back."""
    deadline = time.monotonic() + RETURN_SECONDS
    while True:
        most = max(nvml.used(index) - used for index, used in before.items())
        if most <= RETURN_BYTES or time.monotonic() > deadline:
            return round(max(0, most) / 2**20)
        time.sleep(POLL_SECONDS)


def _read(printed: str) -> dict[str, Any] | None:
    try:
        report: dict[str, Any] = json.loads(printed)
    except ValueError:
        return None
    return report


def _summary(report: dict[str, Any]) -> dict[str, Any]:
    winner = report["winner"] or {}
    return {
        "status": report["status"],
        "launches": report["launches"],
        "rungs": winner.get("rungs", []),
        "context": winner.get("max_model_len"),
        "kv_tokens": winner.get("kv_cache_tokens"),
        "outcomes": [t["outcome"].get("reason", "stable")[:160] for t in report["trials"]],
    }


def _check(
    case: Case,
    path: Path,
    gpus: Sequence[int],
    place: Place,
    report: dict[str, Any],
    seconds: float,
    lifetimes: dict[str, float],
) -> dict[str, Any]:
    """Start the winner again; its start-up is the bare start that the tuning is measured by."""
    proven_on = report["devices"][: report["winner"]["valid_for"]["count"]]
    shown = ",".join(str(device["index"]) for device in proven_on)
    argv = [*AUTOTUNE, "check", str(path), "--json", "--gpus", shown]
    try:
        done = subprocess.run(
            argv,
            capture_output=True,
            text=True,
            check=False,
            timeout=max(1.0, min(case.seconds, place.left())),
        )
    except subprocess.TimeoutExpired:
        if place.left() <= 1:
            return {"check_faults": []}  # the time of all cases was up: not checked
        return {"check": "timed out", "check_faults": ["the check did not end in time"]}
    trial = (_read(done.stdout) or {}).get("trial")
    if trial is None or trial["startup_seconds"] is None:
        last = done.stderr.strip().splitlines()[-3:]
        return {"check": "failed", "check_faults": [f"check: {' '.join(last)}"]}
    kind = trial["outcome"]["kind"]
    bare, winner = trial["startup_seconds"], report["trials"][-1]
    refused = sum(lifetimes.get(t["log"], 0.0) for t in report["trials"][:-1])
    bare_work = bare + refused + winner["probe_seconds"]
    ratio = round(seconds / bare_work, 2)
    # The first start of an architecture on a machine fills caches that the bare one finds full.
    cold = max(0.0, winner["startup_seconds"] - bare)
    faults = [] if kind == "stable" else [f"check: {trial['outcome'].get('reason')}"]
    if seconds - cold > MOST_RATIO * bare_work > MOST_RATIO * RATIO_SECONDS and not case.event:
        faults.append(f"{seconds} s are {ratio} times the bare starts and the probe")
    return {
        "check": kind,
        "bare_start": bare,
        "cold_seconds": round(cold, 1),
        "ratio": ratio,
        "check_faults": faults,
    }


def _keep(case: Case, watched: Watched, place: Place) -> None:
    """Copy the report and the logs, without paths and names of this machine."""
    models = str(place.work / "models")
    for path in watched.results.rglob("*"):
        text = path.read_text(errors="replace") if path.is_file() else ""
        if path.name == "report.json":
            target = place.out / "reports" / case.name / "report.json"
        elif path.suffix == ".log":
            target, text = place.out / "logs" / case.name / path.name, trimmed(text)
        else:
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(scrubbed(text, models))


def run_all(cases: Sequence[Case], place: Place, nvml: Gpus) -> list[dict[str, Any]]:
    """Run cases side by side on free GPUs, those that need more GPUs first; keep every row.

    A case is not started any more when less time is left than half of what it may take.
    """
    place.out.mkdir(parents=True, exist_ok=True)
    place.work.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    free, waiting = list(nvml.indices), sorted(cases, key=lambda case: -case.gpus)
    changed = threading.Condition()

    def work(case: Case, mine: list[int]) -> None:
        try:
            row = run_case(case, mine, place, nvml)
        except Exception as error:  # noqa: BLE001  one case must not take the others along
            row = {"case": case.name, "ok": False, "faults": [f"{type(error).__name__}: {error}"]}
        with changed:
            free.extend(mine)
            note(row)
            changed.notify()

    def note(row: dict[str, Any]) -> None:
        rows.append(row)
        print(json.dumps(row), flush=True)
        (place.out / "table.json").write_text(json.dumps(rows, indent=1) + "\n")

    threads = []
    with changed:
        while waiting:
            for case in [c for c in waiting if c.gpus > len(nvml.indices)]:
                waiting.remove(case)
                note(passed_over(case, f"it needs {case.gpus} GPUs, {len(nvml.indices)} are here"))
            for case in [c for c in waiting if place.left() < c.seconds / 2]:
                waiting.remove(case)
                note(passed_over(case, "no time was left for it"))
            fitting = next((case for case in waiting if case.gpus <= len(free)), None)
            if fitting is None:
                changed.wait(timeout=1.0)
                continue
            waiting.remove(fitting)
            mine, free[:] = free[: fitting.gpus], free[fitting.gpus :]
            threads.append(threading.Thread(target=work, args=(fitting, mine)))
            threads[-1].start()
    for thread in threads:
        thread.join()
    return rows


def passed_over(case: Case, why: str) -> dict[str, Any]:
    """Return the row of a case that was not run: neither passed nor failed."""
    return {"case": case.name, "asks": case.asks, "ok": None, "faults": [f"not run: {why}"]}


def main(words: Sequence[str] | None = None) -> int:
    """Run the cases named, or all that the GPUs at hand allow."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("out", type=Path)
    parser.add_argument("--work", type=Path, default=Path("/tmp/autotune-gpu"))
    parser.add_argument("--deadline", type=float, default=3600, help="seconds until all must end")
    parser.add_argument("--upto", type=int, help="leave out what needs more GPUs than this")
    parser.add_argument("--least", type=int, default=1, help="leave out what needs fewer GPUs")
    parser.add_argument("case", nargs="*", metavar="CASE")
    asked = parser.parse_intermixed_args(words)
    unknown = sorted(set(asked.case) - set(BY_NAME))
    if unknown:
        parser.error(f"no such case: {', '.join(unknown)}; there are {', '.join(BY_NAME)}")
    cases = [BY_NAME[name] for name in asked.case] or [
        c for c in CASES if asked.least <= c.gpus <= (asked.upto or c.gpus)
    ]
    until = time.monotonic() + asked.deadline
    ballast = os.environ.get("AUTOTUNE_GPU_BALLAST", BALLAST)  # a rehearsal has its own
    place = Place(out=asked.out, work=asked.work, until=until, ballast=ballast)
    rows = run_all(cases, place, Gpus())
    good = sum(row["ok"] is True for row in rows)
    print(f"{good} of {len(rows)} as they must be", file=sys.stderr)
    return 0 if all(row["ok"] is not False for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
