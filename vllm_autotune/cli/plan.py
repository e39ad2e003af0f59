"""The command that only works out what tuning would do."""

import sys
from pathlib import Path

import click

from ..checkpoint.published import published
from ..console.plan import print_plan
from ..output import say
from ..report.codec import dump
from ..report.plan import make_plan
from ..tuning.cache import AnswerCache, default_cache
from ..tuning.gather import describe, gather_facts
from .group import ENVIRONMENT
from .options import FIXED_HELP, PlanOptions, cache_option, json_option, options
from .request import request_of


@click.command(context_settings=ENVIRONMENT, epilog=FIXED_HELP)
@options("request", PlanOptions)
@cache_option
@json_option
def plan(request: PlanOptions, cache_dir: Path | None, as_json: bool) -> None:
    """Show the ladder and the estimates; launch nothing.

    With --device the GPU need not be here, and vLLM need not be installed. Exit code 0: there
    is something worth a launch, 1: nothing can fit.
    """
    show_plan(request, as_json, cache_dir)


def show_plan(request: PlanOptions, as_json: bool, cache_dir: Path | None) -> None:
    """Print the plan; exit with 1 where there is nothing to launch."""
    cache, asked = AnswerCache(cache_dir or default_cache()), request_of(request)
    facts = cache.with_boots(gather_facts(asked), lambda note: click.echo(note, err=True))
    made = make_plan(facts, lambda: published(facts.model, facts.checkpoint))
    if as_json:
        say(dump(made, indent=2))
    else:
        print_plan(made, describe(facts))
    if made.first is None:
        sys.exit(1)
