"""The command line, run in a process of its own, and how it ended."""

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

from tests.support.paths import ROOT

CODE = "from vllm_autotune.cli import main; main()"
AUTOTUNE = (sys.executable, "-c", CODE)


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    def refused(self, code: int, *words: str, hint: bool = True) -> None:
        """Check that it ended with a sentence that has these words, and a hint."""
        assert self.code == code, self.err
        assert "Traceback" not in self.err + self.out
        text = " ".join(self.err.split())
        for word in words:
            assert word in text, text
        assert not hint or "hint: " in text, text


Autotune = Callable[..., Ended]


def child(*words: str, code: str = CODE, stdout: int = subprocess.PIPE, **env: str) -> Ended:
    """Run the command line in a process of its own, where the process itself is in question."""
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    return Ended(done.returncode, done.stdout or "", done.stderr)


def computing_seconds(code: str, *words: str) -> float:
    """Run some Python in a process of its own, and return what it took of the processor."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *words]
    subprocess.run(command, env=environment, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
