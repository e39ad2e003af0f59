"""A small process that outlives us, and ends our server if we could not."""

import os
import subprocess
import sys
from pathlib import Path

from .leftovers import end_trial

CODE = "import sys; from vllm_autotune.server.guardian import guard; guard(*sys.argv[1:])"


def guard(trial: str, scratch: str) -> None:
    """Wait until our parent has ended, then end its server and remove what that leaves.

    Whatever ends the parent, even SIGKILL, closes the pipe that is our stdin.
    """
    sys.stdin.buffer.read()
    end_trial(trial, Path(scratch))


def start_guardian(trial: str, scratch: Path) -> subprocess.Popen[bytes]:
    """Start the process that waits for our end; closing its stdin ends it."""
    return subprocess.Popen(
        [sys.executable, "-c", CODE, trial, str(scratch)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # a Ctrl-C at the terminal must not reach it
    )
