"""The commands that read what there is: reports, their schema, and logs."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from ..console import print_diagnosis, print_report, print_reports
from ..deploy import FORMATS
from ..diagnose import Document, read_log
from ..errors import BadReport
from ..output import say
from ..report import codec
from ..report.plan import Plan
from ..report.report import Refused, Report, read_report
from .options import json_option, results_folder

DOCUMENTS: Mapping[str, Any] = {"report": Report | Refused, "plan": Plan, "diagnose": Document}


@click.command()
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path), metavar="[REPORT]...")
@json_option
def show(paths: tuple[Path, ...], as_json: bool) -> None:
    """Show a report, or several as a table.

    A folder stands for all reports below it.
    """
    files: list[Path] = []
    for path in paths or [results_folder()]:
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
        message = f"none of the {len(files)} files is an autotune report"
        raise BadReport(message, "give a report.json, or its folder")
    if as_json:
        documents = [json.loads(codec.dump(report)) for report in reports]
        say(json.dumps(documents if len(documents) > 1 else documents[0], indent=2))
    elif len(reports) == 1:
        print_report(reports[0], str(files[0]))
    else:
        print_reports(reports)


@click.command()
@click.argument("report", type=click.Path(path_type=Path), required=False)
@click.option("--as", "form", type=click.Choice([*FORMATS]), default="shell", show_default=True)
def render(report: Path | None, form: str) -> None:
    """Print a report's winner as something to deploy.

    A folder stands for its newest report.
    """
    say(FORMATS[form](read_report(report or results_folder())))


@click.command()
@click.argument("document", type=click.Choice([*DOCUMENTS]), default="report")
def schema(document: str) -> None:
    """Print the JSON Schema of the report, the plan or a diagnosis.

    The report's schema also describes what is printed instead of either where it is refused.
    """
    say(json.dumps(codec.schema(DOCUMENTS[document]), indent=2))


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
