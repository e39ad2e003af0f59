"""The commands that tune, or would: tune, serve and plan."""

import sys
from pathlib import Path

import click

from ..console import Screen, print_report
from ..console.plan import print_plan
from ..deploy.serve import serving_flags, start_server
from ..errors import BadUsage
from ..interruption import interruptible
from ..output import say
from ..report.codec import dump
from ..report.plan import make_plan
from ..report.report import EXIT_CODES, Report
from ..search.facts import Facts
from ..tuning.cache import AnswerCache, default_cache
from ..tuning.gather import describe, gather_facts
from ..tuning.tune import tune as run_tuning
from .group import ENVIRONMENT
from .options import PlanOptions, RequestOptions, TuningOptions, cache_option, json_option, options
from .request import request_of, tuning_of

FIXED_HELP = "Arguments after -- go to vLLM as they are and are never changed."


@click.command(context_settings=ENVIRONMENT, epilog=FIXED_HELP)
@options("request", PlanOptions)
@options("tuning", TuningOptions)
@click.option("--dry-run", is_flag=True, help="Launch nothing; the same as `autotune plan`.")
@json_option
def tune(request: PlanOptions, tuning: TuningOptions, dry_run: bool, as_json: bool) -> None:
    """Find (or recall) the first stable configuration."""
    if dry_run:
        _plan(request, as_json, tuning.cache_dir)
        return
    if request.device is not None or request.capability is not None:
        raise BadUsage(
            "--device and --capability describe a GPU that is not here: nothing can start on it",
            "use `autotune plan` for it, or try its size on this GPU with --memory-limit",
        )
    report, path, _, code = _tuned(request, tuning)
    if as_json:
        say(dump(report, indent=2))
    else:
        print_report(report, path)
    sys.exit(code)


@click.command(context_settings=ENVIRONMENT, epilog=FIXED_HELP)
@options("request", RequestOptions)
@options("tuning", TuningOptions)
def serve(request: RequestOptions, tuning: TuningOptions) -> None:
    """Recall or tune, then run the winning server in the foreground.

    vLLM's --host, --port, --api-key and the like, given after --, are for this server alone.
    """
    report, path, facts, code = _tuned(request, tuning)
    if report.winner is None:
        print_report(report, path)
        sys.exit(code)
    start_server(report.winner, facts, serving_flags(request.fixed, facts.engine))


@click.command(context_settings=ENVIRONMENT, epilog=FIXED_HELP)
@options("request", PlanOptions)
@cache_option
@json_option
def plan(request: PlanOptions, cache_dir: Path | None, as_json: bool) -> None:
    """Show the ladder and the estimates; launch nothing.

    With --device the GPU need not be here, and vLLM need not be installed. Exit code 0: there
    is something worth a launch, 1: nothing can fit.
    """
    _plan(request, as_json, cache_dir)


def _tuned(request: RequestOptions, tuning: TuningOptions) -> tuple[Report, str | None, Facts, int]:
    """Tune; return the report, where it lies, the facts, and the exit code."""
    how = tuning_of(tuning)
    with Screen() as screen, interruptible() as signals:
        facts = gather_facts(request_of(request))
        screen.note(describe(facts))
        report, path = run_tuning(facts, how, screen)
    code = EXIT_CODES[report.status]
    if report.status == "interrupted" and signals:
        code = 128 + signals[0]
    return report, str(path) if path else None, facts, code


def _plan(request: PlanOptions, as_json: bool, cache_dir: Path | None) -> None:
    cache, asked = AnswerCache(cache_dir or default_cache()), request_of(request)
    facts = cache.with_boots(gather_facts(asked), lambda note: click.echo(note, err=True))
    made = make_plan(facts)
    if as_json:
        say(dump(made, indent=2))
    else:
        print_plan(made, describe(facts))
    if made.first is None:
        sys.exit(1)
