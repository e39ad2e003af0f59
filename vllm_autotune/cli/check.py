"""The command that proves a winner, or a running server, again."""

import sys
from pathlib import Path

import click

from ..console.junit import to_junit
from ..console.outcomes import print_outcome
from ..console.screen import Screen
from ..errors import BadUsage
from ..files import write_whole
from ..interruption import interruptible
from ..outcome import Environment, Outcome, Stable
from ..output import say
from ..report.codec import dump
from ..report.read import find_report
from ..report.report import Checked
from ..tuning.check import check_report
from ..tuning.check_url import check_url
from .group import ENVIRONMENT
from .options import (
    ProbeOptions,
    VllmOptions,
    json_option,
    options,
    results_folder,
    trust_option,
    wait_option,
)
from .parsed import UserPath
from .request import probe_of


@click.command(context_settings=ENVIRONMENT)
@click.argument("report", type=click.Path(path_type=Path), required=False)
@options("vllm", VllmOptions)
@trust_option
@click.option(
    "--log",
    type=UserPath(path_type=Path, dir_okay=False),
    help="Where the server's log goes.  [check.log by the report, else a temporary folder]",
)
@wait_option
@options("probe", ProbeOptions)
@click.option(
    "--junit-xml",
    type=UserPath(path_type=Path, dir_okay=False),
    help="Write the items as tests to this file, too, as CI servers read them.",
)
@click.option("--url", help="Test the server that runs there; launch nothing.  [--probe quick]")
@click.option("--served-model-name", help="With --url: the name to test.  [the first]")
@click.option(
    "--api-key",
    envvar=["VLLM_API_KEY", "OPENAI_API_KEY"],
    help="With --url: its key.  [VLLM_API_KEY, else OPENAI_API_KEY]",
)
@json_option
def check(
    report: Path | None,
    vllm: VllmOptions,
    probe: ProbeOptions,
    trust_report: bool,
    log: Path | None,
    wait: float | None,
    junit_xml: Path | None,
    url: str | None,
    served_model_name: str | None,
    api_key: str | None,
    as_json: bool,
) -> None:
    """Start a report's winner again here, and prove it again.

    A folder stands for its newest report. With --url a running server is tested instead, gently:
    others may be using it. Exit code 0: stable, 1: not.
    """
    if url == "":
        raise BadUsage("--url is empty", "write where the server listens: http://host:8000")
    asked = probe_of(probe, usual="standard" if url is None else "quick")
    outcome: Outcome
    with Screen() as screen, interruptible():
        if url is not None:
            outcome = check_url(url, served_model_name, api_key, asked, screen.progress)
            document = Checked(outcome=outcome, url=url)
        else:
            path = find_report(report or results_folder())
            trial = check_report(path, screen, asked, trust_report, log, wait or 0.0, **vars(vllm))
            outcome = trial.outcome
            document = Checked(outcome=outcome, trial=trial)
    if junit_xml:
        subject = url or (document.trial.model if document.trial else "")
        write_whole(junit_xml, to_junit(outcome, subject))
    if as_json:
        say(dump(document, indent=2))
    else:
        print_outcome(outcome)
    if not isinstance(outcome, Stable):
        sys.exit(3 if isinstance(outcome, Environment) else 1)
