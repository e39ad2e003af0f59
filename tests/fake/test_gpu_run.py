"""The runner of the GPU cases, rehearsed: two stand-in H200s, a fake vLLM, real processes."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_nvml import LIBRARY, Cards
from tests.support.fake_vllm import COMMAND
from tests.support.memory_model import FLAGS, install
from tests.support.paths import ROOT

# A 7B on vLLM 0.26, as measured on an H200.
MODEL = {
    "device": "cuda",
    "version": "0.26.0",
    "lifetime": 600,
    "total_gib": 139.8,
    "weights_gib": 14.29,
    "activation_gib": 1.13,
    "other_gib": 0.2,
    "graph_gib": 0.0,
    "kv_bytes_per_token": 57344,
    "vocab_size": 152064,
}
# Takes memory as the stand-in for NVML counts it.
BALLAST = """
import os, pathlib, sys
print("ready", flush=True)
gib = float(sys.stdin.readline())
size = gib * 2**30 if gib > 0 else 10 * 2**30  # what a server leaves of the card
file = f"{os.environ['CUDA_VISIBLE_DEVICES']}-{os.getpid()}"
pathlib.Path(os.environ["FAKE_NVML"], file).write_text(str(int(size)))
print("held", flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True)
class Bench:
    """A folder that looks like a machine with GPUs and vLLM on it."""

    folder: Path

    def run(self, *cases: str, gpus: int = 2, **script: Any) -> dict[str, dict[str, Any]]:
        """Run cases there; return their rows by name."""
        cards = Cards.make(self.folder / "nvml", gpus)
        site = self.folder / "site"
        install(site, (*FLAGS, "load-format"))
        places = (LIBRARY, site, ROOT)
        environ = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, places)),
            **cards.environment,
            "FAKE_VLLM": json.dumps({**MODEL, **script}),
            "AUTOTUNE_VLLM_COMMAND": " ".join(COMMAND),
            "TMPDIR": os.environ.get("TMPDIR", "/tmp"),
            "AUTOTUNE_GPU_BALLAST": BALLAST,
            "AUTOTUNE_PROBE": "quick",
        }
        out = self.folder / "out"
        words = [str(out), "--work", str(self.folder / "work"), "--deadline", "540", *cases]
        done = subprocess.run(
            [sys.executable, "-W", "default::ResourceWarning", "-m", "tests.gpu.run", *words],
            env=environ,
            check=False,
            timeout=570,
            capture_output=True,
            text=True,
        )
        assert (out / "table.json").exists(), done.stderr
        assert "ResourceWarning" not in done.stderr  # under pytest it fails a case
        rows = json.loads((out / "table.json").read_text())
        return {row["case"]: row for row in rows}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.mark.slow
def test_cases_run_side_by_side_and_leave_their_evidence(bench: Bench) -> None:
    # On a card below 70 GiB 2,048 tokens are computed at once, which takes less.
    rows = bench.run("7b-80GiB", "7b-16.4GiB-8bit-kv", "144b-tp4", activation_gib=0.4)

    assert rows["7b-80GiB"]["ok"] is True, rows["7b-80GiB"]
    assert rows["7b-80GiB"]["check"] == "stable"
    assert rows["7b-80GiB"]["bare_start"] > 0
    assert rows["7b-16.4GiB-8bit-kv"]["rungs"] == ["utilization", "kv-cache-8bit"]
    assert rows["144b-tp4"]["ok"] is None
    assert rows["144b-tp4"]["faults"] == ["not run: it needs 4 GPUs, 2 are here"]
    kept = bench.folder / "out"
    report = (kept / "reports" / "7b-80GiB" / "report.json").read_text()
    assert str(bench.folder) not in report
    assert '"/models/qwen2.5-7b"' in report
    assert "Starting vLLM" in (kept / "logs" / "7b-80GiB" / "trial-01.log").read_text()


@pytest.mark.slow
def test_a_killed_engine_and_a_killed_autotune_leave_nothing(bench: Bench) -> None:
    rows = bench.run("7b-kill-engine", "7b-kill-autotune", decode_tokens_per_second=20)

    assert rows["7b-kill-engine"]["ok"] is True, rows["7b-kill-engine"]
    assert rows["7b-kill-autotune"]["ok"] is True, rows["7b-kill-autotune"]
    assert rows["7b-kill-autotune"]["exit"] == -9


@pytest.mark.slow
def test_a_tenant_is_seen_and_gone_afterwards(bench: Bench) -> None:
    row = bench.run("7b-tenant-60GiB")["7b-tenant-60GiB"]

    assert row["ok"] is True, row
    assert row["rungs"] == ["utilization"]
    assert row["held_mib"] == 0


@pytest.mark.slow
def test_a_tenant_that_comes_during_the_probe_gets_its_room(bench: Bench) -> None:
    # The request that ran out is the verdict, not that the tenant's memory stays gone. Answers are
    # slow, so that the tenant is there before the third request.
    dies = {"die_at": "serving", "how": "oom", "unless": ["--gpu-memory-utilization"], "after": 3}
    case = "7b-tenant-mid-probe"
    row = bench.run(case, gpus=1, mode="slow", seconds=2, **dies)[case]

    assert row["ok"] is True, row
    assert row["launches"] == 2
    assert row["rungs"] == ["utilization"]


@pytest.mark.slow
def test_twins_are_tuned_at_once(bench: Bench) -> None:
    row = bench.run("7b-twins")["7b-twins"]
    assert row["ok"] is True, row


def test_a_case_that_fails_says_why(bench: Bench) -> None:
    # The weights are four times what they should be: nothing fits.
    row = bench.run("7b-80GiB", weights_gib=90)["7b-80GiB"]

    assert row["ok"] is False
    assert any(
        "launches" in fault or "rungs" in fault or "ended as" in fault for fault in row["faults"]
    )
