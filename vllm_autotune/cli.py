"""The command line. The only module that knows click, and the only one that exits."""

import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from . import __version__
from .config import parse_number
from .errors import BadUsage, CannotWrite, Refusal
from .interruption import Interrupted, interruptible

if TYPE_CHECKING:
    from .survey import Request

FIXED_HELP = "Arguments after -- go to vLLM as they are and are never changed."


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
        from .memory import parse_bytes  # noqa: PLC0415

        if isinstance(value, int):
            return value
        try:
            return parse_bytes(str(value))
        except BadUsage as refusal:
            self.fail(f"{refusal.message}. {refusal.hint}", param, ctx)


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


class TuneByDefault(click.Group):
    """`autotune --model M` means `autotune tune --model M`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Insert `tune` where the first word is an option that is not the group's own."""
        if args and args[0].startswith("-") and args[0] not in ("-h", "--help", "--version"):
            args = ["tune", *args]
        return super().parse_args(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        """Complete the options of `tune` as well."""
        found = super().shell_complete(ctx, incomplete)
        if incomplete.startswith("-"):
            found += tune.shell_complete(click.Context(tune, parent=ctx), incomplete)
        return found


@click.group(
    cls=TuneByDefault,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="autotune")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Find, prove and record the first stable vLLM launch configuration for the GPU at hand.

    `autotune --model M` is `autotune tune --model M`.

    Exit codes: 0 stable (or recalled), 1 it does not fit, 2 usage, 3 the environment, 4 a
    budget is spent, 130/143 interrupted.

    Every option of tune and plan can also be set as AUTOTUNE_<OPTION>, or in autotune.toml.
    """
    from .settings import read_settings  # noqa: PLC0415

    options = {flag.strip("-"): param for param in tune.params for flag in param.opts}
    found = read_settings(Path("autotune.toml"), options)
    values = {str(options[name].name): value for name, value in found.items()}
    commands = dict.fromkeys(cli.commands, values)
    ctx.default_map = {**commands, "cache": dict.fromkeys(cache.commands, values)}


def request_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say what to tune on what."""
    options = [
        click.option("--model", required=True, help="Folder of the model, or its name on the Hub."),
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
            help="Shortest context you accept.  [--context, else 4096]",
        ),
        click.option(
            "--concurrency",
            type=Tokens(),
            default=1,
            show_default=True,
            help="Full-length sequences that must fit at once.",
        ),
        click.option("--gpus", help="GPUs to use, by index or UUID: 0,1.  [all visible]"),
        click.option(
            "--memory-limit",
            type=Bytes(),
            help="Use at most this much of each device; rehearses a smaller card.",
        ),
        click.option(
            "--headroom",
            type=Bytes(),
            help="Keep this much of each device free.  [512MiB, on a CPU 1GiB]",
        ),
        click.option(
            "--ladder",
            default="default",
            show_default=True,
            help="default, long-context, low-latency, or the path of a .toml file.",
        ),
        click.option("--skip", multiple=True, metavar="RUNG", help="Leave a rung out; repeatable."),
        click.option("--vllm-python", help="Interpreter of the environment vLLM is in."),
        click.option("--vllm-command", help="Words that start a server, instead of the usual."),
        click.argument("fixed", nargs=-1, type=click.UNPROCESSED, metavar="[-- VLLM_ARGS]"),
    ]
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
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("results"),
    show_default=True,
    help="Where each run leaves its logs, journal and report.",
)
cache_option = click.option(
    "--cache-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where answers are kept.  [the user's cache folder]",
)
SETTINGS = {"auto_envvar_prefix": "AUTOTUNE"}
SECONDS = click.FloatRange(min=0, min_open=True)


@cli.command(context_settings=SETTINGS, epilog=FIXED_HELP)
@request_options
@results_option
@cache_option
@click.option("--refresh", is_flag=True, help="Search again, whatever the cache knows.")
@click.option("--max-launches", type=Tokens(), default=12, show_default=True)
@click.option("--time-budget", type=SECONDS, help="Seconds after which to stop.")
@click.option(
    "--launch-timeout",
    type=SECONDS,
    default=1800,
    show_default=True,
    help="Seconds a server may take to get ready.",
)
@click.option("--port-range", type=Ports(), help="Ports trials may use.  [any free one]")
@click.option("--dry-run", is_flag=True, help="Launch nothing; the same as `autotune plan`.")
@json_option
def tune(
    results_dir: Path,
    cache_dir: Path | None,
    refresh: bool,
    max_launches: int,
    time_budget: float | None,
    launch_timeout: float,
    port_range: range | None,
    dry_run: bool,
    as_json: bool,
    **what: Any,
) -> None:
    """Find (or recall) the first stable configuration."""
    if dry_run:
        _plan(_request(what), as_json)
        return
    from .console import Screen, print_report  # noqa: PLC0415
    from .report import EXIT_CODES, to_json  # noqa: PLC0415
    from .store import default_cache, make_folder  # noqa: PLC0415
    from .survey import describe, survey  # noqa: PLC0415
    from .tuner import Options, tune  # noqa: PLC0415

    options = Options(
        results=results_dir,
        cache=cache_dir or default_cache(),
        refresh=refresh,
        max_launches=max_launches,
        launch_seconds=launch_timeout,
        until=time.monotonic() + time_budget if time_budget else None,
        ports=port_range,
    )
    with Screen() as screen, interruptible() as signals:
        facts = survey(_request(what))
        make_folder(results_dir)
        screen.note(describe(facts))
        report, path = tune(facts, options, screen)
    if as_json:
        click.echo(to_json(report))
    else:
        print_report(report, str(path) if path else None)
    code = EXIT_CODES[report.status]
    sys.exit(128 + signals[0] if report.status == "interrupted" and signals else code)


@cli.command(context_settings=SETTINGS, epilog=FIXED_HELP)
@request_options
@json_option
def plan(as_json: bool, **what: Any) -> None:
    """Show the ladder, the estimates, what is skipped and why; launch nothing."""
    _plan(_request(what), as_json)


@cli.command()
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path), metavar="[REPORT]...")
@json_option
def show(paths: Sequence[Path], as_json: bool) -> None:
    """Show a report, or several as a table; a folder stands for all reports below it."""
    from .console import print_report, print_reports  # noqa: PLC0415
    from .report import read_report, to_json  # noqa: PLC0415

    files: list[Path] = []
    for path in paths or [Path("results")]:
        below = sorted(path.rglob("report.json")) if path.is_dir() else []
        files += below or [path]
    reports = [read_report(file) for file in files]
    if as_json:
        documents = [json.loads(to_json(report)) for report in reports]
        click.echo(json.dumps(documents if len(documents) > 1 else documents[0], indent=2))
    elif len(reports) == 1:
        print_report(reports[0], str(files[0]))
    else:
        print_reports(reports)


@cli.command()
@click.argument("report", type=click.Path(path_type=Path), default=Path("results"))
@click.option("--as", "form", type=click.Choice(["shell"]), default="shell", show_default=True)
def render(report: Path, form: str) -> None:
    """Print a report's winner as something to deploy; a folder stands for its newest report."""
    from .render import render  # noqa: PLC0415
    from .report import read_report  # noqa: PLC0415

    click.echo(render(read_report(report), form))


@cli.command()
@click.argument("logs", nargs=-1, required=True, type=click.Path(allow_dash=True))
@json_option
def diagnose(logs: Sequence[str], as_json: bool) -> None:
    """Say what a vLLM log shows went wrong, in which phase, and what cures it.

    `-` reads stdin. Exit code 0: understood, 1: not.
    """
    from .console import print_diagnosis  # noqa: PLC0415
    from .diagnose import Diagnosis, read_log  # noqa: PLC0415

    found: list[Diagnosis] = []
    for log in logs:
        found.append(read_log(log))
        if as_json:
            click.echo(found[-1].to_json())
        else:
            print_diagnosis(log, found[-1].outcome, found[-1].cures)
    sys.exit(0 if all(diagnosis.understood for diagnosis in found) else 1)


@cli.group()
def cache() -> None:
    """List, look up and clear the answers kept."""


@cache.command("list", context_settings=SETTINGS)
@cache_option
def cache_list(cache_dir: Path | None) -> None:
    """Print the key of every answer."""
    for key in _cache(cache_dir).keys():  # noqa: SIM118  no mapping
        click.echo(key)


@cache.command("key", context_settings=SETTINGS)
@request_options
def cache_key(**what: Any) -> None:
    """Print the key under which `autotune tune` with these options keeps its answer."""
    from .store import cache_key  # noqa: PLC0415
    from .survey import survey  # noqa: PLC0415

    click.echo(cache_key(survey(_request(what))))


@cache.command("clear", context_settings=SETTINGS)
@cache_option
def cache_clear(cache_dir: Path | None) -> None:
    """Forget every answer."""
    count = _cache(cache_dir).clear()
    click.echo(f"{count} {'answer' if count == 1 else 'answers'} forgotten")


@cli.command()
def schema() -> None:
    """Print the JSON Schema of the report."""
    from .report import schema  # noqa: PLC0415

    click.echo(json.dumps(schema(), indent=2))


def _cache(folder: Path | None) -> Any:
    from .store import Cache, default_cache  # noqa: PLC0415

    return Cache(folder or default_cache())


def _plan(request: "Request", as_json: bool) -> None:
    from .console import print_plan  # noqa: PLC0415
    from .search import plan  # noqa: PLC0415
    from .survey import describe, survey  # noqa: PLC0415

    facts = survey(request)
    rows = list(plan(facts))
    if as_json:
        click.echo(json.dumps([_plan_row(*row) for row in rows], indent=2))
    else:
        click.echo(describe(facts), err=True)
        print_plan(rows)


def _plan_row(rung: Any, candidate: Any, why: str) -> dict[str, Any]:
    return {
        "rung": rung.name,
        "gives_up": rung.gives_up,
        "expectation": why,
        "flags": candidate.config.flags() if candidate else None,
        "fits": candidate.predicted.fits if candidate else None,
    }


def _request(what: dict[str, Any]) -> "Request":
    from .ladder import find_ladder, read_ladder  # noqa: PLC0415
    from .survey import Request  # noqa: PLC0415

    ladder = read_ladder(find_ladder(what.pop("ladder"))).without(what.pop("skip"))
    return Request(ladder=ladder, **what)


def _refusal_report(refusal: Refusal) -> str:
    """Return the JSON document of a run that was refused."""
    return json.dumps(
        {
            "schema_version": 1,
            "status": "refused",
            "reason": refusal.message,
            "hint": refusal.hint,
            "winner": None,
            "trials": [],
        },
        indent=2,
    )


def main() -> NoReturn:
    """Run the command line; every end has its exit code."""
    asked = {"json": False}
    try:
        cli.main(prog_name="autotune", standalone_mode=False, obj=asked)
        sys.exit(0)
    except Refusal as refusal:
        _refuse(refusal, asked["json"])
    except click.exceptions.Exit as ended:
        sys.exit(ended.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (Interrupted, click.Abort) as signal:
        sys.exit(getattr(signal, "exit_code", 130))
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output went away: nothing to say to nobody
        sys.exit(0)
    except OSError as error:
        reason = f"{error.filename or 'output'}: {error.strerror or error}"
        _refuse(CannotWrite(reason, "check the disk and the folder's rights"), asked["json"])


def _refuse(refusal: Refusal, as_json: bool) -> NoReturn:
    from .console import Screen  # noqa: PLC0415

    if as_json:
        click.echo(_refusal_report(refusal))
    Screen().refuse(refusal)
    sys.exit(refusal.exit_code)
