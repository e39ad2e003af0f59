"""Options from `autotune.toml` in the current folder."""

from collections.abc import Iterable
from dataclasses import make_dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import click
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, StrictBool, TypeAdapter

from ..errors import BadUsage
from ..toml_file import TomlFile
from .options import FOREVER

HINT = """its keys are the options of `autotune tune`, and fixed = ["--dtype", "half"] for vLLM's"""


def _word(value: Any) -> str:
    if isinstance(value, bool | list | dict):
        raise ValueError("text or a number")
    return str(value)


# Values become the words that the command line would have: options read those.
Words = list[Annotated[str, BeforeValidator(_word)]]
Several = Annotated[Words, BeforeValidator(lambda v: v if isinstance(v, list) else [v])]
One = Annotated[Several, AfterValidator(",".join)]
Wait = Annotated[
    One | None, BeforeValidator(lambda v: v if not isinstance(v, bool) else FOREVER if v else None)
]


def read_settings(path: Path, params: Iterable[click.Parameter]) -> dict[str, Any]:
    """Return a settings file by the names of the parameters. Raises BadUsage, naming the line."""
    keys = {param.opts[0].strip("-"): param for param in params}
    fields = [(p.name, Annotated[_kind(p) | None, Field(alias=k)], None) for k, p in keys.items()]
    forbid = {"__pydantic_config__": ConfigDict(extra="forbid")}
    settings: TypeAdapter[Any] = TypeAdapter(make_dataclass("Settings", fields, namespace=forbid))
    file = TomlFile.read(path, BadUsage, HINT)
    dashed = {key.replace("_", "-"): value for key, value in file.document.items()}
    found = replace(file, document=dashed).checked(settings, {1: keys})
    return {name: value for name, value in vars(found).items() if value is not None}


def _kind(param: click.Parameter) -> Any:
    if param.name == "wait":
        return Wait
    if param.nargs == -1:
        return Words
    if param.multiple:
        return Several
    return StrictBool if getattr(param, "is_flag", False) else One
