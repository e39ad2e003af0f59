"""How many bytes a launch needs on each device: intervals, wide where little is known.

The high end of an interval proves that something fits, the low end that it cannot.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self

from .checkpoint import Checkpoint
from .config import LaunchConfig
from .device import Device
from .errors import BadUsage
from .interval import Interval
from .kv import Cache, Group, state_bytes, token_bytes
from .layers import Layers
from .outcome import Readings
from .overhead import (
    Version,
    activation_bytes,
    batch_defaults,
    graph_bytes,
    graphs_charged,
    non_torch_bytes,
)
from .weights import GIB, float_bytes, weight_bytes

__all__ = [
    "Calibration",
    "Footprint",
    "Interval",
    "batch_defaults",
    "footprint",
    "format_bytes",
    "parse_bytes",
]

UNITS = {
    "": 1,
    **{letter + "iB": 2 ** (10 * i) for i, letter in enumerate("KMGT", 1)},
    **{letter: 2 ** (10 * i) for i, letter in enumerate("KMGT", 1)},
    **{letter + "B": 1000**i for i, letter in enumerate("KMGT", 1)},
    "B": 1,
}


def parse_bytes(text: str) -> int:
    """Read an amount of memory: `11GiB` and `11G` are binary, `11GB` is decimal.

    Raises BadUsage for anything else, and for nothing at all.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+)\s*([KMGT]?i?B?)", text.strip(), re.IGNORECASE)
    units = {unit.lower(): factor for unit, factor in UNITS.items()}
    factor = units.get(match[2].lower()) if match else None
    if match is None or factor is None or int(float(match[1]) * factor) < 1:
        raise BadUsage(
            f"`{text}` is no amount of memory",
            "Write a number and a unit: 11GiB, 24G, 512MiB.",
        )
    return int(float(match[1]) * factor)


def format_bytes(number: float) -> str:
    """Write an amount of memory for a person: `11.0 GiB`, `512 MiB`."""
    if not math.isfinite(number):
        return "unknown"
    size = abs(number)
    if size >= GIB:
        return f"{number / GIB:.1f} GiB"
    if size >= 2**20:
        return f"{number / 2**20:.0f} MiB"
    return f"{number / 2**10:.0f} KiB" if size >= 2**10 else f"{number:.0f} B"


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """What a launch needs on each device, in bytes.

    `graphs_charged` says whether vLLM takes the CUDA graphs out of the budget before it sizes
    the KV cache; None where that depends on what is not known here. `notes` says what the
    estimate abstains on, and why.
    """

    weights: Interval
    activations: Interval
    graphs: Interval
    non_torch: Interval
    cache: Cache
    context: int
    max_num_seqs: int
    max_num_batched_tokens: int
    graphs_charged: bool | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def overhead(self) -> Interval:
        """Return what vLLM takes out of the budget before it sizes the KV cache."""
        low = 0.0 if not self.graphs_charged else self.graphs.low
        high = 0.0 if self.graphs_charged is False else self.graphs.high
        return self.weights + self.activations + self.non_torch + Interval(low, high)

    def kv_bytes(self, length: int, sequences: int = 1) -> Interval:
        """Return the KV cache that this many sequences of this length need."""
        return self.cache.bytes(length, sequences)

    def longest(
        self, available: Interval | float, sequences: int = 1, block: int = 16
    ) -> tuple[int, int]:
        """Return the tokens per sequence that surely fit in this KV cache, and that perhaps do.

        Whole blocks, and never more than the model's context.
        """
        budget = available if isinstance(available, Interval) else Interval.exactly(available)
        found = self.cache.longest(budget, sequences, block, self.context)
        return int(found.low), int(found.high)


def footprint(
    checkpoint: Checkpoint,
    config: LaunchConfig,
    device: Device,
    *,
    vllm: Version | None = None,
) -> Footprint:
    """Estimate what a launch needs on each of its devices."""
    notes: list[str] = []
    tp = config.integer("tensor-parallel-size", 1)
    pp = config.integer("pipeline-parallel-size", 1)
    tokens, seqs = batch_defaults(device, vllm, world=tp * pp)
    tokens = config.integer("max-num-batched-tokens", tokens)
    seqs = min(config.integer("max-num-seqs", seqs), tokens)
    graphs = graph_bytes(checkpoint, config, seqs, tp=tp, pp=pp)
    return Footprint(
        weights=weight_bytes(checkpoint, config, device, vllm=vllm, notes=notes),
        activations=activation_bytes(checkpoint, config, tokens, seqs, tp=tp, notes=notes),
        graphs=Interval(0, 0) if device.kind == "cpu" else graphs,
        non_torch=non_torch_bytes(device, tp * pp),
        cache=_cache(checkpoint, config, device, vllm=vllm, in_flight=tokens, notes=notes),
        context=checkpoint.context,
        max_num_seqs=seqs,
        max_num_batched_tokens=tokens,
        graphs_charged=graphs_charged(config, vllm),
        notes=tuple(notes),
    )


def _cache(
    checkpoint: Checkpoint,
    config: LaunchConfig,
    device: Device,
    *,
    vllm: Version | None,
    in_flight: int,
    notes: list[str],
) -> Cache:
    pp = config.integer("pipeline-parallel-size", 1)
    groups: tuple[Group, ...] | None = None
    if checkpoint.plan is None:
        name = checkpoint.architecture or checkpoint.model_type
        notes.append(f"KV cache: the layers of {name} are not known")
    else:
        alone = len(checkpoint.plan) == 1
        groups = tuple(_group(layers, checkpoint, config, pp, alone) for layers in checkpoint.plan)
    return Cache(
        groups=groups,
        block=_block(checkpoint, config, device),
        in_flight=Interval(in_flight, in_flight * (pp + 1)),
        null=Interval(vllm is not None and vllm >= (0, 30), vllm is None or vllm >= (0, 30)),
        all_tokens=_all_tokens(checkpoint, config, vllm),
    )


def _block(checkpoint: Checkpoint, config: LaunchConfig, device: Device) -> Interval:
    asked = config.integer("block-size", 0)
    mla = any(layers.kind == "mla" for layers in checkpoint.plan or ())
    if device.kind == "cpu":
        return Interval.exactly(16) if mla else Interval.exactly(asked or 128)
    if mla:
        return Interval(asked or 16, max(asked, 128))  # each MLA backend wants its own
    return Interval(asked or 16, asked or 64)


def _all_tokens(checkpoint: Checkpoint, config: LaunchConfig, vllm: Version | None) -> Interval:
    if config.args.get("disable-hybrid-kv-cache-manager") is True:
        return Interval(1, 1)
    chunked = any(layers.kind == "chunked" for layers in checkpoint.plan or ())
    connector = "kv-transfer-config" in config.args or "kv-offloading-size" in config.args
    return Interval(0, chunked or connector or vllm is None or vllm < (0, 11))


def _group(
    layers: Layers, checkpoint: Checkpoint, config: LaunchConfig, pp: int, alone: bool
) -> Group:
    tp = config.integer("tensor-parallel-size", 1)
    size = float_bytes(config)
    most = math.ceil(layers.count / pp)
    dtype = config.text("kv-cache-dtype") or "auto"
    token = Interval(0, 0)
    if layers.kind != "state":
        token = token_bytes(layers, tp=tp, size=size, dtype=dtype, stored=checkpoint.kv_quantized)
        if "kv-cache-dtype-skip-layers" in config.args:
            whole = token_bytes(layers, tp=tp, size=size, dtype="auto", stored=False)
            token = Interval(token.low, max(token.high, whole.high))
    wide = config.text("mamba-ssm-cache-dtype") == "float32"
    return Group(
        kind=layers.kind,
        layers=Interval(most if alone else max(1, layers.count // pp), most),
        token=token,
        window=layers.window,
        state=state_bytes(layers, tp=tp, size=size, wide=wide),
    )


# Flags and variables that change what the weights take, and what the rest takes.
WEIGHT_FLAGS = (
    *("quantization", "quantization-config", "dtype", "tensor-parallel-size", "load-format"),
    *("pipeline-parallel-size", "data-parallel-size", "enable-expert-parallel", "hf-overrides"),
    *("cpu-offload-gb", "cpu-offload-params", "offload-backend", "offload-group-size"),
    *("offload-num-in-group", "offload-prefetch-step", "offload-params", "language-model-only"),
)
STEP_FLAGS = (
    *("max-num-seqs", "max-num-batched-tokens", "enforce-eager", "compilation-config"),
    *("optimization-level", "cudagraph-capture-sizes", "max-cudagraph-capture-size"),
    *("limit-mm-per-prompt", "tensor-parallel-size", "pipeline-parallel-size", "dtype"),
)
VARIABLES = ("VLLM_USE_V2_MODEL_RUNNER", "VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS")

ROUNDING = 0.006 * GIB  # vLLM prints GiB with two decimals


def _key(config: LaunchConfig, flags: tuple[str, ...]) -> tuple[str, ...]:
    chosen = [f"{name}={config.args[name]}" for name in flags if name in config.args]
    chosen += [f"{name}={config.env[name]}" for name in VARIABLES if name in config.env]
    return (config.model, *chosen)


@dataclass(frozen=True, slots=True)
class Calibration:
    """What earlier boots of this walk measured, in bytes per device.

    `overheads` is what vLLM took out of its budget beside the weights.
    """

    weights: Mapping[tuple[str, ...], float] = field(default_factory=dict)
    overheads: Mapping[tuple[str, ...], float] = field(default_factory=dict)
    graphs: Mapping[tuple[str, ...], float] = field(default_factory=dict)

    def learned(self, config: LaunchConfig, readings: Readings, budget_bytes: int) -> Self:
        """Return this calibration with one boot's numbers added.

        `budget_bytes` is what vLLM could use of the device (`requested_bytes`).
        """
        weights, overheads, graphs = dict(self.weights), dict(self.overheads), dict(self.graphs)
        step = _key(config, STEP_FLAGS)
        if readings.weights_bytes is not None:
            weights[_key(config, WEIGHT_FLAGS)] = readings.weights_bytes
            # With the KV cache set by hand, or none printed, nothing says what the rest took.
            fixed = "kv-cache-memory-bytes" in config.args
            if readings.kv_bytes is not None and not fixed:
                rest = budget_bytes - readings.weights_bytes - readings.kv_bytes
                overheads[step] = max(0.0, rest)
        if readings.graph_bytes is not None:
            graphs[step] = readings.graph_bytes
        return type(self)(weights, overheads, graphs)

    def apply(self, footprint: Footprint, config: LaunchConfig) -> Footprint:
        """Return the estimate with what was measured in its place, where it still holds.

        Measured overhead already has in it what vLLM set aside for graphs.
        """
        step = _key(config, STEP_FLAGS)
        weights = self.weights.get(_key(config, WEIGHT_FLAGS))
        if weights is not None:
            footprint = replace(footprint, weights=_around(weights, ROUNDING))
        graphs = self.graphs.get(step)
        if graphs is not None:
            footprint = replace(footprint, graphs=_around(graphs, 0.1 * graphs + ROUNDING))
        overhead = self.overheads.get(step)
        if overhead is None:
            return footprint
        # Other weights bring other kernels: 1.13 GiB became 1.23 with fp8 (7B, vLLM 0.26).
        spread = 2 * ROUNDING if weights is not None else 0.2 * overhead + 0.1 * GIB
        return replace(
            footprint,
            activations=_around(overhead, spread),
            non_torch=Interval(0, 0),
            graphs_charged=False,
        )


def _around(value: float, spread: float) -> Interval:
    return Interval(max(0.0, value - spread), value + spread)
