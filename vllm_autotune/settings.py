"""Options from `autotune.toml` in the current folder."""

import re
import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Any

from .errors import BadUsage
from .ladder import meant


def read_settings(path: Path, known: Collection[str]) -> dict[str, Any]:
    """Return the options that a settings file gives, named as on the command line.

    Raises BadUsage, naming the line and the option that was meant.
    """
    try:
        text = path.read_text(encoding="utf-8")
        document = tomllib.loads(text)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise BadUsage(f"{path}: {error}", "correct the file or remove it") from error
    settings = {}
    for key, value in document.items():
        name = key.replace("_", "-")
        if name not in known:
            found = re.search(rf"^\s*\[?[\"']?{re.escape(key)}\b", text, re.MULTILINE)
            line = text.count("\n", 0, found.end()) + 1 if found else 1
            raise BadUsage(
                f"{path}, line {line}: there is no option `{key}`",
                meant(name, known) or "its keys are the options of `autotune tune`",
            )
        settings[name] = _words(value)
    return settings


def _words(value: Any) -> Any:
    """Return a value as the command line would give it: options check words, not numbers."""
    if isinstance(value, list):
        return [str(item) for item in value]
    return value if isinstance(value, bool) else str(value)
