"""Options that commands share, in groups: a command gets the options of a group as one object."""

# ruff: noqa: RUF009  a field that declares an option has no default

import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any

import click

from ..files import user_path
from ..output import shown
from ..units import parse_bytes, parse_capability
from .parsed import (
    EffortAndMinutes,
    Parsed,
    ShellWords,
    UserPath,
    parse_effort,
    parse_ports,
    parse_tokens,
    parse_version,
)

FIXED_HELP = "Arguments after -- go to vLLM as they are and are never changed."
FOREVER = 1e9
CACHE_HELP = "Where answers are stored.  [the user's cache folder]"

# As in search/alternatives.py.
ALTERNATIVES = (
    *("longest-context", "most-sequences", "nothing-quantized", "all-gpus", "fewest-gpus"),
    "replicas",
)

SECONDS = click.FloatRange(min=0, min_open=True)
SIZE = Parsed("size", parse_bytes)
TOKENS = Parsed("tokens", parse_tokens)
COUNT = Parsed("n", parse_tokens)
FOLDER = UserPath(path_type=Path, file_okay=False)
WAIT: Mapping[str, Any] = {
    "help": "Wait for another run on the same device.  [do not wait; without SECONDS: forever]",
    "type": SECONDS,
    "is_flag": False,
    "flag_value": FOREVER,
    "metavar": "[SECONDS]",
}

Command = Callable[..., None]


def option(help: str, **attrs: Any) -> Any:  # noqa: A002  as click calls it
    """Declare a field of a group as the option of its name, a flag where it is a bool."""
    return field(metadata={"help": help, **attrs})


def options(name: str, group: type[Any]) -> Callable[[Command], Command]:
    """Add the options of a group to a command, which gets them as one object of this name."""

    def decorate(command: Command) -> Command:
        def grouped(**values: Any) -> None:
            values[name] = group(**{each.name: values.pop(each.name) for each in fields(group)})
            command(**values)

        decorated: Command = functools.update_wrapper(grouped, command)
        for each in reversed(fields(group)):
            decorated = _declared(each)(decorated)
        return decorated

    return decorate


def _declared(each: "Field[Any]") -> Callable[[Command], Command]:
    if "help" not in each.metadata:  # which arguments do not have
        return click.argument(each.name, callback=legible, **each.metadata)
    usual = {"is_flag": each.type is bool or None, "show_default": True, "callback": legible}
    name = each.name.replace("_", "-")
    if each.type == (bool | None):  # neither of the two is a third answer
        usual |= {"is_flag": True, "default": None}
        name = f"{name}/--no-{name}"
    return click.option(f"--{name}", **{**usual, **each.metadata})


def legible(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    """Refuse text that is not UTF-8: a report could not hold it. Folders are not in a report."""
    texts = value if isinstance(value, tuple) else (value,)
    for text in () if param.type is FOLDER else texts:
        try:
            str(text).encode()
        except UnicodeEncodeError as error:
            message = f"`{shown(text)}` is not UTF-8: rename it, or give a symbolic link to it"
            raise click.BadParameter(message, ctx, param) from error
    return value


@dataclass(frozen=True, kw_only=True)
class ProbeOptions:
    """How thoroughly a server is tested."""

    probe: EffortAndMinutes | None = option(
        "How thoroughly to test a server: quick, standard, soak or soak=MINUTES.  [standard]",
        type=Parsed("effort", parse_effort),
    )
    soak_horizon: float | None = option(
        "How many hours memory that grows in a soak must suffice for.  [24]",
        metavar="HOURS",
        type=click.FloatRange(min=0, min_open=True),
    )
    probe_logprobs: bool = option("Ask for a full prompt's logprobs.")
    probe_image: bool | None = option(
        "Require answers about images, or ask for none.  [ask where the model takes images]"
    )
    probe_schema: bool = option("Ask for an answer that fits a JSON Schema.")
    probe_tool: bool = option("Ask for a tool call; vLLM then needs a --tool-call-parser.")
    probe_file: Path | None = option(
        "Send your own requests too: a JSON body per line, with messages or a prompt.",
        type=UserPath(path_type=Path),
    )


@dataclass(frozen=True, kw_only=True)
class VllmOptions:
    """Which vLLM runs, on which GPUs."""

    gpus: str | None = option("GPUs that may be used, by index or UUID: 0,1.  [all visible]")
    vllm_python: str | None = option("Python of the environment that vLLM is installed in.")
    vllm_command: str | None = option("Command that starts a server, instead of vLLM's own.")


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """What to tune, and how."""

    model: str = option("Folder of the model, or its name on the Hub.", required=True)
    revision: str | None = option("Branch, tag or commit of a model from the Hub.")
    context: int | None = option(
        "Tokens of prompt and answer together that must fit.  [the model's own length, shortened "
        "if need be]",
        type=TOKENS,
    )
    min_context: int | None = option(
        "Shortest context you accept.  [--context, else 4096 or half the model's own]", type=TOKENS
    )
    concurrency: int = option("Full-length sequences that must fit at once.", type=COUNT, default=1)
    exact: bool = option("Test exactly the command that is deployed: vLLM chooses no length.")
    min_gpus: int = option("Least number of GPUs to use.", type=COUNT, default=1)
    memory_limit: int | None = option(
        "Most memory that vLLM may reserve on each device; simulates a smaller card.", type=SIZE
    )
    headroom: int | None = option(
        "Memory to keep free on each device.  [256MiB, on a CPU 1GiB]", type=SIZE
    )
    ladder: str = option(
        "default, long-context, low-latency, all-gpus, or the path of a .toml file.",
        type=UserPath(path_type=str, readable=False),
        metavar="NAME",
        default="default",
    )
    skip: tuple[str, ...] = option("Leave a rung out; repeatable.", multiple=True, metavar="RUNG")


@dataclass(frozen=True, kw_only=True)
class RequestOptions(ProbeOptions, VllmOptions, ModelOptions):
    """What is asked of a tuning; the options come in the order of the bases, the last one first."""

    fixed: tuple[str, ...] = field(
        metadata={
            "nargs": -1,
            "type": ShellWords(),
            "metavar": "[-- VLLM_ARGS]",
            "envvar": "AUTOTUNE_FIXED",
        }
    )


@dataclass(frozen=True, kw_only=True)
class PlanOptions(RequestOptions):
    """A request that may be about a GPU that is not here."""

    device: str | None = option(
        "Plan for GPUs that are not here: 'RTX 4090', '2 x A100 80GB', 'L40S + RTX 3090'.",
        metavar="NAME",
    )
    capability: tuple[int, int] | None = option(
        "Plan for an NVIDIA GPU of this compute capability and the size in --memory-limit.",
        type=Parsed("x.y", parse_capability),
    )


@dataclass(frozen=True, kw_only=True)
class KeyOptions(RequestOptions):
    """A request whose GPU and vLLM need not be here."""

    device: str | None = option(
        "The GPU that the key is for, if it is not here: H200, '2 x A100 80GB'.", metavar="NAME"
    )
    count: int = option("With --device: how many of them.", type=COUNT, default=1)
    vllm_version: str | None = option(
        "The vLLM that the key is for, if it is not here: 0.26.0.",
        type=Parsed("version", parse_version),
    )


@dataclass(frozen=True, kw_only=True)
class TuningOptions:
    """How to tune, and what may be spent."""

    results_dir: Path = option(
        "Where each run writes its logs, journal and report.", type=FOLDER, default=Path("results")
    )
    cache_dir: Path | None = option(CACHE_HELP, type=FOLDER)
    refresh: bool = option("Search again, whatever is cached.")
    cached_only: bool = option("Launch nothing: recall, or fail with exit code 5.")
    resume: bool = option("Continue the newest unfinished run.")
    wait: float | None = option(**WAIT)
    allow_busy: bool = option("Use GPUs even if other processes use them.")
    also: tuple[str, ...] = option(
        "Prove this alternative, too, after the winner; repeatable.",
        multiple=True,
        type=click.Choice(ALTERNATIVES),
        show_choices=True,
    )
    max_launches: int = option("Launches after which to stop.", type=COUNT, default=12)
    time_budget: float | None = option("Seconds after which to stop.", type=SECONDS)
    launch_timeout: float = option(
        "Seconds a server may take to get ready.", type=SECONDS, default=1800
    )
    port_range: range | None = option(
        "Ports to use for trials.  [any free one]", type=Parsed("first-last", parse_ports)
    )


cache_option = click.option("--cache-dir", type=FOLDER, help=CACHE_HELP)
wait_option = click.option("--wait", **WAIT)
trust_option = click.option(
    "--trust-report", is_flag=True, help="Take over what could load code or open files, too."
)
json_option = click.option(
    "--json",
    "as_json",
    is_flag=True,
    envvar="AUTOTUNE_JSON",
    # `main` has to know of it too, where the command is refused
    callback=lambda ctx, _, asked: ctx.ensure_object(dict).setdefault("json", asked),
    help="Print one JSON document.",
)


def results_folder() -> Path:
    """Return the folder that tunings leave their reports in, as the settings have it."""
    set_there = click.get_current_context().lookup_default("results_dir")
    return user_path(os.environ.get("AUTOTUNE_RESULTS_DIR") or set_there or "results")
