"""A TOML file that is checked against a type, every mistake in it named with its line."""

import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from .errors import Refusal, did_you_mean
from .files import read_bytes

T = TypeVar("T")

UNKNOWN_KEY = "unexpected_keyword_argument"
WANTED = {
    "bool_type": "true or false",
    "dataclass_type": "a table",
    "dict_type": "a table",
    "int_type": "a whole number",
    "list_type": "a list",
    "string_type": "text",
    "tuple_type": "a list",
}


@dataclass(frozen=True, slots=True)
class TomlFile:
    """A file; a mistake in it raises `refusal`, with `hint` where nothing better can be said."""

    path: Path
    refusal: type[Refusal]
    hint: str
    text: str
    document: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path, refusal: type[Refusal], hint: str) -> Self:
        try:
            text = read_bytes(path).decode("utf-8-sig")  # Notepad writes a mark in front
            return cls(path, refusal, hint, text, tomllib.loads(text))
        except OSError as error:
            raise refusal(f"{path} cannot be read: {error.strerror}", hint) from error
        except ValueError as error:
            raise refusal(f"{path} is not TOML: {error}", hint) from error

    def checked(self, adapter: TypeAdapter[T], keys: Mapping[int, Iterable[str]]) -> T:
        """Return the document as what the adapter makes of it.

        `keys` are those that a table may have, by its depth. A ValueError of a validator says
        what the value must be.
        """
        try:
            return adapter.validate_python(self.document)
        except ValidationError as found:
            errors = sorted(found.errors(), key=lambda error: self.line(*error["loc"]))
            # A mistyped key may be missing as well: name the typo.
            first = min(errors, key=lambda error: error["type"] != UNKNOWN_KEY)
            raise self._refused(first, keys) from found

    def mistake(self, line: int, message: str, hint: str) -> Refusal:
        return self.refusal(f"{self.path}, line {line}: {message}", hint or self.hint)

    def line(self, *way: str | int, value: object = None) -> int:
        """Return the line of a key, or of a text in its value; `way` leads to it from the top."""
        lines, line, key = [*enumerate(self.text.split("\n"), 1)], 1, ""

        def first(pattern: str) -> int:
            return next((n for n, text in lines[line - 1 :] if re.match(pattern, text)), line)

        for part in way:
            if isinstance(part, str):
                key = "[-_]".join(map(re.escape, re.split("[-_]", part)))
                line = first(rf"(?:[^#]*[^#\w-])?-*{key}[\"']?\s*[=.\]]")
            else:  # tables that are written inline have no header
                headers = [n for n, text in lines if re.match(rf"\s*\[\[\s*{key}\s*\]\]", text)]
                line = headers[part] if part < len(headers) else line
        return first(rf"[^#]*[\"']{re.escape(value)}[\"']") if isinstance(value, str) else line

    def _refused(self, error: ErrorDetails, keys: Mapping[int, Iterable[str]]) -> Refusal:
        kind, way, value = error["type"], error["loc"], error["input"]
        key = next(part for part in reversed(way) if isinstance(part, str))
        if kind == UNKNOWN_KEY:
            hint = did_you_mean(key, keys[len(way)])
            return self.mistake(self.line(*way), f"unknown key `{key}`", hint)
        if kind == "missing":
            return self.mistake(self.line(*way[:-1]), f"`{key}` is missing", f"add {key} = ...")
        context = error.get("ctx", {})
        choices = context.get("expected", "")
        wanted = choices or WANTED.get(kind) or str(context.get("error", error["msg"]))
        written = json.dumps(value, default=str, ensure_ascii=False)
        return self.mistake(
            self.line(*way, value=value),
            f"`{key}` must be {wanted}, not {written}",
            did_you_mean(str(value), re.findall("'(.+?)'", choices)),
        )
