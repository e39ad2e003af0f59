"""Types of options: a function that reads a text, and a path that may begin with `~`."""

import re
import shlex
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import click
from click.types import UnprocessedParamType

from ..errors import BadUsage
from ..vllm.config import parse_number

EffortName = Literal["quick", "standard", "soak"]
EffortAndMinutes = tuple[EffortName, float]

EFFORTS: dict[str, EffortAndMinutes] = {
    "quick": ("quick", 0.0),
    "standard": ("standard", 0.0),
    "soak": ("soak", 10.0),
}


class Parsed(click.ParamType):  # type: ignore[type-arg]  # it is generic only since click 8.4
    """What `parse` makes of a text; its ValueError says what the value must be."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self.parse = parse

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if not isinstance(value, str):
            return value  # a default
        try:
            return self.parse(value)
        except BadUsage as refusal:
            self.fail(f"{refusal.message}; {refusal.hint}", param, ctx)
        except ValueError as error:
            self.fail(f"must be {error}, not `{value}`", param, ctx)


class ShellWords(UnprocessedParamType):
    """Arguments as they are; in a variable, words as a shell would split them."""

    def split_envvar_value(self, rv: str) -> list[str]:
        try:
            return shlex.split(rv)
        except ValueError as error:
            raise click.BadParameter(f"`{rv}`: {error}") from error


class UserPath(click.Path):
    """A path; `~` is the home folder, which no shell has put there in the settings."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        with suppress(RuntimeError):  # `~x`, and there is no user x
            value = str(Path(value).expanduser()) if str(value).startswith("~") else value
        return super().convert(value, param, ctx)


def parse_tokens(text: str) -> int:
    """Read a positive whole number as vLLM does: `8k` is 8000 and `8K` is 8192."""
    number = parse_number(text)
    if number is None or number != int(number) or number < 1:
        raise ValueError("a whole number of at least 1, such as 8192, 8k (8000) or 8K (8192)")
    return int(number)


def parse_effort(text: str) -> EffortAndMinutes:
    """Read how thoroughly to test a server, with the minutes of a soak."""
    match = re.fullmatch(r"soak=(\d+(?:\.\d+)?)", text)
    if match and float(match[1]):
        return "soak", float(match[1])
    if text not in EFFORTS:
        raise ValueError("quick, standard, soak or soak=MINUTES")
    return EFFORTS[text]


def spelled(value: Any) -> tuple[str, ...]:
    """Return the words for the value of an option, none for one that says nothing."""
    match value:
        case None | False | ():
            return ()
        case True:
            return ("",)
        case (str(effort), float(minutes)):
            return (f"{effort}={minutes:g}" if minutes else effort,)
        case (int(major), int(minor)):
            return (f"{major}.{minor}",)
        case tuple():
            return tuple(map(str, value))
    return (str(value),)


def parse_ports(text: str) -> range:
    """Read a range of ports, or a single one: `8100-8199`."""
    match = re.fullmatch(r"([0-9]+)(?:-([0-9]+))?", text)
    ports = range(int(match[1]), int(match[2] or match[1]) + 1) if match else range(0)
    if not ports or ports[0] < 1 or ports[-1] > 65535:
        raise ValueError("a range of ports from 1 to 65535, such as 8100-8199")
    return ports


def parse_version(text: str) -> str:
    """Read a version of vLLM as its package has it: `0.26.0`, `v0.26.0`."""
    version = text.removeprefix("v")
    if not re.fullmatch(r"\d+(\.\d+)+[\w.+]*", version, re.ASCII):
        raise ValueError("a version of vLLM, such as 0.26.0")
    return version
