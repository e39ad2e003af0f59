"""The commands that read what was left behind: reports, logs, running servers."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ..deploy import FORMATS
from ..errors import BadReport, BadUsage
from ..interruption import interruptible
from ..output import say
from .given import QUICK_EFFORT, USUAL_EFFORT, probe_of
from .group import cli
from .options import SETTINGS, json_option, probe_options


@cli.command()
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path), metavar="[REPORT]...")
@json_option
def show(paths: Sequence[Path], as_json: bool) -> None:
    """Show a report, or several as a table; a folder stands for all reports below it."""
    from ..console import print_report, print_reports  # noqa: PLC0415
    from ..report.codec import dump  # noqa: PLC0415
    from ..report.report import read_report  # noqa: PLC0415

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
        documents = [json.loads(dump(report)) for report in reports]
        say(json.dumps(documents if len(documents) > 1 else documents[0], indent=2))
    elif len(reports) == 1:
        print_report(reports[0], str(files[0]))
    else:
        print_reports(reports)


@cli.command()
@click.argument("report", type=click.Path(path_type=Path), required=False)
@click.option("--as", "form", type=click.Choice([*FORMATS]), default="shell", show_default=True)
def render(report: Path | None, form: str) -> None:
    """Print a report's winner as something to deploy; a folder stands for its newest report."""
    from ..report.report import read_report  # noqa: PLC0415

    say(FORMATS[form](read_report(report or _results())))


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
    from ..report.codec import dump  # noqa: PLC0415
    from ..report.report import (  # noqa: PLC0415
        find_report,
    )
    from ..tuning.check import check_report  # noqa: PLC0415
    from ..tuning.check_url import check_url  # noqa: PLC0415

    if url == "":
        raise BadUsage("--url is empty", "say where the server listens: http://host:8000")
    probe = probe_of(what, USUAL_EFFORT if url is None else QUICK_EFFORT)
    outcome: Outcome
    with Screen() as screen, interruptible():
        if url is not None:
            outcome = check_url(url, served_model_name, api_key, probe, screen.progress)
            line = dump(outcome)
        else:
            trial = check_report(find_report(report or _results()), screen, probe, own=own, **what)
            outcome, line = trial.outcome, dump(trial)
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


@cli.command()
@click.argument("document", type=click.Choice(["report", "plan"]), default="report")
def schema(document: str) -> None:
    """Print the JSON Schema of the report, or of what `autotune plan --json` prints.

    That of the report describes what is printed in place of either where it is refused, too.
    """
    from ..report import codec, plan, report  # noqa: PLC0415

    described = plan.Plan if document == "plan" else report.Report | report.Refused
    say(json.dumps(codec.schema(described), indent=2))


def _results() -> Path:
    """Return the folder that tunings leave their reports in, as the settings have it."""
    set_there = click.get_current_context().lookup_default("results_dir")
    return Path(os.environ.get("AUTOTUNE_RESULTS_DIR") or set_there or "results").expanduser()
