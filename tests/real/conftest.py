import os
import subprocess
import sys

import pytest


@pytest.fixture(scope="session")
def vllm_python() -> str:
    """An interpreter that has a real vLLM: AUTOTUNE_TEST_VLLM_PYTHON, else our own.

    A missing vLLM is a failure, so that no CI passes without it;
    AUTOTUNE_TEST_VLLM_PYTHON=none skips these tests on purpose.
    """
    python = os.environ.get("AUTOTUNE_TEST_VLLM_PYTHON") or sys.executable
    if python == "none":
        pytest.skip("AUTOTUNE_TEST_VLLM_PYTHON=none")
    code = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"
    if subprocess.run([python, "-c", code], check=False).returncode:
        pytest.fail(f"{python} has no vLLM (set AUTOTUNE_TEST_VLLM_PYTHON, or to `none` to skip)")
    return python
