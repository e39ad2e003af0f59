"""Logs of one JSON object a line: of Docker, of a collector, or of vLLM's own logging."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from . import lines
from .layer import Piece
from .prefix import LEVELS, OWNER

_TEXTS = ("log", "message", "msg", "MESSAGE", "event", "text", "line", "textPayload", "body")
_LEVEL_KEYS = ("levelname", "level", "severity", "lvl", "loglevel")
_TRACES = ("exc_info", "exc_text", "exception", "stack_trace", "traceback", "stacktrace")
_SOURCES = ("container_name", "service", "pod_name", "pod", "container", "_SYSTEMD_UNIT")
_POD = "kubernetes"  # whose fields count as the record's own


class _Known(NamedTuple):
    """Which of the keys of a record are known, the most telling first."""

    texts: tuple[str, ...]
    levels: tuple[str, ...]
    traces: tuple[str, ...]
    sources: tuple[str, ...]
    pod: bool


@lru_cache(64)
def _known(*keys: str) -> _Known:
    """Return what is known of these keys: the records of one log have the same ones."""

    def among(names: Iterable[str]) -> tuple[str, ...]:
        return tuple(name for name in names if name in keys)

    pod = _POD in keys
    return _Known(among(_TEXTS), among(_LEVEL_KEYS), among(_TRACES), among(_SOURCES), pod)


@dataclass(frozen=True, slots=True)
class JsonLines:
    """One JSON object a line: of Docker, of a collector, or of vLLM's own logging."""

    def share(self, sample: Sequence[str]) -> float:
        return sum(1 for found in _objects(sample) if _text_in(found) is not None) / len(sample)

    def opened(self, text: str) -> Iterable[Piece]:
        pieces: dict[str, list[str]] = {}
        records = list(filter(None, text.split("\n")))
        for line, found in zip(records, _objects(records), strict=True):
            inside = _text_in(found)
            said = f"{line}\n" if inside is None else _said(found, inside)
            if (owner := line[0] == "(" and OWNER.match(line)) and found:
                said = f"{owner[0]}{said}"
            pieces.setdefault(_source_of(found), []).append(said)
        for name, said_lines in pieces.items():
            yield name, lines.without_ansi("".join(said_lines)).removesuffix("\n")


def _objects(records: Sequence[str]) -> list[dict[str, Any]]:
    """Return the JSON object in each line, an empty one where there is none."""
    bodies = [_body(line) for line in records]
    told = [body for body in bodies if body]
    try:
        found = json.loads(f"[{','.join(told)}]")  # far faster than each by itself
    except ValueError:
        found = ()
    if len(found) != len(told):
        found = [_object(body) for body in told]
    objects = iter(found)
    return [next(objects) if body else {} for body in bodies]


def _body(line: str) -> str:
    """Return what may be a JSON object in a line, behind the process that wrote it."""
    if not line.endswith("}"):
        return ""
    if line[0] == "(" and (owner := OWNER.match(line)):
        line = line[owner.end() :]
    return line if line[:1] == "{" else ""


def _object(body: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(body)
    except ValueError:
        return {}
    return found


def _text_in(found: dict[str, Any]) -> str | None:
    for key in _known(*found).texts:
        if isinstance(text := found[key], str):
            return text
    return None


def _source_of(found: dict[str, Any]) -> str:
    known = _known(*found)
    if known.pod and isinstance(pod := found[_POD], dict):
        found = {**found, **pod}
        known = _known(*found)
    for key in known.sources:
        if isinstance(name := found[key], str):
            return name
    return ""


def _said(found: dict[str, Any], inside: str) -> str:
    """Return the text of a record, each line with the level in front."""
    if inside is found.get("log"):  # Docker cuts long lines into several records
        return inside if inside.endswith("\n") or len(inside) >= 1 << 13 else f"{inside}\n"
    known = _known(*found)
    names = (found[key] for key in known.levels)
    name = next((name for name in names if isinstance(name, str)), "")
    level = LEVELS.get(name.upper(), "")
    traces = [found[key] for key in known.traces if isinstance(found[key], str)]
    if not level and not traces:
        return f"{inside.rstrip()}\n"
    said = "\n".join((inside, *traces)).rstrip("\n").split("\n")
    return "".join(f"{line}\n" if lines.begins(line) else f"{level} {line}\n" for line in said)
