"""A host with GPUs of several kinds, none of which holds the model: stand-ins, real processes."""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import AUTOTUNE
from tests.support.fake_nvml import LIBRARY, Cards
from tests.support.fake_vllm import COMMAND
from tests.support.memory_model import FLAGS, install
from tests.support.pace import LATEST
from tests.support.paths import ROOT, SHAPES

KINDS = ("NVIDIA GeForce RTX 3090 23.6 8 6", "NVIDIA L40S 44.4 8 9", "Tesla T4 14.6 7 5",
         "NVIDIA GeForce RTX 3090 23.6 8 6")  # fmt: skip
# A 32B model: 61 GiB of weights, and 256 KiB of KV cache for each token of 64 layers.
MODEL = {
    "device": "cuda",
    "version": "0.26.0",
    "lifetime": 600,
    "stages_gib": [23.6, 44.4, 23.6],
    "layers": 64,
    "weights_gib": 61.0,
    "activation_gib": 0.4,
    "other_gib": 0.6,
    "graph_gib": 0.4,
    "kv_bytes_per_token": 262_144,
    "vocab_size": 152_064,
}

pytestmark = pytest.mark.usefixtures("nothing_open")


@dataclass(frozen=True)
class Host:
    """A folder that looks like a machine with these GPUs and vLLM on it."""

    folder: Path

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        environ = {
            **os.environ,
            **Cards(self.folder / "nvml").environment,
            "PYTHONPATH": f"{LIBRARY}:{self.folder / 'site'}:{ROOT}",
            "AUTOTUNE_LOCK_DIR": str(self.folder / "locks"),
            "FAKE_VLLM": json.dumps(MODEL),
        }
        command = [*AUTOTUNE, *words]
        return subprocess.run(
            command, env=environ, capture_output=True, text=True, check=False, timeout=4 * LATEST
        )

    def tune(self, *words: str) -> dict[str, Any]:
        done = self.run(
            *("--model", str(self.folder / "model"), "--json", "--probe", "quick"),
            *("--results-dir", str(self.folder / "results")),
            *("--cache-dir", str(self.folder / "cache")),
            *("--vllm-command", " ".join(COMMAND), *words, "--", "--load-format", "dummy"),
        )
        assert done.returncode == 0, done.stderr
        report: dict[str, Any] = json.loads(done.stdout)
        return report


@pytest.fixture
def host(tmp_path: Path) -> Host:
    Cards.of(tmp_path / "nvml", *KINDS)
    install(tmp_path / "site", (*FLAGS, "load-format"))
    (tmp_path / "locks").mkdir(mode=0o700)
    (tmp_path / "model").mkdir()
    shape = (SHAPES / "qwen2.5-32b.json").read_text()
    (tmp_path / "model" / "config.json").write_text(shape)
    return Host(tmp_path)


def test_three_of_four_cards_hold_together_what_none_holds(host: Host) -> None:
    skipped = ("--skip", "fp8-weights", "--skip", "4bit-weights", "--context", "8192")
    report = host.tune(*skipped)
    winner = report["winner"]
    split = [int(layers) for layers in winner["env"]["VLLM_PP_LAYER_PARTITION"].split(",")]
    assert sum(split) == 64
    assert split[1] > 1.5 * max(split[0], split[2])
    assert [device["index"] for device in report["devices"]] == [0, 1, 3]
    assert any("Tesla T4" in reason for reason in report["left_alone"])
    assert report["launches"] == 1
    (trial,) = report["trials"]
    assert [stage["layers"] for stage in trial["predicted"]["stages"]] == split
    assert len(winner["valid_for"]["needed_each"]) == 3
    assert winner["gives_up"] == [
        "further GPUs and latency: layers are dealt out to groups of them"
    ]
    # The same again is recalled, and proven again where it is checked.
    again = host.tune(*skipped)
    assert again["cache"]["hit"]
    assert again["winner"]["env"] == winner["env"]
    words = ("check", str(host.folder / "results"), "--vllm-command", " ".join(COMMAND))
    done = host.run(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    unit = host.run("render", str(host.folder / "results"), "--trust-report", "--as", "systemd")
    assert f"VLLM_PP_LAYER_PARTITION={winner['env']['VLLM_PP_LAYER_PARTITION']}" in unit.stdout
    assert "CUDA_VISIBLE_DEVICES=0,1,3" in unit.stdout
