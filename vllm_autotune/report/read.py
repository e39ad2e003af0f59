"""Reports from files: read, and refused where they contradict themselves.

A report may come from anybody, and may have been edited. What it proves is what its launch was
started with; whatever else says how to start the winner must say the same.
"""

import json
import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from ..errors import BadReport
from ..files import read_text
from ..outcome import Stable
from ..search.trial import Trial
from ..vllm.config import LaunchConfig, Value, parse_arguments
from ..vllm.flags import PARTITION
from ..vllm.untrusted import FLAG_NAME, VARIABLE_NAME
from .codec import load
from .report import SCHEMA_VERSION, Report, Winner

COMMANDS = (("autotune", "tune"), ("autotune", "plan"))
HINT = "create it again with autotune tune"


def parse_report(text: str) -> Report:
    """Read a report of this schema version. Raises ValueError for anything else."""
    try:
        version = load(dict[str, Any], text)["schema_version"]
    except (ValueError, KeyError) as error:
        raise ValueError("not an autotune report") from error
    if version != SCHEMA_VERSION or type(version) is not int:
        raise ValueError(f"schema version {version!r}, but this autotune reads {SCHEMA_VERSION}")
    report = load(Report, text)
    for contradiction in _contradictions(report):
        raise ValueError(contradiction)
    return report


def find_report(path: Path) -> Path:
    """Return the path itself, or for a folder the newest report below it, else raise BadReport."""
    if not path.is_dir():
        return path
    found = max(path.rglob("report.json"), key=lambda p: p.stat().st_mtime, default=None)
    if found is None:
        raise BadReport(f"{path} contains no report.json", "run autotune first")
    return found


def read_report(path: Path) -> Report:
    """Read a report file, or the newest one below a folder, else raise BadReport."""
    path = find_report(path)
    try:
        return parse_report(read_text(path))
    except OSError as error:
        raise BadReport(f"{path} cannot be read: {error.strerror}", "check the path") from error
    except ValueError as error:
        raise BadReport(f"{path}: {error}", HINT) from error


def _contradictions(report: Report) -> Iterator[str]:
    winner, devices = report.winner, report.devices
    if not _is_time(report.created_at):
        yield "field `created_at`: it is no time with a time zone"
    if not devices:
        yield "field `devices`: it names none"
    if (report.status == "stable") != (winner is not None):
        has = "no winner" if winner is None else "a winner"
        yield f"field `winner`: the status is {report.status}, but there is {has}"
    names = [alternative.name for alternative in report.alternatives]
    if len(set(names)) < len(names):
        yield "field `alternatives`: two have the same name"
    for number, alternative in enumerate(report.alternatives):
        field, command = f"alternatives.{number}", alternative.command
        if command[:2] not in COMMANDS or "\0" in "".join(command):
            yield f"field `{field}.command`: it is not a command of autotune"
        if alternative.proven and winner is None:
            yield f"field `{field}.proven`: the status is {report.status}"
        elif alternative.proven and devices:
            yield from _of_winner(report, alternative.proven, f"{field}.proven")
    if winner and devices:
        yield from _of_winner(report, winner, "winner")


def _of_winner(report: Report, winner: Winner, field: str) -> Iterator[str]:
    flags, devices = (*winner.args, *winner.left_out), report.devices
    for names, allowed in ((flags, FLAG_NAME), (tuple(winner.env), VARIABLE_NAME)):
        for name in names:
            if not allowed.fullmatch(name):
                yield f"field `{field}`: {json.dumps(name)} is no name of an argument or a variable"
    if "\0" in "".join((*winner.argv, *winner.env.values())):
        yield f"field `{field}.argv`: it has a character that no command can hold"
    config = LaunchConfig(winner.model, winner.args)
    derived = (winner.model, *config.flags())
    if winner.argv[1:][-len(derived) :] != derived:
        yield f"field `{field}.argv`: it says something else than its `model` and `args`"
    limits = {"max-model-len": winner.max_model_len, "max-num-seqs": winner.max_num_seqs}
    for name, served in limits.items():
        if config.integer(name, served) != served:
            yield f"field `{field}.args.{name}`: it serves {served}"
    for name, value in report.fixed.items():
        if winner.args.get(name) != value:
            yield f"field `{field}.args.{name}`: `fixed` says something else"
    count, valid_for = min(max(1, config.world_size), len(devices)), winner.valid_for
    proven_on = (count, devices[0].name, devices[0].memory_bytes)
    if (valid_for.count, valid_for.device, valid_for.memory_bytes) != proven_on:
        yield f"field `{field}.valid_for`: `devices` says something else"
    stages = winner.env.get(PARTITION)
    if stages is not None and LaunchConfig("", winner.args, winner.env).partition is None:
        yield f"field `{field}.env.{PARTITION}`: {stages} is no number of layers for each stage"
    if len(valid_for.needed_each) not in (0, count):
        yield f"field `{field}.valid_for.needed_each`: it runs on {count} devices"
    if valid_for.needed_each and valid_for.needed_bytes not in valid_for.needed_each:
        yield f"field `{field}.valid_for.needed_each`: `needed_bytes` says something else"
    if valid_for.needed_bytes < winner.memory.reserved:
        yield f"field `{field}.valid_for.needed_bytes`: it reserves more than that"
    if not any(_proves(trial, winner) for trial in report.trials):
        yield f"field `{field}`: no launch in `trials` was started so, and stable"


def _is_time(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


def _proves(trial: Trial, winner: Winner) -> bool:
    """Tell whether a launch was the winner's, whose context may be what vLLM chose in it."""
    outcome = trial.outcome
    if not isinstance(outcome, Stable) or outcome.certificate != winner.certificate:
        return False
    if trial.predicted.reserved_bytes != winner.memory.reserved:
        return False
    return trial.env == winner.env and _parts(trial.argv) == _parts(winner.argv)


def _parts(argv: Sequence[str]) -> tuple[Sequence[str], dict[str, Value]]:
    """Return the words that a command begins with, and its arguments but for the context."""
    flags = (n for n, word in enumerate(argv) if re.match("--(?!model$)[A-Za-z]", word))
    first = next(flags, len(argv))
    args = parse_arguments(argv[first:])
    return argv[:first], {name: args[name] for name in args if name != "max-model-len"}
