"""Build a candidate from rungs: what each sets or fits, and why the others do not apply."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import replace

from ..checkpoint import Checkpoint
from ..memory import Calibration
from ..memory.setup import refuses_float16
from ..vllm.capability import dotted, least_for_kv_cache, least_for_method, shortage
from ..vllm.config import LaunchConfig
from ..vllm.multimodal import TEXT_ONLY
from .facts import Facts
from .fit import FITS, PIPELINE, TENSOR, Situation, most_utilization, states_that_fit
from .ladder import Rung
from .prediction import predict
from .trial import Applied, Candidate, Trial

HALF = ("half", "float16")
KINDS = {"cuda": "an NVIDIA GPU", "cpu": "a CPU"}


def build(
    facts: Facts,
    history: Sequence[Trial],
    calibration: Calibration,
    rungs: Sequence[Rung],
    withdrawn: Mapping[str, str],
) -> Candidate:
    """Apply these rungs together, and those that belong to the first candidate."""
    fitted = _fits(rungs, facts, ())
    offered = _fits(facts.ladder.rungs, facts, withdrawn)
    situation = Situation(_runnable(facts), history, calibration, fitted, offered)
    config = facts.base()
    by_name = {rung.name: rung for rung in facts.ladder.rungs}
    applied: dict[str, Applied] = {}
    skipped: dict[str, str] = {}

    def apply(rung: Rung) -> str | None:
        """Apply a rung, or return why it changes nothing."""
        nonlocal config
        reason = withdrawn.get(rung.name) or inapplicable(rung, config, facts)
        if reason:
            return reason
        args = {name: value for name, value in rung.args.items() if name not in facts.fixed}
        changed = config.replace(args, rung.env)
        if rung.fit:
            solved = FITS[rung.fit](situation, changed)
            if isinstance(solved, str):
                return solved
            changed = solved
        if changed == config:
            return "already set"
        # Where what another rung set is gone, that rung is too: what both set is ours then.
        gone = [
            other
            for other in applied.values()
            if _is_gone(other, rung.flags() | by_name[other.name].args.keys(), changed)
        ]
        for other in gone:
            del applied[other.name]
            skipped[other.name] = f"replaced by {rung.name}"
        before = config.replace({name: None for other in gone for name in other.args})
        for other in applied.values():  # it may have changed what another rung set
            now = {name: changed.args[name] for name in other.args}
            applied[other.name] = replace(other, args=now)
        args = {
            k: v
            for k, v in changed.args.items()
            if before.args.get(k) != v and not any(k in other.args for other in applied.values())
        }
        env = {k: v for k, v in changed.env.items() if config.env.get(k) != v}
        applied[rung.name] = Applied(name=rung.name, gives_up=rung.gives_up, args=args, env=env)
        config = changed
        return None

    chosen = [r for r in facts.ladder.rungs if r in rungs or belongs_to_start(r, situation)]
    # Which weights are served, and what needs no solving, comes before what is solved for them.
    first = [r for r in chosen if r.fit in (None, "checkpoint")]
    for rung in (*first, *(r for fit in FITS for r in chosen if r.fit == fit)):
        if rung.name not in applied and rung.name not in skipped and (reason := apply(rung)):
            skipped[rung.name] = reason
    return Candidate(
        config=config,
        rungs=tuple(applied[r.name] for r in facts.ladder.rungs if r.name in applied),
        predicted=predict(facts, calibration, config),
        skipped=skipped,
    )


def _is_gone(applied: Applied, exact: Container[str], config: LaunchConfig) -> bool:
    """Tell whether a configuration lacks what a rung set; what is not `exact` may be changed."""
    return any(
        config.args.get(name) != value if name in exact else name not in config.args
        for name, value in applied.args.items()
    )


def _fits(rungs: Sequence[Rung], facts: Facts, without: Container[str]) -> frozenset[str]:
    """Return what these rungs may solve."""
    fits = {rung.fit for rung in rungs if rung.name not in without}
    return frozenset(fit for fit in fits if fit and fit not in facts.fixed)


def belongs_to_start(rung: Rung, now: Situation) -> bool:
    """Tell whether a rung is part of the first candidate already.

    Utilization is, when vLLM's default share of the device is not free or not ours to use, and
    fewer sequences are, when the recurrent states of all would not fit. Several GPUs are, when the
    user asked for so many.
    """
    if rung.fit == "gpu-memory-utilization":
        return now.facts.engine.default_utilization > most_utilization(now, now.facts.base())
    if rung.fit == "max-num-seqs":
        return states_that_fit(now, now.facts.base()) is not None
    if rung.fit in (TENSOR, PIPELINE) and now.facts.workload.min_gpus > 1:
        return True
    return rung.start


def inapplicable(rung: Rung, config: LaunchConfig, facts: Facts) -> str | None:
    """Return the reason why a rung does not apply here, None if it does."""
    device, engine = facts.weakest, facts.engine
    checkpoint = facts.checkpoints[config.model]
    # What a fitted value needs beside it may be fixed: then the user's stands for the rung's.
    bound = rung.flags() - rung.args.keys() if rung.fit else rung.flags()
    fixed = sorted(bound & facts.fixed.keys())
    unknown = sorted(flag for flag in rung.flags() if not engine.knows(flag))
    quantized = checkpoint.quantization is not None or "quantization" in facts.fixed
    when, has = rung.when, device.capability
    if fixed:
        return f"you set --{', --'.join(fixed)} yourself"
    if unknown:
        return f"vLLM {engine.version} has no --{', --'.join(unknown)}"
    if when.device not in (None, device.kind):
        return f"needs {KINDS.get(when.device, when.device)}, this is {KINDS[device.kind]}"
    if when.min_capability and has and has < when.min_capability:
        least = dotted(when.min_capability)
        return f"needs compute capability {least}, {device.name} has {dotted(has)}"
    if when.max_capability and has and has > when.max_capability:
        return f"not needed on {device.name}"
    if when.quantized is False and quantized:
        return "the weights are already quantized"
    if when.quantized is True and not quantized:
        return "the weights are not quantized"
    if when.dtype not in (None, checkpoint.dtype):
        return f"only for {when.dtype} models, this one is {checkpoint.dtype}"
    if when.images and not checkpoint.takes_images:
        return "the model takes no images"
    if rung.args.get(TEXT_ONLY) and facts.workload.probe.image:
        return "you ask for answers about images: --probe-image"
    if when.min_gpus is not None and len(facts.devices) < when.min_gpus:
        return f"needs {when.min_gpus} GPUs, found {len(facts.devices)}"
    if (count := LaunchConfig("", rung.args).world_size) > len(facts.devices):
        return f"needs {count} GPUs, found {len(facts.devices)}"
    if when.min_gpus is not None and device.mig:
        return "vLLM can use only one MIG slice"
    return _incapable(rung, checkpoint, facts)


def _incapable(rung: Rung, checkpoint: Checkpoint, facts: Facts) -> str | None:
    """Return the reason why the card or this vLLM cannot do what a rung sets."""
    device, engine = facts.weakest, facts.engine
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
    least = least_for_kv_cache(
        dtype,
        engine.release,
        mla=any(layers.kind == "mla" for layers in checkpoint.layer_groups or ()),
        flashinfer=engine.has_flashinfer,
        head_size=checkpoint.head_dim,
        sinks=checkpoint.model_type == "gpt_oss",
    )
    return shortage(f"{dtype} KV cache", least, device.name, device.capability)


def _unrunnable(method: str | None, facts: Facts) -> str | None:
    """Return the reason why weights quantized in this way cannot be served here."""
    device, engine = facts.weakest, facts.engine
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
