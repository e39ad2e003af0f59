"""Types and options that commands share."""

import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import click

from ..errors import BadUsage
from ..output import shown
from ..vllm.config import parse_number

SETTINGS = {"auto_envvar_prefix": "AUTOTUNE"}
SECONDS = click.FloatRange(min=0, min_open=True)
FOREVER = 1e9
SOAK_MINUTES = 10
EffortName = Literal["quick", "standard", "soak"]


class Tokens(click.ParamType[int]):
    """A positive whole number; `8k` is 8000 and `8K` is 8192, as vLLM reads them."""

    name = "tokens"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        """Return the number."""
        if isinstance(value, int):
            return value
        number = parse_number(str(value))
        if number is None or number != int(number):
            self.fail(
                f"`{value}` is no whole number; write 8192, 8k (8000) or 8K (8192)", param, ctx
            )
        if number < 1:
            self.fail(f"it must be at least 1, not {value}", param, ctx)
        return int(number)


class Bytes(click.ParamType[int]):
    """An amount of memory: 11GiB, 24G, 512MiB."""

    name = "size"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        """Return the bytes."""
        from ..units import parse_bytes  # noqa: PLC0415

        if isinstance(value, int):
            return value
        try:
            return parse_bytes(str(value))
        except BadUsage as refusal:
            self.fail(f"{refusal.message}. {refusal.hint}", param, ctx)


class Effort(click.ParamType[tuple[EffortName, float]]):
    """How hard to try a server: quick, standard, soak or soak=MINUTES."""

    name = "quick|standard|soak[=minutes]"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[EffortName, float]:
        """Return the effort, and the minutes of a soak."""
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"(?:quick|standard|soak(?:=(\d+(?:\.\d+)?))?)", str(value))
        if match is None or (match[1] and not float(match[1])):
            self.fail(f"`{value}` is none of quick, standard, soak, soak=30", param, ctx)
        if str(value).startswith("soak"):
            return "soak", float(match[1] or SOAK_MINUTES)
        return ("quick" if value == "quick" else "standard"), 0.0


class Ports(click.ParamType[range]):
    """A range of ports: 8100-8199."""

    name = "first-last"

    def convert(self, value: Any, param: Any, ctx: Any) -> range:
        """Return the ports."""
        if isinstance(value, range):
            return value
        match = re.fullmatch(r"([0-9]+)(?:-([0-9]+))?", str(value))
        if match is None:
            self.fail(f"`{value}` is no range of ports; write 8100-8199", param, ctx)
        ports = range(int(match[1]), int(match[2] or match[1]) + 1)
        if not ports or ports[0] < 1 or ports[-1] > 65535:
            self.fail(f"`{value}` holds no ports between 1 and 65535", param, ctx)
        return ports


class Capability(click.ParamType[tuple[int, int]]):
    """NVIDIA's compute capability: 8.9."""

    name = "x.y"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, int]:
        """Return both numbers."""
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"([0-9]{1,2})\.([0-9])", str(value))
        if match is None:
            self.fail(f"`{value}` is no compute capability; write 8.9", param, ctx)
        return int(match[1]), int(match[2])


class Place(click.Path):
    """A path; `~` in front is the home folder where no shell has seen to it: in the settings."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Return the path."""
        with suppress(RuntimeError):  # `~x`, and there is no user x
            value = str(Path(value).expanduser()) if str(value).startswith("~") else value
        return super().convert(value, param, ctx)


def legible(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    """Refuse what a report cannot repeat."""
    for text in [value] if isinstance(value, str) else value or ():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise click.BadParameter(
                f"`{shown(text)}` is not UTF-8: rename it, or give a symbolic link to it",
                ctx,
                param,
            ) from error
    return value


def card_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that describe a GPU that is not here."""
    options = [
        click.option(
            "--device",
            metavar="NAME",
            help="Plan for a GPU that is not here: 'RTX 4090', '2 x A100 80GB'.",
        ),
        click.option(
            "--capability",
            type=Capability(),
            help="Plan for any NVIDIA GPU, of this compute capability and the size in "
            "--memory-limit.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def probe_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say how hard a server is tried."""
    options = [
        click.option(
            "--probe",
            type=Effort(),
            metavar="EFFORT",
            help="How hard to try a server: quick, standard, soak or soak=MINUTES.  [standard]",
        ),
        click.option("--probe-logprobs", is_flag=True, help="Ask for a full prompt's logprobs."),
        click.option("--probe-image", is_flag=True, help="Ask about an image."),
        click.option("--probe-schema", is_flag=True, help="Ask for an answer by a JSON Schema."),
        click.option(
            "--probe-tool",
            is_flag=True,
            help="Ask for a tool call; vLLM needs to be given a --tool-call-parser.",
        ),
        click.option(
            "--probe-file",
            type=Place(path_type=Path),
            help="Send your own requests too: a JSON body per line, with messages or a prompt.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def vllm_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say which vLLM, and its own arguments."""
    options = [
        click.option(
            "--vllm-python",
            callback=legible,
            help="Interpreter of the environment vLLM is in.",
        ),
        click.option(
            "--vllm-command",
            callback=legible,
            help="Words that start a server, instead of the usual.",
        ),
        click.argument(
            "fixed",
            nargs=-1,
            type=click.UNPROCESSED,
            callback=legible,
            metavar="[-- VLLM_ARGS]",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def request_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say what to tune on what."""
    options = [
        click.option(
            "--model",
            required=True,
            callback=legible,
            help="Folder of the model, or its name on the Hub.",
        ),
        click.option("--revision", help="Branch, tag or commit of a model from the Hub."),
        click.option(
            "--context",
            type=Tokens(),
            help="Tokens of prompt and answer together that must fit.  [the model's own length, "
            "shortened if need be]",
        ),
        click.option(
            "--min-context",
            type=Tokens(),
            help="Shortest context you accept.  [--context, else 4096 or half the model's own]",
        ),
        click.option(
            "--concurrency",
            type=Tokens(),
            metavar="N",
            default=1,
            show_default=True,
            help="Full-length sequences that must fit at once.",
        ),
        click.option(
            "--exact",
            is_flag=True,
            help="Prove the very command that is deployed: leave no length to vLLM.",
        ),
        click.option("--gpus", help="GPUs to use, by index or UUID: 0,1.  [all visible]"),
        click.option(
            "--memory-limit",
            type=Bytes(),
            help="Let vLLM reserve at most this much of each device; rehearses a smaller card.",
        ),
        click.option(
            "--headroom",
            type=Bytes(),
            help="Keep this much of each device free.  [256MiB, on a CPU 1GiB]",
        ),
        click.option(
            "--ladder",
            type=Place(path_type=str, readable=False),
            metavar="NAME",
            default="default",
            show_default=True,
            help="default, long-context, low-latency, or the path of a .toml file.",
        ),
        click.option("--skip", multiple=True, metavar="RUNG", help="Leave a rung out; repeatable."),
    ]
    command = vllm_options(probe_options(command))
    for option in reversed(options):
        command = option(command)
    return command


def json_option(command: Callable[..., None]) -> Callable[..., None]:
    """Add --json; `main` has to know of it too."""

    def note(ctx: click.Context, _: click.Parameter, asked: bool) -> bool:
        if ctx.obj is not None:
            ctx.obj["json"] = asked
        return asked

    return click.option(
        "--json",
        "as_json",
        is_flag=True,
        envvar="AUTOTUNE_JSON",
        callback=note,
        help="Print one JSON document.",
    )(command)


results_option = click.option(
    "--results-dir",
    type=Place(path_type=Path, file_okay=False),
    default=Path("results"),
    show_default=True,
    help="Where each run leaves its logs, journal and report.",
)
cache_option = click.option(
    "--cache-dir",
    type=Place(path_type=Path, file_okay=False),
    help="Where answers are kept.  [the user's cache folder]",
)


def tuning_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say how to tune, and what may be spent."""
    options = [
        results_option,
        cache_option,
        click.option("--refresh", is_flag=True, help="Search again, whatever the cache knows."),
        click.option("--resume", is_flag=True, help="Go on with the newest unfinished run."),
        click.option(
            "--wait",
            type=SECONDS,
            is_flag=False,
            flag_value=FOREVER,
            metavar="[SECONDS]",
            help="Wait for another tuning on the same device.  [not at all; for ever]",
        ),
        click.option("--allow-busy", is_flag=True, help="Tune on GPUs that others use as well."),
        click.option("--max-launches", type=Tokens(), metavar="N", default=12, show_default=True),
        click.option("--time-budget", type=SECONDS, help="Seconds after which to stop."),
        click.option(
            "--launch-timeout",
            type=SECONDS,
            default=1800,
            show_default=True,
            help="Seconds a server may take to get ready.",
        ),
        click.option("--port-range", type=Ports(), help="Ports trials may use.  [any free one]"),
    ]
    for option in reversed(options):
        command = option(command)
    return command
