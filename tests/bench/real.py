"""Tune a small model on a real vLLM on the CPU, and start its launches bare beside it.

    python -m tests.bench.real OUT.json [VLLM_PYTHON]

Where the command is to be exact, vLLM cannot choose the length, and what is asked of it first is
refused. A bare start is the same command without autotune: until `/health` answers, or it ends.
"""

import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.command import AUTOTUNE
from tests.support.tiny_model import make_tiny_model
from vllm_autotune.machine.device import detect
from vllm_autotune.server.server import free_port

EAGER = ("--", "--enforce-eager")
START_SECONDS = 180


@dataclass(frozen=True, slots=True)
class Cell:
    """What is asked: `options` of autotune for a model of so many `layers` and `heads`."""

    name: str
    options: tuple[str, ...]
    layers: int = 32
    heads: int = 16


QUICK = ("--min-context", "128", "--probe", "quick")
CELLS = (
    Cell("two at once, exact", ("--memory-limit", "1450MiB", "--concurrency", "2", "--exact")),
    Cell("four at once, exact", ("--memory-limit", "1600MiB", "--concurrency", "4", "--exact")),
    Cell("one sequence, exact", ("--memory-limit", "1450MiB", "--exact")),
    Cell(
        "two at once, exact, a smaller model",
        ("--memory-limit", "1000MiB", "--concurrency", "2", "--exact"),
        layers=16,
    ),
    Cell("four at once", ("--memory-limit", "1600MiB", "--concurrency", "4")),
    Cell("one sequence", ("--memory-limit", "1450MiB")),
)


def tuned(cell: Cell, model: Path, folder: Path, python: str) -> dict[str, Any]:
    """Tune from cold; return the report."""
    done = subprocess.run(
        [
            *(*AUTOTUNE, "--model", str(model), "--json", "--vllm-python", python),
            *("--results-dir", str(folder / "results"), "--cache-dir", str(folder / "cache")),
            *(*cell.options, *QUICK, *EAGER),
        ],
        stdout=subprocess.PIPE,
        check=False,
    )
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def bare_seconds(argv: Sequence[str], log: Path) -> float:
    """Return the seconds until the server answers `/health`, or until it has ended."""
    port = free_port()
    began = time.monotonic()
    with log.open("wb") as output:
        server = subprocess.Popen(
            [*argv, "--host", "127.0.0.1", "--port", str(port)],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            while server.poll() is None and not _healthy(port):
                if time.monotonic() - began > START_SECONDS:
                    break
                time.sleep(0.1)
            return time.monotonic() - began
        finally:
            with_group(server.pid)
            server.wait()


def with_group(pid: int) -> None:
    """Kill a server and its engine, which share its session."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def row(cell: Cell, folder: Path, python: str) -> dict[str, Any]:
    """Tune one cell, start each of its launches bare, and compare."""
    model = make_tiny_model(
        folder / f"tiny-{cell.layers}", layers=cell.layers, heads=cell.heads, context=4096
    )
    own = folder / cell.name.replace(" ", "-").replace(",", "")
    report = tuned(cell, model, own, python)
    trials = report["trials"]
    bare = [bare_seconds(trial["argv"], own / "bare.log") for trial in trials]
    probe = sum(trial["probe_seconds"] or 0.0 for trial in trials)
    elapsed = report["elapsed_seconds"]
    return {
        "cell": cell.name,
        "status": report["status"],
        "launches": report["launches"],
        "refusals": sum(trial["outcome"]["kind"] != "stable" for trial in trials),
        "context": report["winner"] and report["winner"]["max_model_len"],
        "seconds": elapsed,
        "probe_seconds": round(probe, 1),
        "probe_share": round(probe / elapsed, 2),
        "bare_starts_seconds": [round(seconds, 1) for seconds in bare],
        "over_bare": round((elapsed - probe) / sum(bare), 2),
    }


def quick(folder: Path, python: str) -> dict[str, float]:
    """Time what starts no server: `--help`, and an answer from the cache."""
    cell = CELLS[-1]
    model = make_tiny_model(
        folder / f"tiny-{cell.layers}", layers=cell.layers, heads=cell.heads, context=4096
    )
    own = folder / cell.name.replace(" ", "-").replace(",", "")
    return {
        "help_seconds": _median(lambda: subprocess.check_output([*AUTOTUNE, "--help"])),
        "cache_hit_seconds": _median(lambda: tuned(cell, model, own, python)),
    }


def _median(work: Any) -> float:
    times = []
    for _ in range(5):
        began = time.monotonic()
        work()
        times.append(time.monotonic() - began)
    return round(statistics.median(times), 2)


def main(out: Path, python: str) -> int:
    """Run the cells, and write the table after each; 0 if all are within their bounds."""
    out.parent.mkdir(parents=True, exist_ok=True)
    document: dict[str, Any] = {"machine": machine(), "cells": []}
    with tempfile.TemporaryDirectory() as name:
        for cell in CELLS:
            document["cells"].append(row(cell, Path(name), python))
            print(json.dumps(document["cells"][-1]), flush=True)
            out.write_text(json.dumps(document, indent=2) + "\n")
        document |= quick(Path(name), python)
        out.write_text(json.dumps(document, indent=2) + "\n")
    good = all(r["launches"] <= 2 and r["over_bare"] <= 1.3 for r in document["cells"])
    return 0 if good else 1


def machine() -> dict[str, object]:
    """Return what it ran on."""
    (cpu,) = detect("cpu")
    return {
        "cpu": cpu.name,
        "cores": os.cpu_count(),
        "memory_gib": round(cpu.memory_bytes / 2**30, 1),
        "python": platform.python_version(),
    }


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *(sys.argv[2:] or [sys.executable])))
