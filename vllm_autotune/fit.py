"""Solve the numbers of a candidate from what is known: no guessing where vLLM printed one.

`build` applies rungs to the base configuration. A rung with `fit` has a solver here that
returns the changed configuration, or a sentence why the rung changes nothing.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .config import LaunchConfig
from .facts import Applied, Attempt, Facts, expect, predict
from .ladder import Rung
from .memory import Calibration, batch_defaults, format_bytes
from .outcome import Hung, OutOfMemory

GIB = 2**30

# Phases in which memory outside the KV cache ran out: there the KV cache must leave more room.
OUTSIDE_KV = ("graphs", "warmup", "serving")
# How often the utilization is lowered, and how much more than ran out is left each time.
UTILIZATION_STEPS = 4
UTILIZATION_STEP = GIB // 4
SEQUENCES = (64, 16, 4, 1)
BATCHED_TOKENS = (2048, 512)

# What the KV cache of one configuration varies by from launch to launch, doubled: 7 MiB between
# two starts on an H200 (vLLM 0.26), 4 MiB on a CPU (0.32).
NOISE_BYTES = {"cuda": 14 * 2**20, "cpu": 8 * 2**20}

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


@dataclass(frozen=True, slots=True)
class Draft:
    """A configuration, the rungs that shaped it, and why the others did not."""

    config: LaunchConfig
    applied: tuple[Applied, ...]
    reasons: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Situation:
    """What a solver may look at.

    `fitted` are the flags that rungs of this draft solve.
    """

    facts: Facts
    history: Sequence[Attempt]
    calibration: Calibration
    fitted: frozenset[str] = frozenset()

    def failures(self, *phases: str) -> list[Attempt]:
        """Return the attempts that ran out of memory (or hung) in one of these phases."""
        return [
            a
            for a in self.history
            if isinstance(a.outcome, OutOfMemory | Hung) and a.outcome.phase in phases
        ]

    def unanswered(self) -> list[Attempt]:
        """Return the attempts whose step was too large, and no lower utilization answers that."""
        lowered = "gpu-memory-utilization" in self.fitted
        return self.failures("profile", *(() if lowered else OUTSIDE_KV))

    def defaults(self, config: LaunchConfig) -> tuple[int, int]:
        """Return batched tokens and sequences as this vLLM would choose them."""
        return batch_defaults(self.facts.used(config)[0], self.facts.engine.release)


def build(
    facts: Facts,
    history: Sequence[Attempt],
    calibration: Calibration,
    rungs: Sequence[Rung],
    withdrawn: Mapping[str, str],
) -> Draft:
    """Apply these rungs together, and those that belong to the first candidate."""
    fitted = frozenset(r.fit for r in rungs if r.fit and r.fit not in facts.fixed)
    situation = Situation(facts, history, calibration, fitted)
    config = facts.base()
    applied: dict[str, Applied] = {}
    reasons: dict[str, str] = {}

    def apply(rung: Rung) -> None:
        nonlocal config
        reason = withdrawn.get(rung.name) or _inapplicable(rung, config, facts)
        if reason:
            reasons[rung.name] = reason
            return
        changed = config.replace(rung.args, rung.env)
        if rung.fit:
            solved = SOLVERS[rung.fit](situation, changed)
            if isinstance(solved, str):
                reasons[rung.name] = solved
                return
            changed = solved
        if changed == config:
            reasons[rung.name] = "it is so already"
            return
        args = {k: v for k, v in changed.args.items() if config.args.get(k) != v}
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
        return now.facts.engine.default_utilization > _most_utilization(now, now.facts.base())
    return rung.start


def _inapplicable(rung: Rung, config: LaunchConfig, facts: Facts) -> str | None:
    """Return why a rung does not apply here, None if it does."""
    device, engine = facts.used(config)[0], facts.engine
    checkpoint = facts.checkpoints[config.model]
    fixed = sorted(rung.flags() & set(facts.fixed))
    unknown = sorted(flag for flag in rung.flags() if not engine.knows(flag))
    quantized = checkpoint.quantization is not None or "quantization" in config.args
    when, capability = rung.when, device.capability
    method, kv_dtype = rung.args.get("quantization"), rung.args.get("kv-cache-dtype")
    checks = (
        (bool(fixed), f"you fixed --{', --'.join(fixed)}"),
        (bool(unknown), f"vLLM {engine.version} does not know --{', --'.join(unknown)}"),
        (
            bool(method and engine.quantizations) and method not in engine.quantizations,
            f"vLLM {engine.version} has no {method} quantization here",
        ),
        (
            bool(kv_dtype and engine.kv_cache_dtypes) and kv_dtype not in engine.kv_cache_dtypes,
            f"vLLM {engine.version} has no {kv_dtype} KV cache",
        ),
        (
            when.device is not None and when.device != device.kind,
            f"it is for {when.device}, this is {device.kind}",
        ),
        (
            bool(when.min_capability and capability and capability < when.min_capability),
            f"it needs compute capability {_dotted(when.min_capability)}, "
            f"{device.name} has {_dotted(capability)}",
        ),
        (
            bool(when.max_capability and capability and capability > when.max_capability),
            f"{device.name} does not need it",
        ),
        (
            when.quantized is False and quantized and config.text("quantization") != method,
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
    )
    return next((reason for holds, reason in checks if holds), None)


def _dotted(capability: tuple[int, int] | None) -> str:
    return ".".join(map(str, capability or ()))


def _most_utilization(now: Situation, config: LaunchConfig) -> float:
    """Return the largest share of the devices that may be used, rounded down to 1/10000."""
    facts, beyond = now.facts, _beyond_share(now, config)
    shares = [
        min(facts.budget(d), d.free_bytes - facts.headroom_bytes - beyond) / d.shared_out
        for d in facts.used(config)
    ]
    return math.floor(min(shares) * 10_000) / 10_000


def _beyond_share(now: Situation, config: LaunchConfig) -> float:
    """Return what a launch takes beyond the share it is given.

    These are graphs that vLLM does not set aside, and what kernels allocate when they first run.
    """
    facts = now.facts
    graphs = _graphs_guess(facts, config)
    # Which runner it is, the first log tells; V1 sets graphs aside where V2 may not.
    known = any(a.readings.model_runner == "v1" for a in now.history)
    charged = expect(facts, Calibration(), config).graphs_charged
    beyond = 0.0 if charged or (charged is None and known) else graphs
    for attempt in now.failures(*OUTSIDE_KV):
        failed, outcome = attempt.candidate.config, attempt.outcome
        if not isinstance(outcome, OutOfMemory):
            continue
        free = min(d.free_bytes for d in facts.used(failed))
        left = free - attempt.candidate.predicted.reserved_bytes
        if outcome.shortfall_bytes is None:  # it took more than all that was left
            took = left + max(UTILIZATION_STEP, 2 * (attempt.readings.tried_bytes or 0))
        else:  # so much was lacking of the headroom
            took = left + outcome.shortfall_bytes - facts.headroom_bytes + 2 * NOISE_BYTES["cuda"]
        before = _graphs_guess(facts, failed)
        beyond = max(beyond, took - max(0.0, before - graphs))
    return beyond


def _graphs_guess(facts: Facts, config: LaunchConfig) -> float:
    # The high end holds 2.5 times what was measured once.
    return 0.4 * expect(facts, Calibration(), config).graphs.high


def fit_utilization(now: Situation, config: LaunchConfig) -> LaunchConfig | str:
    """Take all that is free, less what is taken beyond that share."""
    if len(now.failures(*OUTSIDE_KV)) > UTILIZATION_STEPS:
        return f"it was lowered {UTILIZATION_STEPS} times"
    most = _most_utilization(now, config)
    if most <= 0:
        return "no memory is free"
    return config.replace({"gpu-memory-utilization": most})


def fit_sequences(now: Situation, config: LaunchConfig) -> LaunchConfig | str:
    """Cap the sequences: at the number vLLM named, else in steps down to the concurrency."""
    _, current = now.defaults(config)
    current = config.integer("max-num-seqs", current)
    named = [a.readings.max_num_seqs for a in now.history if a.readings.max_num_seqs]
    failed = [
        a.candidate.config.integer("max-num-seqs", current)
        for a in now.unanswered()
    ]
    below = min([current, *failed])
    floor = now.facts.workload.concurrency
    steps = [max(step, floor) for step in (*named, *SEQUENCES)]
    lower = next((step for step in steps if step < below), None)
    if lower is None:
        return f"{below} sequences are few already"
    return config.replace({"max-num-seqs": lower})


def fit_batched_tokens(now: Situation, config: LaunchConfig) -> LaunchConfig | str:
    """Read prompts in smaller pieces, which profiling and serving hold activations for."""
    tokens, sequences = now.defaults(config)
    tokens = config.integer("max-num-batched-tokens", tokens)
    sequences = config.integer("max-num-seqs", sequences)
    failed = [
        a.candidate.config.integer("max-num-batched-tokens", tokens)
        for a in now.unanswered()
    ]
    below = min([tokens, *failed])
    lower = next((n for n in BATCHED_TOKENS if sequences <= n < below), None)
    if lower is None:
        return f"{below} tokens a batch are few already"
    return config.replace({"max-num-batched-tokens": lower})


def fit_checkpoint(now: Situation, config: LaunchConfig) -> LaunchConfig | str:
    """Take the largest quantized sibling that may fit, which gives up least."""
    siblings = sorted(
        (name for name in now.facts.checkpoints if name != now.facts.model),
        key=lambda name: -(now.facts.checkpoints[name].weight_bytes or 0),
    )
    failed = {a.candidate.config.model for a in now.failures("load")}
    for name in siblings:
        candidate = config.replace(model=name)
        if name not in failed and _shortest_fits(now, candidate):
            return candidate
    if siblings:
        return "no quantized checkpoint next to the model is small enough"
    return "no quantized checkpoint lies next to the model"


def fit_tensor_parallel(now: Situation, config: LaunchConfig) -> LaunchConfig | str:
    """Split layers over the fewest GPUs that divide the heads and may fit."""
    checkpoint = now.facts.checkpoints[config.model]
    heads, kv_heads = checkpoint.heads, max(1, checkpoint.kv_heads)
    sizes = [
        n
        for n in range(2, len(now.facts.devices) + 1)
        if heads % n == 0 and (kv_heads % n == 0 or n % kv_heads == 0)
    ]
    if not sizes:
        return f"no number of GPUs up to {len(now.facts.devices)} divides {heads} heads"
    return _first_that_fits(now, config, "tensor-parallel-size", sizes)


def fit_pipeline_parallel(now: Situation, config: LaunchConfig) -> LaunchConfig | str:
    """Deal layers out to the GPUs that tensor parallel leaves."""
    groups = len(now.facts.devices) // config.integer("tensor-parallel-size", 1)
    layers = now.facts.checkpoints[config.model].layers
    sizes = list(range(2, min(groups, layers) + 1))
    if not sizes:
        return "tensor parallel uses every GPU already"
    return _first_that_fits(now, config, "pipeline-parallel-size", sizes)


def _first_that_fits(
    now: Situation, config: LaunchConfig, flag: str, sizes: Sequence[int]
) -> LaunchConfig | str:
    # A size that ran out of memory before is not tried again: the next one splits finer.
    failed = max((a.candidate.config.integer(flag, 1) for a in now.failures("load")), default=1)
    for size in sizes:
        candidate = config.replace({flag: size})
        if size > failed and _shortest_fits(now, candidate):
            return candidate
    return f"even {sizes[-1]} GPUs are too small together"


def fit_offload(now: Situation, config: LaunchConfig) -> LaunchConfig | str:
    """Put as many whole GiB of the weights into host memory as the KV cache lacks."""
    original, weights = config, predict(now.facts, now.calibration, config).weights.high
    # Pinned host copies took 1.9 times the offloaded bytes (vLLM issue 56410).
    most = min(now.facts.host_free_bytes / 1.9, weights)
    failed = now.failures("load", "profile", "kv_cache")
    already = max((a.candidate.config.integer("cpu-offload-gb", 0) for a in failed), default=0)
    if already:  # what it lacked is measured, and a shorter context may be what is missing
        config = _shortest(now, config.replace({"cpu-offload-gb": already}))
    lacking = _lacking(now, config)
    if lacking > most:
        lacking = _lacking(now, _shortest(now, config))
    if math.isinf(lacking):
        return "the arithmetic does not know this architecture"
    gib = already + max(0, math.ceil(lacking / GIB))
    if gib == 0:
        return "the weights leave room enough"
    if gib * GIB > most:
        return f"{gib} GiB are lacking, {format_bytes(most)} of weights can lie in host memory"
    return original.replace({"cpu-offload-gb": gib})


def _lacking(now: Situation, config: LaunchConfig) -> float:
    prediction = predict(now.facts, now.calibration, config)
    return prediction.kv_needed.high - prediction.kv_available.low


def fit_context(now: Situation, config: LaunchConfig) -> LaunchConfig | str:
    """Serve the longest context that fits, down to the shortest the user accepts."""
    facts, workload = now.facts, now.facts.workload
    wanted = facts.context
    footprint = expect(facts, now.calibration, config)
    block = int(footprint.cache.block.low)
    stuck = [a for a in now.failures("serving") if _differs_in_length(a, config)]
    prediction = predict(facts, now.calibration, config)
    if prediction.fits == "unknown":
        limit = _printed_limit(now, config)
        length = int(limit * 0.98) if limit else wanted
    elif prediction.kv_available.low >= prediction.kv_needed.high and not stuck:
        return "the whole context fits"
    else:
        room = prediction.kv_available
        available = room.high
        if prediction.measured:
            available = (room.low + room.high) / 2 - NOISE_BYTES[facts.devices[0].kind]
        length = footprint.longest(max(0.0, available), workload.concurrency, block)[1]
    if stuck:
        length = min(length, facts.length(stuck[-1].candidate.config) * 3 // 4)
    length = min(length, wanted) if length >= wanted else length // block * block
    if length == wanted:
        return "the whole context may fit"
    if length < workload.min_context:
        return (
            f"at most {max(0, length):,} tokens fit, fewer than the {workload.min_context:,} "
            "you accept"
        )
    return config.replace({"max-model-len": length})


def _printed_limit(now: Situation, config: LaunchConfig) -> int | None:
    """Return the longest length vLLM printed for a configuration that differs only in it."""
    for attempt in reversed(now.history):
        if isinstance(attempt.outcome, OutOfMemory) and _differs_in_length(attempt, config):
            return attempt.outcome.limit
    return None


def _differs_in_length(attempt: Attempt, config: LaunchConfig) -> bool:
    """Tell whether an attempt's configuration is the same but for its length."""
    nothing = {"max-model-len": None}
    return attempt.candidate.config.replace(nothing) == config.replace(nothing)


def _shortest(now: Situation, config: LaunchConfig) -> LaunchConfig:
    """Return the configuration with the shortest acceptable context, if a rung may shorten it."""
    if "max-model-len" not in now.fitted:
        return config
    return config.replace({"max-model-len": min(now.facts.workload.min_context, now.facts.context)})


def _shortest_fits(now: Situation, config: LaunchConfig) -> bool:
    """Tell whether the shortest acceptable context is not ruled out."""
    return predict(now.facts, now.calibration, _shortest(now, config)).fits != "no"


SOLVERS: dict[str, Callable[[Situation, LaunchConfig], LaunchConfig | str]] = {
    "checkpoint": fit_checkpoint,
    "tensor-parallel-size": fit_tensor_parallel,
    "pipeline-parallel-size": fit_pipeline_parallel,
    "gpu-memory-utilization": fit_utilization,
    "max-num-seqs": fit_sequences,
    "max-num-batched-tokens": fit_batched_tokens,
    "cpu-offload-gb": fit_offload,
    "max-model-len": fit_context,
}
