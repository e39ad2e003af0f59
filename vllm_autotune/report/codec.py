"""JSON documents: every one is written, read and described here."""

import json
import math
import re
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic.json_schema import GenerateJsonSchema

T = TypeVar("T")
_adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)  # one takes milliseconds to make

# A terminal obeys these even within JSON, where they need not be escaped.
STEERING = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
# More than any memory has bytes.
MOST = 2**64


def dump(value: T, kind: type[T] | None = None, *, indent: int | None = None) -> str:
    """Write a value as JSON, on one line unless indented; what is unknown or unbounded is null.

    `kind` is needed where the value does not tell it: for the items of a tuple.
    """
    text = _adapter(kind or type(value)).dump_json(value, indent=indent).decode()
    return STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def load(kind: type[T], text: str | bytes) -> T:
    """Read a value of this kind. Raises ValueError, which names the first field that is wrong."""
    try:
        json.loads(text, parse_int=_whole, parse_float=_finite, parse_constant=_finite)
        found: T = _adapter(kind).validate_json(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise ValueError(f"field `{field}`: {first['msg']}" if field else first["msg"]) from error
    return found


def _whole(digits: str) -> int:
    if len(digits) > len(str(-MOST)) or abs(number := int(digits)) > MOST:
        raise ValueError(f"the number {digits[:30]} is too large")
    return number


def _finite(digits: str) -> float:
    if not math.isfinite(number := float(digits)):
        raise ValueError(f"{digits[:30]} is not a number that can be used")
    return number


class _Written(GenerateJsonSchema):
    """A schema of what is written: every field always is."""

    def field_is_required(self, *_: Any, **__: Any) -> bool:
        return True


def schema(kind: Any, name: str, version: int) -> dict[str, Any]:
    """Describe what `dump` writes of this kind, or of a union of kinds, as a JSON Schema."""
    described = _adapter(kind).json_schema(mode="serialization", schema_generator=_Written)
    return {
        "$schema": _Written.schema_dialect,
        "$id": f"urn:vllm-autotune:{name}:{version}",
        "title": f"{name} of autotune, version {version}",
        **{key: value for key, value in described.items() if key != "title"},
    }
