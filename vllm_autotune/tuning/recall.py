"""A recalled answer: whether it is valid on this machine now, and how it starts here."""

from dataclasses import replace
from pathlib import PurePath

from ..report.report import Report, Winner
from ..search.facts import Facts
from ..units import format_bytes
from ..vllm.config import LaunchConfig
from ..vllm.untrusted import forbidden

# A winner that gave something up is searched for again once this much more memory is free.
MORE_MEMORY = 1.1


def still_valid(report: Report, facts: Facts) -> str | None:
    """Return the reason an answer cannot be used on these devices now, None if it can."""
    winner = report.winner
    if winner is None:
        return "it has no winner"
    chosen = {name: value for name, value in winner.args.items() if facts.fixed.get(name) != value}
    refused = forbidden(chosen, winner.env)  # what the user gave is allowed
    if refused is not None:
        return f"it sets {refused[0]}: {refused[1]}"
    if model_here(report, winner, facts) is None:
        return f"its model {winner.model} was not found here"
    needed, was = winner.valid_for.needed_bytes, winner.valid_for.budget_bytes
    used = facts.devices[: winner.valid_for.count]
    free = min(d.free_bytes for d in used) - facts.headroom_bytes // 2
    if free < needed:
        return f"it needs {format_bytes(needed)}, only {format_bytes(max(0, free))} may be used now"
    offloaded = LaunchConfig(winner.model, winner.args).cpu_offload_gib * len(used) * 2**30
    if offloaded > (free := facts.host_free_bytes):
        return f"it offloads {format_bytes(offloaded)}, the host has {format_bytes(free)} free now"
    budget = min(facts.budget(d) for d in used)
    if winner.gives_up and budget > was * MORE_MEMORY:
        return "more memory is free now than when it was found, so a better one may fit"
    return None


def here(report: Report, facts: Facts) -> Report:
    """Return a valid answer with the command line and the devices of this machine.

    The command line is made again: a file from elsewhere must start nothing but our vLLM.
    """
    winner = report.winner
    assert winner is not None
    model = model_here(report, winner, facts)
    assert model is not None
    config = LaunchConfig(model, winner.args, winner.env)
    winner = replace(winner, model=model, argv=tuple(facts.engine.argv(config)))
    return replace(report, devices=facts.devices, winner=winner)


def model_here(report: Report, winner: Winner, facts: Facts) -> str | None:
    """Return the name of the winner's model here, None if it was not found.

    The key of the answer has confirmed that the weights are the same.
    """
    if winner.model in facts.checkpoints:
        return winner.model
    if winner.model == report.model.path:
        return facts.model
    name = PurePath(winner.model).name
    return next((model for model in facts.checkpoints if PurePath(model).name == name), None)
