"""A script of a shell and jq, from an answer that was passed on to a chat."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.fake_vllm import COMMAND
from tests.support.paths import ROOT
from tests.support.tuning import Place
from vllm_autotune.server.server import free_port

SCRIPT = ROOT / "tests" / "support" / "deploy.sh"
CODE = "from vllm_autotune.cli import main; main()"

needs_tools = pytest.mark.skipif(
    not all(map(shutil.which, ("bash", "jq", "curl"))), reason="bash, jq or curl is missing"
)


@needs_tools
def test_from_nothing_to_a_chat(tmp_path: Path, tiny_model: Path) -> None:
    place = Place.make(tmp_path / "place", tiny_model)
    options = ("--memory-limit", "700MiB", "--context", "1024")
    assert place.run(*options, fixed=()).returncode == 0
    (report,) = place.results.rglob("report.json")

    program = tmp_path / "bin" / "autotune"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c "{CODE}" "$@"\n')
    program.chmod(0o755)
    environment = {
        **place.environment({}),
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "AUTOTUNE_CACHE_DIR": str(tmp_path / "another cache"),
        "AUTOTUNE_RESULTS_DIR": str(tmp_path / "results"),
        "AUTOTUNE_VLLM_COMMAND": " ".join(COMMAND),
        "AUTOTUNE_TRUST_REPORT": "1",  # the fake vLLM is not vLLM's own server
    }
    words = ["bash", str(SCRIPT), str(report), str(free_port())]
    request = ["--model", str(tiny_model), *options]
    done = subprocess.run(
        [*words, *request], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["role"] == "assistant"
    assert said["content"]

    other = [*words, "--model", str(tiny_model), "--memory-limit", "700MiB", "--context", "512"]
    refused = subprocess.run(other, env=environment, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "the answer is for" in refused.stderr
    shutil.rmtree(place.temporary)
