"""A recalled answer: whether it is valid here and now, and how it starts here."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePath

from ..report.report import Report, Winner
from ..search.facts import Facts
from ..units import format_bytes
from ..vllm.config import LaunchConfig, Value
from ..vllm.untrusted import forbidden

# A winner that gave something up is looked for again once this much more memory is free.
MORE_MEMORY = 1.1


def still_valid(report: Report, facts: Facts) -> str | None:
    """Return the reason why an answer cannot be used on these devices now, None if it can."""
    winner = report.winner
    if winner is None:
        return "it has no winner"
    refused = forbidden(_chosen(winner, facts.fixed), winner.env)
    if refused is not None:
        return f"it sets {refused[0]}: {refused[1]}"
    if model_here(report, winner, facts) is None:
        return f"its model {winner.model} was not found here"
    needed, was = winner.valid_for.needed_bytes, winner.valid_for.budget_bytes
    used = facts.devices[: winner.valid_for.count]
    free = min(d.free_bytes for d in used) - facts.headroom_bytes // 2
    if free < needed:
        free = max(0, free)
        return f"it needs {format_bytes(needed)}, only {format_bytes(free)} may be used now"
    config = LaunchConfig(winner.model, winner.args)
    offloaded = config.cpu_offload_gib * len(used) * 2**30
    if offloaded > (free := facts.host_free_bytes):
        return f"it offloads {format_bytes(offloaded)}, the host has {format_bytes(free)} free now"
    budget = min(facts.budget(d) for d in used)
    if winner.gives_up and budget > was * MORE_MEMORY:
        return "more memory is free now than when it was found, so a better one may fit"
    return None


def here(report: Report, facts: Facts) -> Report:
    """Return a valid answer with the command line and the devices that it starts with here.

    They are made anew: a file from elsewhere starts no other program than the vLLM at hand.
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
    """Return the name of the winner's model here, None if it was not found.

    Its key says that the weights are the same.
    """
    if winner.model in facts.checkpoints:
        return winner.model
    if winner.model == report.model.path:
        return facts.model
    name = PurePath(winner.model).name
    return next((model for model in facts.checkpoints if PurePath(model).name == name), None)
