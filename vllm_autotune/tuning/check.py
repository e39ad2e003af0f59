"""Start a recorded winner again on this machine, and prove it again."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..certificate import read_requests
from ..errors import BadReport
from ..launch.launch import Limits, run_trial
from ..memory import Calibration
from ..report.report import Report, read_report
from ..search.facts import Facts
from ..search.ladder_file import find_ladder, read_ladder
from ..search.prediction import predict
from ..search.trial import Candidate, Trial
from ..server import remove_leftovers
from ..vllm.config import LaunchConfig
from ..vllm.untrusted import forbidden
from ..workload import Effort
from .gather import Request, gather_facts
from .lock import locked
from .recall import model_here
from .walk import Audience


def check_report(
    path: Path, audience: Audience, probe: Effort | None = None, *, own: bool = False, **where: Any
) -> Trial:
    """Launch a report's winner and return the trial; its log is written next to the report.

    Arguments that load code (`--trust-remote-code`) are accepted only from the user's `own`
    report. The server must survive the report's workload, at the context it was proven at, and the
    same probe unless `probe` is given. `where` are fields of a Request: `gpus`, `vllm_python`,
    `vllm_command`. Raises a Refusal for whatever is missing, and for a report without a winner.
    """
    report = read_report(path)
    if not own:
        _refuse_code(report)
    workload = replace(report.workload, probe=probe or report.workload.probe)
    if workload.probe.file:
        read_requests(workload.probe.file)  # raises a Refusal if it was deleted
    facts = replace(_facts(report, workload.probe, where), workload=workload)
    candidate = _candidate(report, facts)
    with locked(facts.devices, facts.model):
        for leftover in remove_leftovers():
            audience.note(leftover)
        audience.begin(1, candidate)
        log = path.with_name("check.log")
        trial = run_trial(facts, candidate, 1, log, Limits(), audience.progress)
    audience.end(trial)
    return trial


def _refuse_code(report: Report) -> None:
    winner = report.winner
    args = {**report.fixed, **(winner.args if winner else {})}
    args.pop("revision", None)
    refused = forbidden(args, winner.env if winner else {})
    if refused is not None:
        reason = f"the report sets {refused[0]}: {refused[1]}"
        raise BadReport(reason, "if it is your own report, add --own")


def _facts(report: Report, probe: Effort, where: Mapping[str, Any]) -> Facts:
    request = Request(
        model=report.model.path,
        revision=report.model.revision,
        ladder=read_ladder(find_ladder("default")),
        probe=probe,
        memory_limit=report.devices[0].limit_bytes,
        headroom=report.winner.valid_for.headroom_bytes if report.winner else None,
        fixed=LaunchConfig("", report.fixed).flags(),
    )
    return gather_facts(replace(request, **where))


def _candidate(report: Report, facts: Facts) -> Candidate:
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
