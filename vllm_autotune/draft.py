"""Build a configuration from rungs: what each sets or fits, and why the others do not apply."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from .capability import dotted, least_for_kv_cache, least_for_method, shortage
from .checkpoint import Checkpoint
from .config import LaunchConfig
from .facts import Applied, Attempt, Facts
from .fit import SOLVERS, Situation, most_utilization
from .ladder import Rung
from .memory import Calibration
from .memory.weights import refuses_float16

# Solved in this order: what the weights are and where they lie first, the context last.
ORDER = (
    "checkpoint",
    "tensor-parallel-size",
    "pipeline-parallel-size",
    "max-num-seqs",
    "max-num-batched-tokens",
    "gpu-memory-utilization",
    "cpu-offload-gb",
    "max-model-len",
)
HALF = ("half", "float16")


@dataclass(frozen=True, slots=True)
class Draft:
    """A configuration, the rungs that shaped it, and why the others did not."""

    config: LaunchConfig
    applied: tuple[Applied, ...]
    reasons: Mapping[str, str]


def build(
    facts: Facts,
    history: Sequence[Attempt],
    calibration: Calibration,
    rungs: Sequence[Rung],
    withdrawn: Mapping[str, str],
) -> Draft:
    """Apply these rungs together, and those that belong to the first candidate."""
    fitted = frozenset(r.fit for r in rungs if r.fit and r.fit not in facts.fixed)
    situation = Situation(_runnable(facts), history, calibration, fitted)
    config = facts.base()
    applied: dict[str, Applied] = {}
    reasons: dict[str, str] = {}

    def apply(rung: Rung) -> None:
        nonlocal config
        reason = withdrawn.get(rung.name) or inapplicable(rung, config, facts)
        if reason:
            reasons[rung.name] = reason
            return
        args = {name: value for name, value in rung.args.items() if name not in facts.fixed}
        changed = config.replace(args, rung.env)
        if rung.fit:
            solved = SOLVERS[rung.fit](situation, changed)
            if isinstance(solved, str):
                reasons[rung.name] = solved
                return
            changed = solved
        if changed == config:
            reasons[rung.name] = "it is so already"
            return
        # Where an argument of another rung is gone, that rung is too: what both set is ours then.
        gone = [a for a in applied.values() if a.args.keys() - changed.args.keys()]
        for other in gone:
            del applied[other.name]
            reasons[other.name] = f"{rung.name} takes its place"
        before = config.replace({name: None for other in gone for name in other.args})
        args = {k: v for k, v in changed.args.items() if before.args.get(k) != v}
        env = {k: v for k, v in changed.env.items() if config.env.get(k) != v}
        applied[rung.name] = Applied(name=rung.name, gives_up=rung.gives_up, args=args, env=env)
        config = changed

    chosen = [r for r in facts.ladder.rungs if r in rungs or belongs_to_start(r, situation)]
    solved = sorted((r for r in chosen if r.fit), key=lambda r: ORDER.index(r.fit or ""))
    for rung in [*(r for r in chosen if not r.fit or r.fit == "checkpoint"), *solved]:
        if rung.name not in applied and rung.name not in reasons:
            apply(rung)
    in_order = [applied[r.name] for r in facts.ladder.rungs if r.name in applied]
    return Draft(config, tuple(in_order), reasons)


def belongs_to_start(rung: Rung, now: Situation) -> bool:
    """Tell whether a rung is part of the first candidate already.

    Utilization is, when vLLM's default share of the device is not free or not ours to use.
    """
    if rung.fit == "gpu-memory-utilization":
        return now.facts.engine.default_utilization > most_utilization(now, now.facts.base())
    return rung.start


def inapplicable(rung: Rung, config: LaunchConfig, facts: Facts) -> str | None:
    """Return why a rung does not apply here, None if it does."""
    device, engine = facts.used(config)[0], facts.engine
    checkpoint = facts.checkpoints[config.model]
    # What a fitted value needs beside it may be fixed: then the user's stands for the rung's.
    bound = {rung.fit} if rung.fit else rung.flags()
    fixed = sorted(bound & facts.fixed.keys())
    unknown = sorted(flag for flag in rung.flags() if not engine.knows(flag))
    quantized = checkpoint.quantization is not None or "quantization" in facts.fixed
    when, capability = rung.when, device.capability
    checks = (
        (bool(fixed), f"you fixed --{', --'.join(fixed)}"),
        (bool(unknown), f"vLLM {engine.version} does not know --{', --'.join(unknown)}"),
        (
            when.device is not None and when.device != device.kind,
            f"it is for {when.device}, this is {device.kind}",
        ),
        (
            bool(when.min_capability and capability and capability < when.min_capability),
            f"it needs compute capability {dotted(when.min_capability or (0, 0))}, "
            f"{device.name} has {dotted(capability or (0, 0))}",
        ),
        (
            bool(when.max_capability and capability and capability > when.max_capability),
            f"{device.name} does not need it",
        ),
        (
            when.quantized is False and quantized,
            "the weights are quantized already",
        ),
        (when.quantized is True and not quantized, "the weights are not quantized"),
        (
            when.dtype is not None and checkpoint.dtype != when.dtype,
            f"the model is {checkpoint.dtype} already",
        ),
        (
            when.min_gpus is not None and len(facts.devices) < when.min_gpus,
            f"it needs {when.min_gpus} GPUs, there is {len(facts.devices)}",
        ),
        (when.min_gpus is not None and device.mig, "a server sees one MIG slice, however many"),
    )
    reason = next((reason for holds, reason in checks if holds), None)
    return reason or _incapable(rung, checkpoint, facts)


def _incapable(rung: Rung, checkpoint: Checkpoint, facts: Facts) -> str | None:
    """Return why the card or this vLLM cannot do what a rung sets."""
    device, engine = facts.devices[0], facts.engine
    method, dtype = rung.args.get("quantization"), rung.args.get("kv-cache-dtype")
    if rung.args.get("dtype") in HALF and refuses_float16(checkpoint):
        return f"vLLM does not serve {checkpoint.model_type} in float16"
    if rung.fit == "tensor-parallel-size" and checkpoint.quantization == "bitsandbytes":
        return "vLLM does not split a bitsandbytes checkpoint over GPUs"
    if rung.fit == "checkpoint":
        reasons = [_unrunnable(c.quantization, facts) for c in _siblings(facts).values()]
        return reasons[0] if reasons and all(reasons) else None
    if isinstance(method, str) and (reason := _unrunnable(method, facts)):
        return reason
    if not isinstance(dtype, str):
        return None
    if engine.kv_cache_dtypes and dtype not in engine.kv_cache_dtypes:
        return f"vLLM {engine.version} has no {dtype} KV cache"
    mla = any(group.kind == "mla" for group in checkpoint.layer_groups or ())
    least = least_for_kv_cache(
        dtype,
        engine.release,
        mla=mla,
        flashinfer=engine.has_flashinfer,
        head_size=checkpoint.head_dim,
        sinks=checkpoint.model_type == "gpt_oss",
    )
    return shortage(f"{dtype} KV cache", least, device.name, device.capability)


def _unrunnable(method: str | None, facts: Facts) -> str | None:
    """Return why weights quantized in this way cannot be served here."""
    device, engine = facts.devices[0], facts.engine
    if method is None:
        return None
    if not engine.quantizes(method):
        return f"vLLM {engine.version} has no {method} quantization here"
    least = least_for_method(method, engine.release, engine.least_capability(method))
    return shortage(f"{method} quantization", least, device.name, device.capability)


def _siblings(facts: Facts) -> dict[str, Checkpoint]:
    return {name: c for name, c in facts.checkpoints.items() if name != facts.model}


def _runnable(facts: Facts) -> Facts:
    """Return the facts without the quantized siblings that cannot be served here."""
    lost = {name for name, c in _siblings(facts).items() if _unrunnable(c.quantization, facts)}
    kept = {name: c for name, c in facts.checkpoints.items() if name not in lost}
    return replace(facts, checkpoints=kept) if lost else facts
