"""The commands."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .. import __version__
from ..errors import BadReport, BadUsage
from ..interruption import interruptible
from ..output import say
from .given import QUICK_EFFORT, USUAL_EFFORT, options_of, probe_of, request_of, tuned
from .options import (
    FOREVER,
    SETTINGS,
    cache_option,
    card_options,
    json_option,
    probe_options,
    request_options,
    tuning_options,
)

if TYPE_CHECKING:
    from ..report import Report
    from ..settings import Takes
    from ..survey import Request

FIXED_HELP = "Arguments after -- go to vLLM as they are and are never changed."


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
    from ..settings import read_settings  # noqa: PLC0415

    options = {flag.strip("-"): param for param in tune.params for flag in param.opts}
    found = read_settings(Path("autotune.toml"), {n: _takes(p) for n, p in options.items()})
    if isinstance(found.get("wait"), bool):
        found["wait"] = FOREVER if found["wait"] else None
    values = {str(options[name].name): value for name, value in found.items()}
    commands = dict.fromkeys(cli.commands, values)
    ctx.default_map = {**commands, "cache": dict.fromkeys(cache.commands, values)}


def _takes(param: click.Parameter) -> "Takes":
    """Return how many values an option takes."""
    if param.multiple:
        return "several"
    if getattr(param, "is_flag", False):
        return "nothing"
    return "one or nothing" if param.name == "wait" else "one"


@cli.command(context_settings=SETTINGS, epilog=FIXED_HELP)
@request_options
@card_options
@tuning_options
@click.option("--dry-run", is_flag=True, help="Launch nothing; the same as `autotune plan`.")
@json_option
def tune(dry_run: bool, as_json: bool, **what: Any) -> None:
    """Find (or recall) the first stable configuration."""
    from ..report import to_json  # noqa: PLC0415

    options = options_of(what)
    if dry_run:
        _plan(request_of(what), as_json, options.cache)
        return
    if what["device"] is not None or what["capability"] is not None:
        raise BadUsage(
            "--device and --capability describe a GPU that is not here: nothing can start on it",
            "plan for it with autotune plan, or rehearse its size on this one: --memory-limit",
        )
    report, path, _, code = tuned(request_of(what), options)
    if as_json:
        say(to_json(report))
    else:
        _print(report, path)
    sys.exit(code)


@cli.command(context_settings=SETTINGS, epilog=FIXED_HELP)
@request_options
@tuning_options
def serve(**what: Any) -> None:
    """Recall or tune, then run the winning server in the foreground.

    vLLM's --host, --port, --api-key and the like, given after --, are for this server alone.
    """
    from ..deploy import become_server, serving_words  # noqa: PLC0415

    options = options_of(what)
    request = request_of(what)
    report, path, facts, code = tuned(request, options)
    if report.winner is None:
        _print(report, path)
        sys.exit(code)
    become_server(report.winner, facts, serving_words(request.fixed))


@cli.command(context_settings=SETTINGS, epilog=FIXED_HELP)
@request_options
@card_options
@cache_option
@json_option
def plan(as_json: bool, cache_dir: Path | None, **what: Any) -> None:
    """Show the ladder, the estimates, what is skipped and why; launch nothing.

    With --device the GPU need not be here, and vLLM need not be installed. Exit code 0: there
    is something worth a launch, 1: nothing can fit.
    """
    _plan(request_of(what), as_json, cache_dir)


@cli.command()
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path), metavar="[REPORT]...")
@json_option
def show(paths: Sequence[Path], as_json: bool) -> None:
    """Show a report, or several as a table; a folder stands for all reports below it."""
    from ..console import print_report, print_reports  # noqa: PLC0415
    from ..report import read_report, to_json  # noqa: PLC0415

    files: list[Path] = []
    for path in paths or [_results()]:
        below = sorted(path.rglob("report.json")) if path.is_dir() else []
        files += below or [path]
    reports = []
    for file in files:
        try:
            reports.append(read_report(file))
        except BadReport as refusal:
            if len(files) == 1:
                raise
            click.echo(f"left out: {refusal.message}", err=True)
    if not reports:
        raise BadReport("none of these is an autotune report", "name a report.json, or its folder")
    if as_json:
        documents = [json.loads(to_json(report)) for report in reports]
        say(json.dumps(documents if len(documents) > 1 else documents[0], indent=2))
    elif len(reports) == 1:
        print_report(reports[0], str(files[0]))
    else:
        print_reports(reports)


@cli.command()
@click.argument("report", type=click.Path(path_type=Path), required=False)
@click.option("--as", "form", type=click.Choice(["shell"]), default="shell", show_default=True)
def render(report: Path | None, form: str) -> None:
    """Print a report's winner as something to deploy; a folder stands for its newest report."""
    from ..render import render  # noqa: PLC0415
    from ..report import read_report  # noqa: PLC0415

    say(render(read_report(report or _results()), form))


@cli.command(context_settings=SETTINGS)
@click.argument("report", type=click.Path(path_type=Path), required=False)
@click.option("--gpus", help="GPUs to use, by index or UUID: 0,1.  [all visible]")
@click.option("--vllm-python", help="Interpreter of the environment vLLM is in.")
@click.option("--vllm-command", help="Words that start a server, instead of the usual.")
@click.option("--own", is_flag=True, help="It is my own report: its arguments may load code.")
@probe_options
@click.option("--url", help="Probe the server that runs there; launch nothing.  [--probe quick]")
@click.option("--served-model-name", help="With --url: the name to probe.  [the first]")
@click.option(
    "--api-key",
    envvar=["VLLM_API_KEY", "OPENAI_API_KEY"],
    help="With --url: its key.  [VLLM_API_KEY, else OPENAI_API_KEY]",
)
@json_option
def check(
    report: Path | None,
    own: bool,
    as_json: bool,
    url: str | None,
    served_model_name: str | None,
    api_key: str | None,
    **what: Any,
) -> None:
    """Start a report's winner again on this machine, and prove it again.

    A folder stands for its newest report. With --url a running server is probed instead, gently:
    others may be using it. Exit code 0: stable, 1: not.
    """
    from ..console import Screen, print_outcome  # noqa: PLC0415
    from ..outcome import Environment, Outcome, Stable  # noqa: PLC0415
    from ..recheck import recheck  # noqa: PLC0415
    from ..remote import probe_running  # noqa: PLC0415
    from ..report import find_report, outcome_line, trial_line  # noqa: PLC0415

    if url == "":
        raise BadUsage("--url is empty", "say where the server listens: http://host:8000")
    probe = probe_of(what, USUAL_EFFORT if url is None else QUICK_EFFORT)
    outcome: Outcome
    with Screen() as screen, interruptible():
        if url is not None:
            outcome = probe_running(url, served_model_name, api_key, probe, screen.progress)
            line = outcome_line(outcome)
        else:
            trial = recheck(find_report(report or _results()), screen, probe, own=own, **what)
            outcome, line = trial.outcome, trial_line(trial)
    if as_json:
        say(line)
    else:
        print_outcome(outcome)
    if not isinstance(outcome, Stable):
        sys.exit(3 if isinstance(outcome, Environment) else 1)


@cli.command()
@click.argument("logs", nargs=-1, required=True, type=click.Path(allow_dash=True))
@json_option
def diagnose(logs: Sequence[str], as_json: bool) -> None:
    """Say what a vLLM log shows went wrong, in which phase, and what cures it.

    `-` reads stdin. Exit code 0: understood, 1: not.
    """
    from ..console import print_diagnosis  # noqa: PLC0415
    from ..diagnose import Diagnosis, read_log  # noqa: PLC0415

    found: list[Diagnosis] = []
    for log in logs:
        found.append(read_log(log))
        if as_json:
            say(found[-1].to_json())
        else:
            print_diagnosis(log, found[-1])
    sys.exit(0 if all(diagnosis.understood for diagnosis in found) else 1)


@cli.group()
def cache() -> None:
    """List, look up and clear the answers kept."""


@cache.command("list", context_settings=SETTINGS)
@cache_option
def cache_list(cache_dir: Path | None) -> None:
    """Print the key of every answer."""
    for key in _cache(cache_dir).keys():  # noqa: SIM118  no mapping
        say(key)


@cache.command("key", context_settings=SETTINGS)
@request_options
def cache_key(**what: Any) -> None:
    """Print the key under which `autotune tune` with these options keeps its answer."""
    from ..store import cache_key  # noqa: PLC0415
    from ..survey import survey  # noqa: PLC0415

    say(cache_key(survey(request_of(what))))


@cache.command("clear", context_settings=SETTINGS)
@cache_option
def cache_clear(cache_dir: Path | None) -> None:
    """Forget every answer."""
    count = _cache(cache_dir).clear()
    say(f"{count} {'answer' if count == 1 else 'answers'} forgotten")


@cli.command()
@click.argument("document", type=click.Choice(["report", "plan"]), default="report")
def schema(document: str) -> None:
    """Print the JSON Schema of the report, or of what `autotune plan --json` prints."""
    from .. import plan, report  # noqa: PLC0415

    described = plan if document == "plan" else report
    say(json.dumps(described.schema(), indent=2))


def _print(report: "Report", path: Path | None) -> None:
    from ..console import print_report  # noqa: PLC0415

    print_report(report, str(path) if path else None)


def _results() -> Path:
    """Return the folder that tunings leave their reports in, as the settings have it."""
    set_there = click.get_current_context().lookup_default("results_dir")
    return Path(os.environ.get("AUTOTUNE_RESULTS_DIR") or set_there or "results")


def _cache(folder: Path | None) -> Any:
    from ..store import Cache, default_cache  # noqa: PLC0415

    return Cache(folder or default_cache())


def _plan(request: "Request", as_json: bool, cache_dir: Path | None) -> None:
    from ..plan import make_plan, to_json  # noqa: PLC0415
    from ..survey import describe, survey  # noqa: PLC0415

    facts = _cache(cache_dir).pooled(survey(request), lambda note: click.echo(note, err=True))
    plan = make_plan(facts)
    if as_json:
        say(to_json(plan))
    else:
        from ..console.plan import print_plan  # noqa: PLC0415

        print_plan(plan, describe(facts))
    if plan.first is None:
        sys.exit(1)
