"""Options from `autotune.toml` in the current folder."""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from ..errors import BadUsage
from ..search.ladder import meant

Takes = Literal["nothing", "one", "several", "words", "one or nothing"]


def read_settings(path: Path, known: Mapping[str, Takes]) -> dict[str, Any]:
    """Return the options that a settings file gives, named as on the command line.

    `known` says what each option takes. Raises BadUsage, naming the line and what was meant.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # Notepad writes a mark in front
        document = tomllib.loads(text)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise BadUsage(f"{path}: {error}", "correct the file or remove it") from error
    settings = {}
    for key, value in document.items():
        name = key.replace("_", "-")
        found = re.search(rf"^\s*\[?[\"']?{re.escape(key)}\b", text, re.MULTILINE)
        line = text.count("\n", 0, found.end()) + 1 if found else 1
        if name not in known:
            raise BadUsage(
                f"{path}, line {line}: there is no option `{key}`",
                meant(name, known) or "its keys are the options of `autotune tune`",
            )
        if not _suits(value, known[name]):
            raise BadUsage(
                f"{path}, line {line}: `{key}` cannot be {str(value).lower()}",
                _hint(key, known[name]),
            )
        settings[name] = _words(value, known[name])
    return settings


def _hint(key: str, takes: Takes) -> str:
    if takes == "words":
        return f'write a list of words: {key} = ["--dtype", "half"]'
    return "true or false is for what takes no value, a list for what may be repeated"


def _suits(value: Any, takes: Takes) -> bool:
    if isinstance(value, bool):
        return takes in ("nothing", "one or nothing")
    if isinstance(value, list):
        return takes in ("one", "several", "words") and not any(
            isinstance(v, list | dict) for v in value
        )
    return takes not in ("nothing", "words") and not isinstance(value, dict)


def _words(value: Any, takes: Takes) -> Any:
    """Return a value as the command line would give it: options check words, not numbers."""
    if isinstance(value, bool):
        return value
    words = [str(item) for item in value] if isinstance(value, list) else [str(value)]
    return words if takes in ("several", "words") else ",".join(words)
