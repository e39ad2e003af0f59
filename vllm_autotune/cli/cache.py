"""The commands of the cache."""

import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import click

from ..console.screen import Screen
from ..errors import BadReport, BadUsage, NoEngine, NotCached
from ..files import MOST_BYTES
from ..output import say
from ..report.codec import dump
from ..report.read import HINT, parse_report, read_report
from ..report.report import Answers, Report
from ..tuning.cache import AnswerCache, cache_key, default_cache
from ..tuning.gather import gather_facts
from .group import ENVIRONMENT
from .options import KeyOptions, cache_option, json_option, options
from .request import request_of


@click.group()
@click.pass_context
def cache(ctx: click.Context) -> None:
    """List, look up, pass on and remove the stored answers."""
    ctx.default_map = dict.fromkeys(cache.commands, ctx.default_map)


@cache.command("list", context_settings=ENVIRONMENT)
@cache_option
@json_option
def list_(cache_dir: Path | None, as_json: bool) -> None:
    """Print the key of every answer; with --json its age, device, model and context as well."""
    answers = _answers(cache_dir)
    if as_json:
        say(dump(Answers(answers=tuple(answers.stored())), indent=2))
        return
    for stored in answers.keys():  # noqa: SIM118  no mapping
        say(stored)


@cache.command(context_settings=ENVIRONMENT)
@options("request", KeyOptions)
def key(request: KeyOptions) -> None:
    """Print the key under which `autotune tune` with these options stores its answer.

    With --device and --vllm-version neither the GPU nor vLLM need be here; vLLM's own arguments
    must then have their full names.
    """
    asked = request_of(request)
    if request.count > 1:
        if request.device is None:
            hint = "name the GPU with --device, or select GPUs of this machine with --gpus 0,1"
            raise BadUsage("--count counts the GPUs of --device, which is missing", hint)
        asked = replace(asked, device=f"{request.count} x {request.device}")
    facts = gather_facts(asked)
    if not facts.engine.installed and request.vllm_version is None:
        hint = "name its version: --vllm-version 0.26.0"
        raise NoEngine("the key depends on vLLM's version, and no vLLM is installed here", hint)
    say(cache_key(facts))


@cache.command(context_settings=ENVIRONMENT)
@click.argument("key")
@cache_option
def export(key: str, cache_dir: Path | None) -> None:
    """Print an answer's report, for the cache of another machine with the same GPUs.

    Exit code 5: there is none.
    """
    found = _answers(cache_dir).recall(key)
    if found is None or isinstance(found, str):
        reason = found or f"the cache has no answer for {key}"
        raise NotCached(reason, "`autotune cache list` shows its keys")
    say(dump(found, indent=2))


@cache.command("import", context_settings=ENVIRONMENT)
@click.argument(
    "reports", nargs=-1, required=True, type=click.Path(path_type=Path, allow_dash=True)
)
@click.option("--force", is_flag=True, help="Replace newer answers, too.")
@cache_option
def import_(reports: tuple[Path, ...], force: bool, cache_dir: Path | None) -> None:
    """Store the winners of reports, and print their keys; `-` reads one from stdin.

    Each is used where its key is the same and what it says is what is asked for then. A newer
    answer is kept. Exit code 2: at least one report was refused, the others are stored.
    """
    cache, screen, refused = _answers(cache_dir), Screen(), False
    for path in reports:
        try:
            report = _read_stdin() if str(path) == "-" else read_report(path)
            if report.winner is None:
                raise BadReport(f"{path} has no winner: {report.reason}", "tune again here")
            kept = None if force else cache.recall(report.cache.key)
            if isinstance(kept, Report) and _when(kept) > _when(report):
                then = f"{path} is of {report.created_at}, the cache has one of {kept.created_at}"
                screen.note(f"not imported: {then}; --force replaces it")
                continue
            cache.remember(report.cache.key, report)
            say(report.cache.key)
        except BadReport as refusal:
            screen.refuse(refusal)
            refused = True
    if refused:
        sys.exit(BadReport.exit_code)


@cache.command(context_settings=ENVIRONMENT)
@click.option("--days", type=click.FloatRange(min=0), default=90, show_default=True)
@cache_option
def prune(days: float, cache_dir: Path | None) -> None:
    """Remove answers stored more than --days ago, and those that cannot be read."""
    for removed in _answers(cache_dir).prune(days):
        say(removed)


@cache.command(context_settings=ENVIRONMENT)
@cache_option
def clear(cache_dir: Path | None) -> None:
    """Remove every answer."""
    count = _answers(cache_dir).clear()
    say(f"{count} {'answer' if count == 1 else 'answers'} removed")


def _answers(folder: Path | None) -> AnswerCache:
    return AnswerCache(folder or default_cache())


def _read_stdin() -> Report:
    try:
        return parse_report(sys.stdin.buffer.read(MOST_BYTES).decode())
    except ValueError as error:
        raise BadReport(f"stdin: {error}", HINT) from error


def _when(report: Report) -> datetime:
    return datetime.fromisoformat(report.created_at)
