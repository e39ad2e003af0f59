"""A tuning: recall the answer or search for it, and record it."""

import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from .. import __version__
from ..errors import CannotWrite
from ..report.report import CacheUse, Report, Versions, model_of
from ..search.facts import Facts
from ..search.step import Skip
from ..server import remove_leftovers
from .cache import AnswerCache, cache_key
from .journal import Run, find_unfinished, write_recalled
from .lock import locked
from .recall import here, still_valid
from .walk import Audience, Options, Walk, refreshed


def tune(facts: Facts, options: Options, audience: Audience) -> tuple[Report, Path | None]:
    """Return the report and its path (None where an answer from the cache cannot lie there).

    An interruption ends the walk with a report as well; the trial it hit is not in it.
    """
    began = time.monotonic()
    cache, key = AnswerCache(options.cache), cache_key(facts)

    def recalled() -> tuple[Report, Path | None] | None:
        report = None if options.refresh else _recall(cache, key, facts, audience, began)
        return None if report is None else (report, _kept(report, options, audience))

    if answer := recalled():
        return answer
    cache.prepare()
    facts = cache.with_boots(facts, audience.note)
    with locked(facts.devices, facts.model, _seconds_to_wait(options), audience.note):
        if options.wait:  # whoever held the device may have found the answer
            facts = refreshed(facts)
            if answer := recalled():
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
            except CannotWrite as refusal:  # it is found and written all the same
                audience.note(refusal.message)
    return report, path


def _recall(
    cache: AnswerCache, key: str, facts: Facts, audience: Audience, began: float
) -> Report | None:
    found = cache.recall(key)
    if isinstance(found, Report):
        objection = still_valid(found, facts)
        if objection is None:
            hit, elapsed = CacheUse(key=key, hit=True), round(time.monotonic() - began, 3)
            return replace(here(found, facts), cache=hit, launches=0, elapsed_seconds=elapsed)
        found = f"the cached answer cannot be used: {objection}"
    if found:
        audience.note(found)
    return None


def _kept(recalled: Report, options: Options, audience: Audience) -> Path | None:
    """Have a recalled answer among the results, for whoever reads them next."""
    try:
        return write_recalled(options.results, recalled)
    except CannotWrite as refusal:
        audience.note(refusal.message)
        return None


def _seconds_to_wait(options: Options) -> float:
    if options.until is None:
        return options.wait
    return min(options.wait, max(0.0, options.until - time.monotonic()))


def _begin(facts: Facts, options: Options, audience: Audience, key: str) -> Walk:
    """Continue an unfinished run if that is wanted and possible, else begin one."""
    left = find_unfinished(options.results, key)
    if left is not None and options.resume:
        known = replace(facts, boots=facts.boots[: left.measured])
        walk = Walk(known, options, audience, left)
        trials, torn = left.read_trials()
        if torn:
            audience.note(torn)
        if walk.replay(trials):
            count = f"{len(trials)} launch{'es' if len(trials) != 1 else ''}"
            audience.note(f"continuing {left.folder}: {count} saved")
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
