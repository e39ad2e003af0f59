"""JSON documents: every one is written, read and described here."""

from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

T = TypeVar("T")
_adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)  # one takes milliseconds to make


def dump(value: T, kind: type[T] | None = None, *, indent: int | None = None) -> str:
    """Write a value as JSON, on one line unless indented; what is unknown or unbounded is null.

    `kind` is needed where the value does not tell it: for the items of a tuple.
    """
    return _adapter(kind or type(value)).dump_json(value, indent=indent).decode()


def load(kind: type[T], text: str | bytes) -> T:
    """Read a value of this kind. Raises ValueError, which names the first field that is wrong."""
    try:
        found: T = _adapter(kind).validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise ValueError(f"field `{field}`: {first['msg']}" if field else first["msg"]) from error
    return found


def schema(kind: Any) -> dict[str, Any]:
    """Describe what `dump` writes of this kind, or of a union of kinds, as a JSON Schema."""
    return _adapter(kind).json_schema(mode="serialization")
