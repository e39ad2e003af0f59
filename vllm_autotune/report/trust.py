"""What a report from elsewhere may not make anybody run, open or mount."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath

from ..errors import BadReport, BadUsage
from ..files import replaceable_at
from ..vllm.config import Value, parse_arguments
from ..vllm.untrusted import forbidden
from .report import Report, Winner

TRUST_HINT = "if it is your own report, add --trust-report"

# What starts vLLM's server, behind the program (entrypoints/ of 0.6.6 to 0.33).
ENTRY_POINTS = {
    ("-m", "vllm.entrypoints.openai.api_server", "--model"): r"python[\d.]*",
    ("-m", "vllm.entrypoints.cli.main", "serve"): r"python[\d.]*",
    ("serve",): "vllm",
}
# What an alternative may ask for; another program or file it may not.
OPTIONS = frozenset(
    {
        *("--model", "--revision", "--context", "--min-context", "--concurrency", "--exact"),
        *("--memory-limit", "--headroom", "--ladder", "--skip", "--gpus", "--min-gpus", "--probe"),
        *("--probe-logprobs", "--probe-image", "--no-probe-image", "--probe-schema"),
        *("--probe-tool", "--device", "--capability"),
    }
)
HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?(:[\w.-]+)?", re.ASCII)
# What makes a folder a model's: transformers' configuration, or Mistral's own.
CONFIGURATIONS = ("config.json", "params.json")


def distrusted(report: Report) -> BadReport | None:
    """Return the refusal of a winner that could do more than serve the model that was tuned."""
    winner = report.winner
    reason = winner and (
        refused_setting(report, winner) or _refused_command(winner) or _refused_model(winner)
    )
    return BadReport(f"the report {reason}", TRUST_HINT) if reason else None


def distrusted_alternatives(report: Report) -> BadReport | None:
    """Return the refusal of alternatives that ask for more than to serve the model."""
    reasons = (_refused_request(each.command) for each in report.alternatives)
    reason = next(filter(None, reasons), None)
    return BadReport(f"the report {reason}", TRUST_HINT) if reason else None


def _refused_request(command: Sequence[str]) -> str | None:
    """Return why nobody should be told to run this command, None if it may be run."""
    end = command.index("--") if "--" in command else len(command)
    for option in (word.partition("=")[0] for word in command[2:end] if word.startswith("-")):
        if option not in OPTIONS:
            return f"asks for {option}"
    try:
        refused = forbidden(parse_arguments(command[end + 1 :]), {})
    except BadUsage:
        return "has an alternative that is no command"
    return f"sets {refused[0]}: {refused[1]}" if refused else None


def refused_setting(
    report: Report, winner: Winner, allowed: Mapping[str, Value] = {}
) -> str | None:
    """Return why an argument or a variable may not be taken over, None if all may.

    `allowed` is what the user asks for himself.
    """
    settings = {**report.fixed, **winner.args}
    settings.pop("revision", None)  # of a model whose code is not loaded
    asked = {name for name, value in settings.items() if allowed.get(name) == value}
    others = {name: value for name, value in settings.items() if name not in asked}
    refused = forbidden(others, winner.env)
    return f"sets {refused[0]}: {refused[1]}" if refused else None


def _refused_command(winner: Winner) -> str | None:
    program, *words = winner.argv[: winner.argv.index(winner.model)]
    name = ENTRY_POINTS.get(tuple(words))
    if name is None or not re.fullmatch(name, PurePath(program).name):
        return f"starts `{' '.join((program, *words))}`, which is not vLLM's server"
    if "/" not in program:
        return None
    if not program.startswith("/"):
        return f"starts {program}, wherever that is"
    folder = replaceable_at(Path(program))
    return f"starts {program}, and anybody may put a program into {folder}" if folder else None


def _refused_model(winner: Winner) -> str | None:
    model = Path(winner.model)
    if not model.is_absolute():
        named = HUB_NAME.fullmatch(winner.model) and ".." not in model.parts
        return None if named else f"names a model `{winner.model}`, which is no name on the Hub"
    try:
        missing = not model.exists()
        known = model.suffix == ".gguf" or any((model / name).is_file() for name in CONFIGURATIONS)
    except OSError:  # nobody may look there
        missing = known = False
    return None if missing or known else f"names {model} as its model, which is none"
