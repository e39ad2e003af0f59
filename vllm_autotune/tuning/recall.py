"""A recalled answer: whether it holds here and now, and what it means here."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePath

from ..report.report import Report, Winner
from ..search.facts import Facts
from ..vllm.config import LaunchConfig, Value
from ..vllm.untrusted import forbidden

# A winner that gave something up is looked for again once this much more memory is free.
MORE_MEMORY = 1.1


def still_valid(report: Report, facts: Facts) -> str | None:
    """Return why a recalled answer cannot be used on these devices now, None if it can."""
    winner = report.winner
    if winner is None:
        return "it has no winner"
    refused = forbidden(_chosen(winner, facts.fixed), winner.env)
    if refused is not None:
        return f"it sets {refused[0]}: {refused[1]}"
    if model_here(report, winner, facts) is None:
        return f"its model {winner.model} is not here"
    needed, was = winner.valid_for.needed_bytes, winner.valid_for.budget_bytes
    used = facts.devices[: winner.valid_for.count]
    free = min(d.free_bytes for d in used) - facts.headroom_bytes // 2
    if free < needed:
        return f"it needs {needed / 2**30:.1f} GiB, {max(0, free) / 2**30:.1f} GiB may be used now"
    config = LaunchConfig(winner.model, winner.args)
    offloaded = config.integer("cpu-offload-gb", 0) * len(used) * 2**30
    if offloaded > facts.host_free_bytes:
        return f"it offloads {offloaded / 2**30:.0f} GiB, the host has less free now"
    budget = min(facts.budget(d) for d in used)
    if winner.gives_up and budget > was * MORE_MEMORY:
        return "more memory is free now than when it was found: a better one may fit"
    return None


def here(report: Report, facts: Facts) -> Report:
    """Return a valid answer with the words that start it here, and the devices it starts on.

    They are made anew: a file from elsewhere starts no other program than the engine at hand.
    """
    winner = report.winner
    assert winner is not None
    model = model_here(report, winner, facts)
    assert model is not None
    config = LaunchConfig(model, winner.args, winner.env)
    winner = replace(winner, model=model, argv=tuple(facts.engine.argv(config)))
    return replace(report, devices=facts.devices, winner=winner)


def _chosen(winner: Winner, fixed: Mapping[str, Value]) -> dict[str, Value]:
    """Return the flags that the user did not give."""
    return {name: value for name, value in winner.args.items() if fixed.get(name) != value}


def model_here(report: Report, winner: Winner, facts: Facts) -> str | None:
    """Return what the winner's model is called here, None if it is not.

    Its key says that the weights are the same.
    """
    if winner.model in facts.checkpoints:
        return winner.model
    if winner.model == report.model.path:
        return facts.model
    name = PurePath(winner.model).name
    return next((model for model in facts.checkpoints if PurePath(model).name == name), None)
