"""Where real servers are tuned."""

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.command import AUTOTUNE


@dataclass(frozen=True)
class Place:
    """Where real servers are tuned; what a run leaves is in `folder`."""

    folder: Path
    model: Path
    python: str

    @property
    def results(self) -> Path:
        return self.folder / "results"

    def command(self, *options: str, fixed: tuple[str, ...] = ()) -> list[str]:
        return [
            *("nice", "-n", "5", *AUTOTUNE, "--model", str(self.model)),
            *("--vllm-python", self.python),
            *("--results-dir", str(self.results), "--cache-dir", str(self.folder / "cache")),
            *(*options, "--", "--enforce-eager", *fixed),
        ]

    def run(self, *options: str, fixed: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*options, fixed=fixed), capture_output=True, text=True, check=False
        )

    @contextmanager
    def running(self, *options: str) -> Iterator[subprocess.Popen[str]]:
        with subprocess.Popen(
            self.command(*options), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def wait_for(self, words: str, process: subprocess.Popen[str]) -> None:
        """Wait until a server's log holds `words`."""
        deadline = time.monotonic() + 600
        while not any(words in p.read_text() for p in self.results.rglob("trial-*.log")):
            assert process.poll() is None, process.stderr and process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def report(self) -> dict[str, Any]:
        (path,) = self.results.rglob("report.json")
        document: dict[str, Any] = json.loads(path.read_text())
        return document
