"""What else could be served, as a plan and a report list it."""

from collections.abc import Mapping

from ..errors import BadUsage
from ..memory import Interval
from ..search.alternatives import Alternative, Served, alternatives, served
from ..search.facts import Facts
from ..search.missing import Published, would_help
from ..search.trial import Candidate
from ..vllm.config import LaunchConfig
from .report import PlannedAlternative, PlannedHelp, Report, Winner


def listed(
    facts: Facts, found: Served | None, proven: Mapping[str, Winner] = {}
) -> tuple[PlannedAlternative, ...]:
    """Return the alternatives to what was found (None: nothing); some were `proven`, by name."""
    others = alternatives(facts, found)
    return tuple(planned_alternative(other, proven.get(other.name)) for other in others)


def planned_alternative(
    alternative: Alternative, proven: Winner | None = None
) -> PlannedAlternative:
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
        proven=proven,
    )


def helps(
    facts: Facts, found: Served | None, candidate: Candidate | None, published: Published = dict
) -> tuple[PlannedHelp, ...]:
    """Return what would help that is not here; `published` as in `would_help`."""
    return tuple(
        PlannedHelp(
            name=each.name,
            what=each.what,
            gives_up=tuple(rung.gives_up for rung in each.candidate.rungs if rung.gives_up),
            max_model_len=each.served.tokens,
            full_length_sequences=each.served.at_once,
            devices=each.served.devices,
            weight_bits=each.served.weight_bits,
            kv_bits=each.served.kv_bits,
            fits=each.candidate.predicted.fits,
        )
        for each in would_help(facts, found, candidate, published)
    )


def served_by_winner(facts: Facts, winner: Winner) -> Served:
    """Return what a winner serves: measured where vLLM printed it."""
    config = LaunchConfig(winner.model, winner.args, winner.env)
    length = winner.max_model_len
    at_once = (winner.kv_cache_tokens or length) / length
    return served(facts, config, Interval.exactly(length), Interval.exactly(at_once))


def proven_alternative(report: Report, name: str) -> Winner:
    """Return an alternative to deploy. Raises BadUsage for one that no launch has proven."""
    proven = [other.name for other in report.alternatives if other.proven]
    for other in report.alternatives:
        if other.name == name and other.proven:
            return other.proven
        if other.name == name:
            hint = f"prove it: autotune tune ... --also {name}"
            raise BadUsage(f"--alternative {name}: it is expected to fit, not proven", hint)
    hint = f"proven are: {', '.join(proven) or 'none'} (autotune tune --also NAME proves one)"
    raise BadUsage(f"--alternative {name}: the report has no such alternative", hint)
