"""Start a recorded winner again on this machine, and prove it again."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..certificate.own_requests import read_requests
from ..errors import BadReport, CannotWrite
from ..files import make_folder
from ..launch.launch import run_trial
from ..launch.limits import Limits
from ..memory import Calibration
from ..report.read import read_report
from ..report.report import Report
from ..report.trust import TRUST_HINT, refused_setting
from ..search.facts import Facts
from ..search.ladder_file import find_ladder, read_ladder
from ..search.prediction import predict
from ..search.trial import Candidate, Trial
from ..server.leftovers import remove_leftovers
from ..vllm.config import LaunchConfig
from ..workload import Effort
from .gather import Request, gather_facts
from .lock import locked
from .options import Audience
from .recall import model_here

LOG = "check.log"


def check_report(
    path: Path,
    audience: Audience,
    probe: Effort | None = None,
    trust: bool = False,
    log: Path | None = None,
    wait: float = 0.0,
    **where: Any,
) -> Trial:
    """Launch a report's winner and return the trial.

    Arguments that load code (`--trust-remote-code`) are accepted only with `trust`. The log is
    written next to the report where that is possible, unless `log` says where. The server must
    survive the report's workload, at the context it was proven at, and the same probe unless
    `probe` is given. It waits `wait` seconds for another run on the device. `where` are fields of a
    Request: `gpus`, `vllm_python`, `vllm_command`. Raises a Refusal for whatever is missing, and
    for a report without a winner.
    """
    report = read_report(path)
    refused = report.winner and not trust and refused_setting(report, report.winner)
    if refused:
        raise BadReport(f"the report {refused}", TRUST_HINT)
    workload = replace(report.workload, probe=probe or report.workload.probe)
    if workload.probe.file:
        read_requests(workload.probe.file)  # raises a Refusal if it was deleted
    facts = replace(_facts(report, workload.probe, where), workload=workload)
    candidate = candidate_of(report, facts)
    with locked(facts.devices, facts.model, wait, audience.note):
        for leftover in remove_leftovers():
            audience.note(leftover)
        audience.begin(1, candidate)
        where_to = log or log_by(path, audience.note)
        trial = run_trial(facts, candidate, 1, where_to, Limits(), audience.progress)
    audience.end(trial)
    return trial


def log_by(report: Path, note: Callable[[str], None]) -> Path:
    """Return where to log: by the report, in a temporary folder where nothing can be written."""
    try:
        make_folder(report.parent)
    except CannotWrite as refusal:
        log = Path(tempfile.mkdtemp(prefix="autotune-check-")) / LOG
        note(f"{refusal.message}: the log is {log}")
        return log
    return report.with_name(LOG)


def _facts(report: Report, probe: Effort, where: Mapping[str, Any]) -> Facts:
    request = Request(
        model=report.model.path,
        revision=report.model.revision,
        ladder=read_ladder(find_ladder("default")),
        probe=probe,
        memory_limit=report.devices[0].limit_bytes,
        headroom=report.winner.valid_for.headroom_bytes if report.winner else None,
        fixed=LaunchConfig("", report.fixed).flags(),
        like=report.devices[: report.winner.valid_for.count] if report.winner else (),
    )
    return gather_facts(replace(request, **where))


def candidate_of(report: Report, facts: Facts) -> Candidate:
    """Return what a check starts. Raises BadReport for what cannot start here."""
    winner = report.winner
    if winner is None:
        raise BadReport(f"the report has no winner: {report.reason}", "there is nothing to check")
    if winner.valid_for.count > len(facts.devices):
        hint = "run the check on a machine that has as many, or tune again here"
        reason = f"the winner runs on {winner.valid_for.count} devices, found {len(facts.devices)}"
        raise BadReport(reason, hint)
    model = model_here(report, winner, facts)
    if model is None:
        raise BadReport(f"the winner's model {winner.model} was not found here", "tune again here")
    config = LaunchConfig(model, winner.args, winner.env)
    return Candidate(config=config, rungs=(), predicted=predict(facts, Calibration(), config))
