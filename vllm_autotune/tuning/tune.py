"""A tuning: recall the answer or search for it, and record it."""

import math
import time
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from .. import __version__
from ..errors import CannotWrite, NotCached
from ..report.report import CacheUse, Report, Versions, model_of
from ..search.facts import Facts
from ..search.step import Skip
from ..server import remove_leftovers
from .cache import AnswerCache, cache_key
from .journal import Run, find_unfinished, write_recalled
from .lock import locked
from .recall import here, still_valid
from .walk import Audience, Options, Walk, refreshed

NOTHING = "nothing is cached for this request"


def tune(facts: Facts, options: Options, audience: Audience) -> tuple[Report, Path | None]:
    """Return the report and its path, None where a cached answer cannot be written to the results.

    An interruption ends the walk with a report, too; the trial that it stopped is not in it.
    """
    began = time.monotonic()
    cache, key = AnswerCache(options.cache), cache_key(facts)
    recall = partial(_recall, cache, key, options, audience, began)
    answer = recall(facts)
    if not isinstance(answer, str):
        return answer
    if options.cached_only:
        raise NotCached(answer, "run it once without --cached-only, or import an answer")
    if answer != NOTHING:
        audience.note(answer)
    cache.prepare()
    facts = cache.with_boots(facts, audience.note)
    left = math.inf if options.until is None else max(0.0, options.until - time.monotonic())
    with locked(facts.devices, facts.model, min(options.wait, left), audience.note):
        if options.wait:  # whoever held the device may have found the answer
            facts = refreshed(facts)
            answer = recall(facts)
            if not isinstance(answer, str):
                return answer
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
            versions=Versions(
                autotune=__version__,
                vllm=facts.engine.version,
                torch=facts.engine.torch,
                driver=facts.devices[0].driver,
            ),
            workload=facts.workload,
            ladder=facts.ladder.name,
            fixed=dict(facts.fixed),
            winner=walk.winner,
            trials=tuple(walk.trials),
            skipped=tuple(Skip(rung=name, reason=why) for name, why in walk.skips.items()),
            launches=len(walk.trials),
            elapsed_seconds=round(time.monotonic() - began, 2),
            cache=CacheUse(key=key, hit=False),
            created_at=walk.run.began,
        )
        path = walk.run.write_report(report)
        if status == "stable":
            try:
                cache.remember(key, report)
            except CannotWrite as refusal:  # the report is written already
                audience.note(refusal.message)
    return report, path


def _recall(
    cache: AnswerCache, key: str, options: Options, audience: Audience, began: float, facts: Facts
) -> tuple[Report, Path | None] | str:
    """Return a valid cached answer and its path among the results, or why there is none."""
    found = None if options.refresh else cache.recall(key)
    if not isinstance(found, Report):
        return found or NOTHING
    objection = still_valid(found, facts, key)
    if objection is not None:
        return f"the cached answer cannot be used: {objection}"
    hit, elapsed = CacheUse(key=key, hit=True), round(time.monotonic() - began, 3)
    report = replace(here(found, facts), cache=hit, launches=0, elapsed_seconds=elapsed)
    try:
        return report, write_recalled(options.results, report)
    except CannotWrite as refusal:
        audience.note(refusal.message)
        return report, None


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
