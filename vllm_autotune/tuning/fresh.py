"""A new answer: walk the ladder, and record what was found."""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from ..checkpoint.published import published
from ..errors import CannotWrite
from ..report.alternatives import helps, planned_alternative, served_by_winner
from ..report.report import CacheUse, PlannedAlternative, Report, model_of, versions_of
from ..search.alternatives import alternatives
from ..search.facts import Facts
from ..search.trial import Skip
from ..server.leftovers import remove_leftovers
from .also import prove, refuse_unknown
from .cache import AnswerCache
from .journal import ANSWERED, Run, find_unfinished
from .lock import locked
from .options import Audience, Options
from .walk import Walk, refreshed

Answer = tuple[Report, Path | None]


def fresh_answer(
    facts: Facts,
    options: Options,
    audience: Audience,
    key: str,
    recall: Callable[[Facts], Answer | str],
    began: float,
) -> Answer:
    """Return the report of a walk, and its path.

    `recall` is asked once more where another tuning was waited for: it may have found the answer.
    """
    cache = AnswerCache(options.cache)
    cache.prepare()
    facts = cache.with_boots(facts, audience.note)
    left = math.inf if options.until is None else max(0.0, options.until - time.monotonic())
    with locked(facts.devices, facts.model, min(options.wait, left), audience.note):
        if options.wait:
            facts = refreshed(facts)
            answer = recall(facts)
            if not isinstance(answer, str):
                return answer
        refuse_unknown(options.also, facts)
        for leftover in remove_leftovers():
            audience.note(leftover)
        walk = _begin(facts, options, audience, key)
        status, reason, hint = walk.go()
        report = Report(
            status=status,
            reason=reason,
            hint=hint,
            model=model_of(facts),
            devices=facts.devices,
            busy=facts.busy,
            left_alone=facts.left_alone,
            versions=versions_of(facts),
            workload=facts.workload,
            ladder=facts.ladder.name,
            fixed=dict(facts.fixed),
            winner=walk.winner,
            trials=tuple(walk.trials),
            skipped=tuple(Skip(rung=name, reason=why) for name, why in walk.skips.items()),
            launches=len(walk.trials),
            elapsed_seconds=0.0,
            cache=CacheUse(key=key, hit=False),
            created_at=walk.run.began,
        )
        report, path = _recorded(report, walk, cache, began)
        if status in ANSWERED:
            known = cache.with_boots(walk.facts, lambda _: None)
            found = served_by_winner(known, walk.winner) if walk.winner else None
            others = alternatives(known, found)
            report = replace(
                report,
                alternatives=tuple(map(planned_alternative, others)),
                would_help=helps(
                    known,
                    found,
                    walk.history[-1].candidate if found else None,
                    lambda: published(facts.model, facts.checkpoint),
                ),
            )
            report, path = _recorded(report, walk, cache, began)
            for other in others:
                if status == "stable" and other.name in options.also:
                    report = _with_proof(report, prove(other, walk), walk)
                    report, path = _recorded(report, walk, cache, began)
    return report, path


def _recorded(report: Report, walk: Walk, cache: AnswerCache, began: float) -> tuple[Report, Path]:
    """Write the report, with the time so far, and the answer to the cache."""
    report = replace(report, elapsed_seconds=round(time.monotonic() - began, 2))
    path = walk.run.write_report(report)
    if report.status == "stable":
        try:
            cache.remember(report.cache.key, report)
        except CannotWrite as refusal:  # the report is written already
            walk.audience.note(refusal.message)
    return report, path


def _with_proof(report: Report, proof: PlannedAlternative, walk: Walk) -> Report:
    return replace(
        report,
        alternatives=tuple(proof if a.name == proof.name else a for a in report.alternatives),
        trials=tuple(walk.trials),
        launches=len(walk.trials),
    )


def _begin(facts: Facts, options: Options, audience: Audience, key: str) -> Walk:
    """Continue an unfinished run with --resume where possible, else begin a new one."""
    left = find_unfinished(options.results, key)
    if left is not None and options.resume:
        known = replace(facts, boots=facts.boots[: left.measured])
        walk = Walk(known, options, audience, left)
        trials, torn = left.read_trials()
        if torn:
            audience.note(torn)
        if walk.replay(trials):
            launches = "launch" if len(trials) == 1 else "launches"
            audience.note(f"continuing {left.folder}: {len(trials)} {launches} saved")
            left.write_head()
            return walk
        audience.note(f"{left.folder}: conditions changed, the saved launches no longer apply")
    elif left is not None:
        audience.note(f"{left.folder} is unfinished; --resume continues it")
    elif options.resume:
        audience.note("found no unfinished run of this tuning, starting a new one")
    began = datetime.now(UTC).isoformat(timespec="seconds")
    run = Run.create(options.results, key, began, facts.host_free_bytes, len(facts.boots))
    return Walk(facts, options, audience, run)
