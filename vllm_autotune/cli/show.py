"""The commands that read what there is: reports, their schema, and logs."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import click

from ..console.frame import to_csv
from ..console.github import to_github_output
from ..console.junit import report_to_junit
from ..console.markdown import report_to_markdown, reports_to_markdown
from ..console.outcomes import print_diagnosis
from ..console.reports import print_report, print_reports
from ..console.screen import Screen
from ..deploy import FORMATS, WITH_VOLUME, KeySource, ModelVolume, Service, added_arguments
from ..diagnose import read_log
from ..errors import BadReport, BadUsage
from ..output import can_say, say
from ..report import codec
from ..report.alternatives import proven_alternative
from ..report.documents import DOCUMENTS
from ..report.read import read_report
from ..report.report import SCHEMA_VERSION
from ..report.trust import distrusted, distrusted_alternatives
from .group import ENVIRONMENT
from .options import json_option, results_folder, trust_option
from .parsed import Parsed

SHOWN = ("text", "markdown", "html", "json", "csv", "junit", "github-output")


@click.command(context_settings=ENVIRONMENT)
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path), metavar="[REPORT]...")
@click.option(
    "--as",
    "form",
    envvar="AUTOTUNE_SHOW_AS",
    type=click.Choice(SHOWN),
    default="text",
    show_default=True,
    help="What to write: markdown for the summary of a CI job, html for one page to look at.",
)
@trust_option
@json_option
def show(paths: tuple[Path, ...], form: str, trust_report: bool, as_json: bool) -> None:
    """Show a report, or several as a table.

    A folder stands for all reports below it. --json is --as json.
    """
    files: list[Path] = []
    for given in paths or [results_folder()]:
        below = sorted(given.rglob("report.json")) if given.is_dir() else []
        files += below or [given]
    named = []
    for file in files:
        try:
            named.append((str(file), read_report(file)))
        except BadReport as refusal:
            if len(files) == 1:
                raise
            Screen().note(f"left out: {refusal.message}")
    if not named:
        message = f"none of the {len(files)} files is an autotune report"
        raise BadReport(message, "give a report.json, or its folder")
    path, report = named[0]
    distrust = None if trust_report else distrusted(report)
    if as_json or form == "json":
        documents = [json.loads(codec.dump(report)) for _, report in named]
        say(json.dumps(documents if len(documents) > 1 else documents[0], indent=2))
    elif form == "csv":
        say(to_csv(named))
    elif form == "html":
        from ..console.page import report_to_html, reports_to_html  # noqa: PLC0415  it draws

        one = len(named) == 1
        say(report_to_html(report, distrust) if one else reports_to_html(named))
    elif form == "junit":
        say(report_to_junit(report for _, report in named))
    elif form == "github-output":
        if len(named) > 1:
            raise BadUsage("the outputs of a step are those of one report", "name one report.json")
        say(to_github_output(report, distrust))
    elif form == "markdown":
        one = len(named) == 1
        say(report_to_markdown(report, distrust) if one else reports_to_markdown(named))
    elif len(named) == 1:
        commands = trust_report or distrusted_alternatives(report) is None
        print_report(report, path, distrust, commands=commands)
    else:
        print_reports(report for _, report in named)


@click.command(
    context_settings=ENVIRONMENT,
    epilog="Arguments after -- are added for the deployment: -- --port 9000 --served-model-name m",
)
@click.argument("report", required=False)
@click.argument("added", nargs=-1, type=click.UNPROCESSED, metavar="[-- VLLM_ARGS]")
@click.option(
    "--as",
    "form",
    envvar="AUTOTUNE_AS",
    type=click.Choice([*FORMATS]),
    default="shell",
    show_default=True,
    help="What to write.",
)
@click.option(
    "--api-key-from",
    type=Parsed("source", KeySource.parse),
    help="Where the server finds its key: env:NAME, or in Kubernetes secret:NAME/KEY.",
)
@click.option(
    "--model-volume",
    type=Parsed("claim", ModelVolume.parse),
    help="For Kubernetes, the claim that has the model: pvc:NAME or pvc:NAME/PATH.  [the node]",
)
@click.option("--alternative", metavar="NAME", help="What to write in the winner's place.")
@trust_option
def render(
    report: str | None,
    added: tuple[str, ...],
    form: str,
    api_key_from: KeySource | None,
    model_volume: ModelVolume | None,
    alternative: str | None,
    trust_report: bool,
) -> None:
    """Print a report's winner as something to deploy.

    A folder stands for its newest report.
    """
    if report is not None and report.startswith("-"):  # what followed the `--`
        added, report = (report, *added), None
    found = read_report(Path(report) if report else results_folder())
    if alternative is not None:
        found = replace(found, winner=proven_alternative(found, alternative))
    if not trust_report and (distrust := distrusted(found)):
        raise distrust
    if model_volume and form not in WITH_VOLUME:
        formats = ", ".join(WITH_VOLUME)
        raise BadUsage(f"--as {form} mounts no claim", f"drop --model-volume, or use {formats}")
    service = Service(found, key=api_key_from, volume=model_volume)
    service = replace(service, added=added_arguments(added, service.winner))
    text = FORMATS[form](service)
    if not can_say(text):
        reason = f"the output is {sys.stdout.encoding}, and the winner has other characters"
        raise BadUsage(reason, "set PYTHONIOENCODING=utf-8")
    say(text)


@click.command(context_settings=ENVIRONMENT)
@click.argument("document", type=click.Choice([*DOCUMENTS]), default="report")
def schema(document: str) -> None:
    """Print the JSON Schema of what --json prints.

    A report's file is such a document, too. What is printed instead where a command is refused is
    described as well.
    """
    say(json.dumps(codec.schema(DOCUMENTS[document], document, SCHEMA_VERSION), indent=2))


@click.command()
@click.argument("logs", nargs=-1, required=True, type=click.Path(allow_dash=True))
@json_option
def diagnose(logs: tuple[str, ...], as_json: bool) -> None:
    """Say what went wrong in a vLLM log, and what cures it.

    `-` reads stdin. Exit code 0: understood, 1: not.
    """
    understood = True
    for log in logs:
        diagnosis = read_log(log)
        understood = understood and diagnosis.understood
        if as_json:
            say(codec.dump(diagnosis.document()))
        else:
            print_diagnosis(log, diagnosis)
    sys.exit(0 if understood else 1)
