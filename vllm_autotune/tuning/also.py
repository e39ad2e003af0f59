"""Alternatives that are proven after the winner."""

from collections.abc import Sequence

from ..errors import BadUsage
from ..report.alternatives import planned_alternative
from ..report.report import PlannedAlternative
from ..search.alternatives import Alternative, alternatives, served_by
from ..search.facts import Facts
from ..search.step import next_step
from .walk import Walk


def refuse_unknown(names: Sequence[str], facts: Facts) -> None:
    """Raise BadUsage for an alternative that arithmetic does not know before the first launch."""
    if not names:
        return
    candidate = next_step(facts, ()).candidate
    found = candidate and served_by(facts, candidate.config, candidate.predicted)
    known = [alternative.name for alternative in alternatives(facts, found)] if found else []
    for name in names:
        if name not in known:
            hint = f"there is: {', '.join(known) or 'none'}; `autotune plan` says what each is"
            raise BadUsage(f"--also {name}: there is no such alternative here", hint)


def prove(alternative: Alternative, walk: Walk) -> PlannedAlternative:
    """Walk for an alternative, in the run of a winner; its launches become the winner's, too."""
    say, planned = walk.audience.note, planned_alternative(alternative)
    say(f"also: {alternative.name}")
    other = Walk(alternative.facts, walk.options, walk.audience, walk.run, resumed=False)
    other.trials, other.launches = walk.trials, walk.launches
    _, reason, _ = other.go()
    walk.launches = other.launches
    if other.winner is None:
        say(f"{alternative.name} is not proven: {reason}")
        return planned
    return planned_alternative(alternative, other.winner)
