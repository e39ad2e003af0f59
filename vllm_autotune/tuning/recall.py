"""A recalled answer: whether it is true to the request and valid here, and how it starts."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import PurePath

from ..certificate.items import missing_items
from ..report.alternatives import listed, served_by_winner
from ..report.report import Report, Winner
from ..report.trust import refused_setting
from ..search.facts import Facts
from ..units import format_bytes
from ..vllm.config import LaunchConfig, Value
from ..vllm.pooling import pools
from .cache import cards

# A winner that gave something up is searched for again once this much more memory is free.
MORE_MEMORY = 1.1


def still_valid(report: Report, facts: Facts, key: str) -> str | None:
    """Return the reason an answer cannot be used for this request now, None if it can.

    Only its place in the cache says that it belongs to the key; all that it says is compared.
    """
    winner = report.winner
    if winner is None:
        return f"it has no winner, its status is {report.status}"
    model = model_here(report, winner, facts)
    if model is None:
        return f"its model {winner.model} was not found here"
    config = LaunchConfig(model, winner.args, winner.env)
    objections = (
        *_of_another_request(report, winner, facts, key),
        *_too_little(winner, config, facts),
        *_other_memory(report, winner, config, facts),
    )
    return next(iter(objections), None)


def _of_another_request(report: Report, winner: Winner, facts: Facts, key: str) -> Iterator[str]:
    if refused := refused_setting(report, winner, allowed=facts.fixed):
        yield f"it {refused}"
    engine, headroom = facts.engine, winner.valid_for.headroom_bytes
    found_for = {
        "key": (report.cache.key, key),
        "vLLM": (report.versions.vllm, engine.version),
        "torch": (report.versions.torch, engine.torch),
        "device": (
            cards((*report.devices, *report.busy)),
            cards((*facts.devices, *facts.busy)),
        ),
        "ladder": (report.ladder, facts.ladder.name),
        "workload": (report.workload, facts.workload),
        "fixed arguments": (report.fixed, dict(facts.fixed)),
        "headroom": (headroom, None if headroom is None else facts.headroom_bytes),
    }
    for name, (then, now) in found_for.items():
        if then != now:
            yield f"its {name} is not the one asked for: {_shortened(then)}, not {_shortened(now)}"
    for name, value in facts.env.items():
        if winner.env.get(name) != value:
            yield f"it was found without {name}={value}"


def _too_little(winner: Winner, config: LaunchConfig, facts: Facts) -> Iterator[str]:
    asked = facts.workload
    if winner.max_model_len < asked.min_context:
        yield f"it serves {winner.max_model_len:,} tokens, {asked.min_context:,} are asked for"
    if winner.max_num_seqs < asked.concurrency:
        yield f"it serves {winner.max_num_seqs} sequences, {asked.concurrency} are asked for"
    checkpoint = facts.checkpoints[config.model]
    if config.partition and (layers := sum(config.partition)) != checkpoint.layers:
        yield f"its stages have {layers} layers, the model has {checkpoint.layers}"
    pooling = pools(config, checkpoint.architecture, pooled=checkpoint.pooled)
    lacks = missing_items(
        winner.certificate,
        asked.probe,
        pooling=pooling,
        adapters="lora-modules" in config.args,
        drafts=config.drafts,
        images=facts.setup(config).images,
    )
    if lacks:
        yield f"its certificate lacks `{lacks[0]}`"


def _other_memory(
    report: Report, winner: Winner, config: LaunchConfig, facts: Facts
) -> Iterator[str]:
    yield from _lacking(winner, config, facts)
    if not winner.gives_up:
        return
    if len(facts.devices) > len(report.devices):
        yield "more GPUs are idle now than when it was found, so a better one may fit"
    used, was = facts.used(config), winner.valid_for.budget_bytes
    if min(facts.budget(d) for d in used) > was * MORE_MEMORY:
        yield "more memory is free now than when it was found, so a better one may fit"


def _lacking(winner: Winner, config: LaunchConfig, facts: Facts) -> Iterator[str]:
    """Yield why a configuration has too little of this machine now."""
    used = facts.used(config)
    if len(used) < config.world_size and used[0].kind == "cuda":
        yield f"it uses {config.world_size} GPUs, {len(used)} are idle"
    shares = "kv-cache-memory-bytes" not in config.args
    needs = winner.valid_for.needed_each or (winner.valid_for.needed_bytes,) * len(used)
    for device, needed in zip(used, needs, strict=False):
        reserved, limit = facts.reserved_by(device, config), device.limit_bytes
        if limit is not None and shares and reserved > limit:
            yield f"it reserves {format_bytes(reserved)}, the limit is {format_bytes(limit)}"
        free = max(0, device.free_bytes - facts.headroom_bytes // 2)
        if free < needed:
            yield f"it needs {format_bytes(needed)}, only {format_bytes(free)} may be used now"
    offloaded = config.cpu_offload_gib * len(used) * 2**30
    if offloaded > (free := facts.host_free_bytes):
        yield f"it offloads {format_bytes(offloaded)}, the host has {format_bytes(free)} free now"


def _shortened(value: object) -> str:
    return str(value)[:100]


def here(report: Report, facts: Facts) -> Report:
    """Return a valid answer as if it had been found here: with our models, devices and command.

    The command line is made again: a file from elsewhere must start nothing but our vLLM.
    """
    winner = report.winner
    assert winner is not None
    model = model_here(report, winner, facts)
    assert model is not None

    def argv(name: str, args: Mapping[str, Value]) -> tuple[str, ...]:
        return tuple(facts.engine.argv(LaunchConfig(name, args)))

    def started(found: Winner) -> Winner | None:
        """Return a winner as it starts here, None where it cannot."""
        name = model_here(report, found, facts)
        if name is None or refused_setting(report, found, allowed=facts.fixed):
            return None
        if any(_lacking(found, LaunchConfig(name, found.args, found.env), facts)):
            return None
        words = argv(name, found.args)
        return replace(found, model=name, argv=words, left_out=facts.left_out)

    trials = tuple(
        replace(trial, model=model, argv=argv(model, trial.args))
        if trial.model == winner.model
        else trial
        for trial in report.trials
    )
    report = replace(
        report,
        devices=facts.devices,
        busy=facts.busy,
        left_alone=facts.left_alone,
        model=replace(report.model, path=facts.model),
        winner=replace(winner, model=model, argv=argv(model, winner.args), left_out=facts.left_out),
        trials=trials,
    )
    others = ((other.name, other.proven and started(other.proven)) for other in report.alternatives)
    proven = {name: other for name, other in others if other}
    assert report.winner is not None
    found = served_by_winner(facts, report.winner)
    return replace(report, alternatives=listed(facts, found, proven))


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
