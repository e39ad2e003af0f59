"""What else could be served, as a plan and a report list it."""

from collections.abc import Iterable

from ..memory import Interval
from ..search.alternatives import Alternative, Served, alternatives, served
from ..search.facts import Facts
from ..vllm.config import LaunchConfig
from .report import PlannedAlternative, Winner


def listed(
    facts: Facts, found: Served | None, proven: Iterable[PlannedAlternative] = ()
) -> tuple[PlannedAlternative, ...]:
    """Return the alternatives to what was found (None: nothing), those `proven` as they are."""
    kept = {alternative.name: alternative for alternative in proven}
    new = {a.name: planned_alternative(a) for a in alternatives(facts, found)}
    return tuple((new | kept).values())


def planned_alternative(alternative: Alternative) -> PlannedAlternative:
    candidate, serves = alternative.candidate, alternative.served
    config = candidate.config
    return PlannedAlternative(
        name=alternative.name,
        gives_up=alternative.gives_up,
        command=alternative.command,
        model=config.model,
        args=dict(config.args),
        env=dict(config.env),
        max_model_len=serves.tokens,
        full_length_sequences=serves.at_once,
        devices=serves.devices,
        weight_bits=serves.weight_bits,
        kv_bits=serves.kv_bits,
        fits=candidate.predicted.fits,
        predicted=candidate.predicted,
    )


def served_by_winner(facts: Facts, winner: Winner) -> Served:
    """Return what a winner serves: measured where vLLM printed it."""
    config = LaunchConfig(winner.model, winner.args, winner.env)
    length = winner.max_model_len
    at_once = (winner.kv_cache_tokens or length) / length
    return served(facts, config, Interval.exactly(length), Interval.exactly(at_once))
