"""Files: writes that are whole or absent."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vllm_autotune.errors import CannotWrite
from vllm_autotune.files import write_whole

ROOT = Path(__file__).parents[2]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    """A folder that is in the way makes the last step fail, even for root."""
    target = tmp_path / "report.json"
    target.mkdir()
    (target / "old").write_text("old")
    with pytest.raises(CannotWrite, match="cannot write"):
        write_whole(target, "new")
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    assert (target / "old").read_text() == "old"


KILLED = """
import os, sys
from pathlib import Path
from vllm_autotune import files
os.fsync = lambda _: os._exit(9)
files.write_whole(Path(sys.argv[1]), "new" * 1000)
"""


def test_a_process_killed_while_it_writes_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "report.json"
    target.write_text("old")
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", KILLED, str(target)], env=env, check=False)
    assert done.returncode == 9
    assert target.read_text() == "old"
