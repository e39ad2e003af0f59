"""The commands that tune, or would, and those of the cache."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import BadUsage
from ..output import say
from .given import options_of, request_of, tuned
from .group import cli
from .options import (
    SETTINGS,
    cache_option,
    card_options,
    json_option,
    request_options,
    tuning_options,
)

if TYPE_CHECKING:
    from ..report.report import Report
    from ..tuning.gather import Request

FIXED_HELP = "Arguments after -- go to vLLM as they are and are never changed."


@cli.command(context_settings=SETTINGS, epilog=FIXED_HELP)
@request_options
@card_options
@tuning_options
@click.option("--dry-run", is_flag=True, help="Launch nothing; the same as `autotune plan`.")
@json_option
def tune(dry_run: bool, as_json: bool, **what: Any) -> None:
    """Find (or recall) the first stable configuration."""
    from ..report.codec import dump  # noqa: PLC0415

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
        say(dump(report, indent=2))
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
    from ..deploy.serve import serving_flags, start_server  # noqa: PLC0415

    options = options_of(what)
    request = request_of(what)
    report, path, facts, code = tuned(request, options)
    if report.winner is None:
        _print(report, path)
        sys.exit(code)
    start_server(report.winner, facts, serving_flags(request.fixed, facts.engine))


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


@cli.group()
def cache() -> None:
    """List, look up, pass on and forget the answers kept."""


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
    from ..tuning.cache import cache_key  # noqa: PLC0415
    from ..tuning.gather import gather_facts  # noqa: PLC0415

    say(cache_key(gather_facts(request_of(what))))


@cache.command("export", context_settings=SETTINGS)
@click.argument("key")
@cache_option
def cache_export(key: str, cache_dir: Path | None) -> None:
    """Print an answer's report, for the cache of another machine with the same GPUs."""
    from ..report.codec import dump  # noqa: PLC0415

    found = _cache(cache_dir).recall(key)
    if found is None or isinstance(found, str):
        raise BadUsage(found or f"there is no answer for {key}", "autotune cache list")
    say(dump(found, indent=2))


@cache.command("import", context_settings=SETTINGS)
@click.argument("reports", nargs=-1, required=True, type=click.Path(path_type=Path))
@cache_option
def cache_import(reports: tuple[Path, ...], cache_dir: Path | None) -> None:
    """Keep the winners of reports; each is used where its key is the same, and only as data."""
    from ..report.report import read_report  # noqa: PLC0415

    for path in reports:
        report = read_report(path)
        if report.winner is None:
            raise BadUsage(f"{path} has no winner: {report.reason}", "tune again here")
        _cache(cache_dir).remember(report.cache.key, report)
        say(report.cache.key)


@cache.command("prune", context_settings=SETTINGS)
@click.option("--days", type=click.FloatRange(min=0), default=90, show_default=True)
@cache_option
def cache_prune(days: float, cache_dir: Path | None) -> None:
    """Forget answers kept more than --days ago, and those that cannot be read."""
    for key in _cache(cache_dir).prune(days):
        say(key)


@cache.command("clear", context_settings=SETTINGS)
@cache_option
def cache_clear(cache_dir: Path | None) -> None:
    """Forget every answer."""
    count = _cache(cache_dir).clear()
    say(f"{count} {'answer' if count == 1 else 'answers'} forgotten")


def _print(report: "Report", path: Path | None) -> None:
    from ..console import print_report  # noqa: PLC0415

    print_report(report, str(path) if path else None)


def _cache(folder: Path | None) -> Any:
    from ..tuning.cache import AnswerCache, default_cache  # noqa: PLC0415

    return AnswerCache(folder or default_cache())


def _plan(request: "Request", as_json: bool, cache_dir: Path | None) -> None:
    from ..report.codec import dump  # noqa: PLC0415
    from ..report.plan import make_plan  # noqa: PLC0415
    from ..tuning.gather import describe, gather_facts  # noqa: PLC0415

    facts = _cache(cache_dir).with_boots(
        gather_facts(request), lambda note: click.echo(note, err=True)
    )
    plan = make_plan(facts)
    if as_json:
        say(dump(plan, indent=2))
    else:
        from ..console.plan import print_plan  # noqa: PLC0415

        print_plan(plan, describe(facts))
    if plan.first is None:
        sys.exit(1)
