"""The command line as tests run it: within their process, or in processes of its own."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.paths import ROOT

CODE = "from vllm_autotune.cli import main; main()"
AUTOTUNE = (sys.executable, "-c", CODE)

# Imports what commands need once, then runs each in a fork, as Python would have run it alone.
FORKS = """
import json, os, sys
import vllm_autotune.cli.show, vllm_autotune.cli.tune
from vllm_autotune.cli import main
folder, caught, commands = json.loads(sys.argv[1])
codes = []
for number, words in enumerate(commands):
    pid = os.fork()
    if pid == 0:
        for stream in caught:
            os.dup2(os.open(f"{folder}/{number}-{stream}", os.O_WRONLY | os.O_CREAT), stream)
        sys.argv[1:] = words
        main()
    codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
with open(f"{folder}/codes", "w") as file:
    json.dump(codes, file)
"""


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


def child(*words: str, code: str = CODE, **env: str) -> Ended:
    """Run a command in a process of its own, where the process itself is in question."""
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        capture_output=True,
        text=True,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def forked(
    folder: Path,
    *commands: Sequence[str],
    redirection: str = "",
    stdout: int | None = None,
    **env: str,
) -> list[Ended]:
    """Run commands as `child` does, but quicker: each in a fork of one process.

    With a shell's `redirection`, and on a `stdout` that is given, nothing written is returned.
    """
    caught = [] if redirection else [2] if stdout is not None else [1, 2]
    asked = json.dumps([str(folder), caught, commands])
    subprocess.run(
        ["sh", "-c", f'"$@" {redirection}', "sh", sys.executable, "-c", FORKS, asked],
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        stdout=stdout,
        check=True,
    )

    def written(number: int, stream: int) -> str:
        path = folder / f"{number}-{stream}"
        return path.read_text(env.get("PYTHONIOENCODING", "utf-8")) if stream in caught else ""

    codes = json.loads((folder / "codes").read_text())
    return [Ended(code, written(n, 1), written(n, 2)) for n, code in enumerate(codes)]


def planned(ended: Ended) -> list[dict[str, Any]]:
    """Return the rungs of a plan's document."""
    assert ended.code in {0, 1}, ended.err
    rows: list[dict[str, Any]] = json.loads(ended.out)["rungs"]
    return rows


def words_of(row: dict[str, Any]) -> str:
    return " ".join(row["proposal"]["flags"]) if row["proposal"] else ""


def flags(ended: Ended) -> str:
    """Return all flags of a plan."""
    return " ".join(map(words_of, planned(ended)))


def computing_seconds(code: str, *words: str) -> float:
    """Run some Python in a process of its own, and return what it took of the processor."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *words]
    subprocess.run(command, env=environment, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
