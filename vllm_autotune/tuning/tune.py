"""A tuning: recall the answer or search for it."""

import time
from dataclasses import replace
from pathlib import Path

from ..errors import CannotWrite, NotCached
from ..report.report import CacheUse, Report
from ..search.facts import Facts
from .cache import AnswerCache, cache_key
from .gather import describe
from .journal import write_recalled
from .options import Audience, Options
from .recall import here, still_valid

NOTHING = "nothing is cached for this request"


def tune(facts: Facts, options: Options, audience: Audience) -> tuple[Report, Path | None]:
    """Return the report and its path, None where a cached answer cannot be written to the results.

    An interruption ends the walk with a report, too; the trial that it stopped is not in it.
    """
    began = time.monotonic()
    key = cache_key(facts)

    def recall(facts: Facts) -> tuple[Report, Path | None] | str:
        return _recall(facts, key, options, audience, began)

    answer = recall(facts)
    if not isinstance(answer, str):
        return answer
    if options.cached_only:
        raise NotCached(answer, "run it once without --cached-only, or import an answer")
    audience.note(describe(facts))
    for reason in facts.left_alone:
        audience.note(reason)
    if answer != NOTHING:
        audience.note(answer)
    from .fresh import fresh_answer  # noqa: PLC0415  an answer is recalled quicker without

    return fresh_answer(facts, options, audience, key, recall, began)


def _recall(
    facts: Facts, key: str, options: Options, audience: Audience, began: float
) -> tuple[Report, Path | None] | str:
    """Return a valid cached answer and its path among the results, or why there is none."""
    found = None if options.refresh else AnswerCache(options.cache).recall(key)
    if not isinstance(found, Report):
        return found or NOTHING
    proven = {other.name for other in found.alternatives if other.proven}
    if lacking := sorted(set(options.also) - proven):
        return f"the cached answer does not prove `{lacking[0]}`"
    objection = still_valid(found, facts, key)
    if objection is not None:
        return f"the cached answer cannot be used: {objection}"
    hit, elapsed = CacheUse(key=key, hit=True), round(time.monotonic() - began, 3)
    known = AnswerCache(options.cache).with_boots(facts, lambda _: None)
    report = replace(here(found, known), cache=hit, launches=0, elapsed_seconds=elapsed)
    try:
        return report, write_recalled(options.results, report)
    except CannotWrite as refusal:
        audience.note(refusal.message)
        return report, None
