"""A fake vLLM; `__main__` says what it does."""

import json
import sys
from pathlib import Path

COMMAND = (sys.executable, str(Path(__file__).parent))


def environment(script: dict[str, object]) -> dict[str, str]:
    """Return what tells the fake its script."""
    return {"FAKE_VLLM": json.dumps({"lifetime": 600, **script})}
