"""The commands that tune: tune and serve."""

import sys
from dataclasses import replace

import click

from ..console.screen import Screen
from ..errors import BadUsage
from ..interruption import interruptible
from ..output import say
from ..report.codec import dump
from ..report.report import EXIT_CODES, Report
from ..search.facts import Facts
from ..tuning.cache import cache_key
from ..tuning.gather import gather_facts
from ..tuning.journal import usual_times
from ..tuning.tune import tune as run_tuning
from .group import ENVIRONMENT
from .options import (
    FIXED_HELP,
    PlanOptions,
    RequestOptions,
    TuningOptions,
    json_option,
    options,
)
from .request import request_of, tuning_of


@click.command(context_settings=ENVIRONMENT, epilog=FIXED_HELP)
@options("request", PlanOptions)
@options("tuning", TuningOptions)
@click.option("--dry-run", is_flag=True, help="Launch nothing; the same as `autotune plan`.")
@json_option
def tune(request: PlanOptions, tuning: TuningOptions, dry_run: bool, as_json: bool) -> None:
    """Find (or recall) the first stable configuration."""
    if dry_run:
        from .plan import show_plan  # noqa: PLC0415  an answer is recalled quicker without

        show_plan(request, as_json, tuning.cache_dir)
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
        _print(report, path)
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
        _print(report, path)
        sys.exit(code)
    from ..deploy.serve import serving_flags, start_server  # noqa: PLC0415  as above

    start_server(report.winner, facts, serving_flags(request.fixed, facts.engine))


def _print(report: Report, path: str | None) -> None:
    from ..console.reports import print_report  # noqa: PLC0415  as above

    print_report(report, path)


def _tuned(request: RequestOptions, tuning: TuningOptions) -> tuple[Report, str | None, Facts, int]:
    """Tune; return the report, where it lies, the facts, and the exit code."""
    how = tuning_of(tuning)
    with Screen() as screen, interruptible() as signals:
        # Who waits for another tuning wants its answer, so its GPUs count.
        keep_busy = tuning.allow_busy or tuning.wait is not None
        facts = gather_facts(replace(request_of(request), keep_busy=keep_busy))
        screen.usual = lambda devices: usual_times(how.results, cache_key(facts), devices)
        report, path = run_tuning(facts, how, screen)
    code = EXIT_CODES[report.status]
    if report.status == "interrupted" and signals:
        code = 128 + signals[0]
    return report, str(path) if path else None, facts, code
