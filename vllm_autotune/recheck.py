"""Start a recorded winner again on this machine, and prove it again."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from .config import LaunchConfig
from .errors import BadReport
from .facts import Candidate, Facts, predict
from .memory import Calibration
from .report import Report, Trial
from .trial import Limits, Progress, run_trial


def candidate_of(report: Report, facts: Facts) -> Candidate:
    """Return a report's winner as a candidate.

    Raises BadReport when it has none, or asks for more devices than there are.
    """
    winner = report.winner
    if winner is None:
        raise BadReport(f"the report has no winner: {report.reason}", "there is nothing to check")
    if winner.valid_for.count > len(facts.devices):
        raise BadReport(
            f"the winner runs on {winner.valid_for.count} devices, here are {len(facts.devices)}",
            "check it on the machine it is for, or tune again here",
        )
    config = LaunchConfig(winner.model, winner.args, winner.env)
    return Candidate(config=config, rungs=(), predicted=predict(facts, Calibration(), config))


def check(
    report: Report, facts: Facts, log: Path, limits: Limits, show: Callable[[Progress], None]
) -> Trial:
    """Launch the winner and return what became of it.

    The workload it must bear is the report's, with the context it was proven at.
    """
    candidate = candidate_of(report, facts)
    facts = replace(facts, workload=report.workload)
    return run_trial(facts, candidate, 1, log, limits, show)
