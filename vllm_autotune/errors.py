"""Refusals: what stops a run before it can answer, each with its exit code and a hint.

    Refusal
    ├── BadUsage        2  an option, argument or `autotune.toml` that cannot be meant
    ├── BadLadder       2  a ladder file with a mistake in it
    ├── BadReport       2  a report that is not one
    ├── BadModel        3  the model is missing, broken or cannot be read
    ├── NoDevice        3  nothing to run on
    ├── DeviceBusy      3  another tuning, or another program, holds the device
    ├── NoEngine        3  no vLLM to start
    ├── NoServer        3  nobody answers at the given address, or it is no vLLM
    ├── NoPort          3  every allowed port is in use
    ├── CannotWrite     3  results or cache cannot be written
    ├── BudgetSpent     4  launches or time ran out
    └── NotCached       5  only a cached answer was wanted, and none holds

A candidate that fails is not a refusal: it is an `Outcome`.
"""

import difflib
from collections.abc import Iterable


class Refusal(Exception):
    """Say why a run cannot go on, and what to do about it."""

    exit_code = 3

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class BadUsage(Refusal):
    exit_code = 2


class BadLadder(Refusal):
    exit_code = 2


class BadReport(Refusal):
    exit_code = 2


class BadModel(Refusal): ...


class NoDevice(Refusal): ...


class DeviceBusy(Refusal): ...


class NoEngine(Refusal): ...


class NoServer(Refusal): ...


class NoPort(Refusal): ...


class CannotWrite(Refusal): ...


class BudgetSpent(Refusal):
    exit_code = 4


class NotCached(Refusal):
    exit_code = 5


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a hint with the known word that is closest, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean `{close[0]}`?" if close else ""
