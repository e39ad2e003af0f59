"""A simulated vLLM on CUDA cards: it takes memory, runs out of it, and prints what vLLM prints.

Weights, one profiling step, graphs, the KV cache and a serving load. What real boots on an H200
took, over what the arithmetic made of them, is drawn from: so the estimate is as wrong as it was
there. In every tenth machine it is plainly wrong.
"""

import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tests.support.paths import SHAPES
from vllm_autotune.checkpoint import Checkpoint, read_checkpoint
from vllm_autotune.launch.requirements import too_little_headroom, too_small
from vllm_autotune.machine.device import Device
from vllm_autotune.memory import Setup, batch_defaults, estimate
from vllm_autotune.memory.interval import Interval
from vllm_autotune.memory.overhead import beyond_share_bytes, step_bytes, tower_step_bytes
from vllm_autotune.outcome import (
    Certificate,
    Outcome,
    OutOfMemory,
    Phase,
    Readings,
    Rejected,
    Stable,
)
from vllm_autotune.search.build import inapplicable
from vllm_autotune.search.facts import Facts
from vllm_autotune.search.ladder import Ladder, Rung
from vllm_autotune.search.ladder_file import find_ladder, read_ladder
from vllm_autotune.search.step import Step, next_step
from vllm_autotune.search.trial import Candidate, Trial
from vllm_autotune.vllm.config import AUTO, LaunchConfig, Value
from vllm_autotune.vllm.engine import Engine
from vllm_autotune.workload import Workload

GIB = 2**30
HEADROOM = GIB // 4

# name, GiB, compute capability, count
CARDS: tuple[tuple[str, float, tuple[int, int], int], ...] = (
    ("NVIDIA GeForce RTX 2080 Ti", 10.7, (7, 5), 1),
    ("NVIDIA GeForce RTX 3060", 11.6, (8, 6), 1),
    ("Tesla T4", 14.6, (7, 5), 1),
    ("NVIDIA RTX A4000", 15.7, (8, 6), 1),
    ("NVIDIA L4", 22.0, (8, 9), 1),
    ("NVIDIA GeForce RTX 4090", 23.5, (8, 9), 1),
    ("NVIDIA GeForce RTX 3090", 23.6, (8, 6), 4),
    ("NVIDIA GeForce RTX 5090", 31.4, (12, 0), 1),
    ("NVIDIA A100-SXM4-40GB", 39.4, (8, 0), 1),
    ("NVIDIA L40S", 44.4, (8, 9), 2),
    ("NVIDIA A100-SXM4-80GB", 79.3, (8, 0), 1),
    ("NVIDIA H100 80GB HBM3", 79.2, (9, 0), 4),
    ("NVIDIA H200", 139.8, (9, 0), 2),
    ("NVIDIA B200", 178.4, (10, 0), 1),
)
WORKLOADS = (
    Workload(min_context=4096),
    Workload(context=16384, min_context=16384),
    Workload(context=8192, min_context=2048, concurrency=8),
    Workload(context=4096, min_context=4096, concurrency=32),
)


def checkpoints(folder: Path) -> dict[str, Checkpoint]:
    """Read the shapes beside this file, without weights."""
    found = {}
    for path in sorted(SHAPES.glob("*.json")):
        model = folder / path.stem
        model.mkdir()
        (model / "config.json").write_text(path.read_text())
        found[path.stem] = read_checkpoint(str(model), weights_required=False)
    return found


def cards(name: str, gib: float, capability: tuple[int, int], count: int) -> tuple[Device, ...]:
    """Return idle GPUs of one kind."""
    size = int(gib * GIB)
    return tuple(
        Device(
            kind="cuda",
            index=index,
            name=name,
            uuid=f"GPU-{index}",
            memory_bytes=size,
            free_bytes=size - int(0.45 * GIB),
            capability=capability,
            driver="570.1",
        )
        for index in range(count)
    )


FLAGS = (
    *("max-model-len", "max-num-seqs", "max-num-batched-tokens", "gpu-memory-utilization"),
    *("quantization", "kv-cache-dtype", "cpu-offload-gb", "tensor-parallel-size", "dtype"),
    *("pipeline-parallel-size", "distributed-executor-backend", "enforce-eager", "revision"),
    *("enable-expert-parallel", "data-parallel-size", "kv-offloading-size"),
)


def install(folder: Path, flags: Sequence[str] = FLAGS, version: str = "0.26.0") -> Path:
    """Write the text files that make a folder look like one with vLLM installed."""
    package = folder / "vllm"
    files = {
        "__init__.py": "",
        "_version.py": f"__version__ = version = '{version}'\n",
        "engine/arg_utils.py": "".join(f'parser.add_argument("--{flag}")\n' for flag in flags),
        "config/cache.py": "gpu_memory_utilization: float = Field(default=0.92)\n"
        'CacheDType = Literal["auto", "fp8"]\n',
        "model_executor/layers/quantization/__init__.py": (
            'QuantizationMethods = Literal["fp8", "bitsandbytes", "awq"]\n'
        ),
    }
    for name, text in files.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    (folder / f"vllm-{version}.dist-info").mkdir(exist_ok=True)
    (folder / "bitsandbytes").mkdir(exist_ok=True)
    return package


def engine(package: Path, version: str = "0.26.0") -> Engine:
    return Engine("python", package, version, "cuda", "2.9.0", ("python", "serve"))


def default_ladder(name: str = "default") -> Ladder:
    return read_ladder(find_ladder(name))


def gather(
    checkpoint: Checkpoint,
    devices: tuple[Device, ...],
    workload: Workload,
    engine: Engine,
    *,
    ladder: Ladder | None = None,
    fixed: Mapping[str, Value] = {},
    host_gib: float = 128,
    siblings: Mapping[str, Checkpoint] = {},
) -> Facts:
    """Return the facts of a cell as `gather_facts` would, with the context within the model's."""
    wanted = min(workload.context or checkpoint.default_context, checkpoint.context)
    shortest = min(workload.min_context, max(1, wanted if workload.context else wanted // 2))
    return Facts(
        model=checkpoint.path,
        checkpoints={checkpoint.path: checkpoint, **siblings},
        devices=devices,
        engine=engine,
        workload=replace(
            workload, context=wanted if workload.context else None, min_context=shortest
        ),
        ladder=ladder or default_ladder(),
        fixed=fixed,
        headroom_bytes=HEADROOM,
        host_free_bytes=int(host_gib * GIB),
    )


@dataclass(frozen=True, slots=True)
class Measured:
    """What boots took over what the formulas make of them."""

    steps: tuple[float, ...]
    beyond: tuple[float, ...]


def measured(checkpoints: Mapping[str, Checkpoint]) -> Measured:
    """Return the ratios of the boots beside the shapes."""
    steps, beyond = [], []
    for boot in json.loads((SHAPES / "booted" / "0.26.0-h200.json").read_text()):
        checkpoint = checkpoints[boot["shape"]]
        args = {"max-num-batched-tokens": boot["tokens"], "max-num-seqs": boot["sequences"]}
        env = {"VLLM_USE_V2_MODEL_RUNNER": "1" if boot["runner"] == "v2" else "0"}
        device = cards("NVIDIA H200", 139.8, (9, 0), 1)[0]
        setup = Setup(checkpoint, LaunchConfig("m", args, env), device, (0, 26))
        steps.append(boot["activations"] / step_bytes(setup).low)
        by_formula = beyond_share_bytes(setup, boot["activations"], boot["graphs"])
        beyond.append((boot["used"] - boot["requested"]) / by_formula)
    return Measured(tuple(steps), tuple(beyond))


@dataclass(frozen=True, slots=True)
class Needs:
    """What a configuration really takes on each device, in bytes.

    `charged` of the graphs come out of the share, `beyond` is taken on top of it in the end.
    """

    weights: float
    activations: float
    non_torch: float
    graphs: float
    charged: float
    beyond: float

    @property
    def overhead(self) -> float:
        """What vLLM takes out of its share before it sizes the KV cache."""
        return self.weights + self.activations + self.non_torch + self.charged


class Machine:
    """One card or several, and a vLLM on them with its own hidden numbers."""

    def __init__(self, facts: Facts, seed: int, ratios: Measured, *, noise: bool = True) -> None:
        self.seed, self.ratios = seed, ratios
        dice = random.Random(seed)
        self.facts = facts
        self.noise = random.Random(seed + 1) if noise else None
        self.step = dice.choice(ratios.steps)
        self.beyond = dice.choice(ratios.beyond)
        self.non_torch = dice.uniform(0.1, 0.35) * GIB  # 0.22 GiB on an H200
        self.nccl = dice.uniform(0, 0.8) * GIB
        self.graphs = dice.uniform(0.5, 1.1)  # 0.5 to 1.0 measured
        self.scale = dice.uniform(0.0, 1.0)  # where in the arithmetic's own interval
        # Blocks of 16 tokens without padding, as on an H200, or anything up to the most.
        self.padding = dice.choice((0.0, 0.0, 0.0, dice.uniform(0.0, 1.0)))
        if dice.random() < 0.1:  # an estimate that is plainly wrong
            self.step *= dice.choice((0.5, 1.5, 2.0))
            self.beyond *= dice.choice((1.0, 1.5))
            self.graphs *= dice.choice((1.0, 2.0))
        self.tower = dice.uniform(0.0, 1.0)  # where in the interval of its vision tower's step

    def within(self, interval: Interval, scale: float | None = None) -> float:
        assert interval.known
        scale = self.scale if scale is None else scale
        return interval.low + scale * (interval.high - interval.low)

    def needs(self, config: LaunchConfig) -> Needs:
        setup = self.facts.setup(config)
        world = len(self.facts.used(config))
        expected = estimate(setup)
        # One model's ratio differs from step to step: by 0.02 to 0.1 on an H200.
        own = random.Random(
            f"{self.seed} {setup.tokens} {setup.sequences} {config.args.get('quantization')}"
        )
        step = self.step * own.uniform(0.95, 1.05) * step_bytes(setup).low
        # The tower looks at its largest image first, and gives back what it took for it.
        activations = max(step, self.within(tower_step_bytes(setup), self.tower))
        graphs = self.graphs * expected.graphs.middle
        charged = graphs if setup.graphs_charged else 0.0
        return Needs(
            weights=self.within(expected.weights),
            activations=activations,
            non_torch=self.non_torch + (self.nccl if world > 1 else 0),
            graphs=graphs,
            charged=charged * own.uniform(0.85, 1.0),
            beyond=self.beyond
            * own.uniform(0.95, 1.05)
            * beyond_share_bytes(setup, activations, graphs),
        )

    def kv_bytes(self, config: LaunchConfig, length: int, sequences: int) -> float:
        needed = estimate(self.facts.setup(config)).kv_bytes(length, sequences)
        return needed.low + self.padding * (needed.high - needed.low)

    def longest(self, config: LaunchConfig, available: float, sequences: int = 1) -> int:
        """Return the longest length whose sequences fit, in whole blocks of 16."""
        low, high = 0, self.facts.checkpoint.context // 16
        while low < high:
            middle = (low + high + 1) // 2
            fits = self.kv_bytes(config, middle * 16, sequences) <= available
            low, high = (middle, high) if fits else (low, middle - 1)
        return low * 16

    def physical(self) -> int:
        """Return what is free on the fullest device, whatever limit is rehearsed."""
        return min(d.free_bytes for d in self.facts.devices)

    def launch(self, candidate: Candidate) -> Trial:
        return Trial.of(candidate, *self.run(candidate.config))

    def run(self, config: LaunchConfig) -> tuple[Outcome, Readings]:
        facts, free = self.facts, self.physical()
        checkpoint = facts.checkpoints[config.model]
        tp = config.integer("tensor-parallel-size", 1)
        pp = config.integer("pipeline-parallel-size", 1)
        total = facts.devices[0].memory_bytes
        share = config.number("gpu-memory-utilization") or facts.engine.default_utilization
        readings = Readings(
            version="0.26.0",
            model_runner=facts.setup(config).model_runner,
            utilization=share,
            total_bytes=total,
        )
        if tp * pp > len(facts.devices) or checkpoint.heads % tp:
            return Rejected(cause="bad_parallel", phase="config", reason="heads"), readings
        if config.integer("max-model-len", 1) > checkpoint.context:
            return Rejected(cause="too_long", phase="config", reason="length"), readings
        requested = math.ceil(total * share)
        assert requested <= free, "more was asked for than is free"
        need = self.needs(config)
        if need.weights + need.non_torch > free:
            return _ran_out("load", "weights"), readings
        readings = replace(readings, weights_bytes=_rounded(need.weights))
        if need.weights + need.non_torch + need.activations > free:
            return _ran_out("profile", "step"), readings
        kv = requested - need.overhead
        if self.noise:
            kv += self.noise.uniform(-3.5, 3.5) * 2**20  # 7 MiB between two starts on an H200
        readings = replace(
            readings,
            kv_bytes=_rounded(kv),
            activation_bytes=_rounded(need.activations),
            non_torch_bytes=_rounded(need.non_torch),
        )
        if kv <= 0:
            return _ran_out("kv_cache", "no_kv", shortfall=int(-kv)), readings
        length = facts.length(config)
        if config.text("max-model-len") == AUTO:
            served = min(self.longest(config, kv), checkpoint.default_context)
            if served < length:
                return _ran_out("kv_cache", "auto_fit_too_short", limit=served or None), readings
            length = served
            readings = replace(readings, max_model_len=served)
        expected = estimate(facts.setup(config))
        if expected.states * self.within(expected.cache.state_block) > kv:
            blocks = int(kv / self.within(expected.cache.state_block))
            readings = replace(readings, max_num_seqs=blocks)
            return _ran_out("graphs", "mamba_blocks"), readings
        one = self.kv_bytes(config, length, 1)
        if one > kv:
            limit = self.longest(config, kv)
            readings = replace(
                readings, kv_needed_bytes=_rounded(one), estimated_max_model_len=limit or None
            )
            failure = _ran_out("kv_cache", "kv_small", int(one - kv), limit or None)
            return failure, readings
        concurrency = round(kv / one, 2)
        tokens = int(kv / one * length)
        readings = replace(readings, concurrency=concurrency, kv_tokens=tokens)
        small = too_small(facts, config, readings)
        if small is not None:
            return small, readings
        if requested + need.beyond / 2 > free:
            return _ran_out("graphs", "graphs", tried=2 * 2**20), readings
        readings = replace(readings, graph_bytes=_rounded(need.graphs))
        least = free - requested - need.beyond
        if least < 0:
            return _ran_out("serving", "request", tried=256 * 2**20), readings
        proof = Certificate(checks=(), seconds=1.0, least_free_bytes=int(least))
        return too_little_headroom(facts, proof) or Stable(certificate=proof), readings

    def walk(self, most: int = 40) -> tuple[list[Trial], Step]:
        """Walk to the end, or give up after `most` launches."""
        history: list[Trial] = []
        while True:
            step = next_step(self.facts, history)
            if step.candidate is None or len(history) >= most:
                return history, step
            history.append(self.launch(step.candidate))

    def reserves(self, config: LaunchConfig) -> bool:
        """Tell whether vLLM finds as much free memory as its share asks for."""
        facts = self.facts
        share = config.number("gpu-memory-utilization") or facts.engine.default_utilization
        return math.ceil(facts.devices[0].memory_bytes * share) <= self.physical()

    def stable(self, config: LaunchConfig) -> bool:
        return isinstance(self.run(config)[0], Stable)

    def can_do_with(self, rungs: Sequence[Rung]) -> bool:
        """Tell whether these rungs are enough, at their strongest and at any share of memory."""
        config = self.strongest(rungs)
        return any(
            self.stable(config.replace({"gpu-memory-utilization": share}))
            for share in self.shares(config)
            if share > 0
        )

    def strongest(self, rungs: Sequence[Rung]) -> LaunchConfig:
        """Return the configuration of these rungs that takes least memory."""
        facts = self.facts
        config = facts.base()
        for rung in facts.ladder.rungs:
            if (rung not in rungs and not rung.start) or inapplicable(rung, config, facts):
                continue
            config = config.replace(rung.args, rung.env)
            most = self.most(rung, config) if rung.fit else 0
            if rung.fit and most:
                config = config.replace({rung.fit: most})
        return config

    def most(self, rung: Rung, config: LaunchConfig) -> int:
        """Return the value of a fitted flag that takes least memory, 0 for none."""
        facts, checkpoint = self.facts, self.facts.checkpoint
        if rung.fit == "max-model-len":
            return facts.workload.min_context
        if rung.fit == "max-num-seqs":
            return max(64, facts.workload.concurrency)
        if rung.fit == "max-num-batched-tokens":
            return 2048 if batch_defaults(facts.devices[0], config, (0, 26))[0] > 2048 else 512
        if rung.fit == "cpu-offload-gb":
            return int(min(facts.host_free_bytes / 1.9, self.needs(config).weights) / GIB)
        if rung.fit == "tensor-parallel-size":
            return max(n for n in range(1, len(facts.devices) + 1) if checkpoint.heads % n == 0)
        return 0

    def shares(self, config: LaunchConfig) -> Iterator[float]:
        """Yield the shares of memory worth trying, the largest first."""
        facts = self.facts
        most = min(facts.budget(d) / d.utilization_base for d in facts.used(config))
        yield from (math.floor((most - n * 0.0025) * 10_000) / 10_000 for n in range(160))

    def best_length(
        self, config: LaunchConfig, *, any_share: bool = True, spare_bytes: int = 0
    ) -> int:
        """Return the longest stable context of a configuration, at any utilization or at its own.

        So many bytes of the KV cache are left out. No utilization is worth trying after the first
        stable one: less memory is less context.
        """
        facts, need, free = self.facts, self.needs(config), self.physical()
        if need.weights + need.non_torch + need.activations > free:
            return 0
        own = config.number("gpu-memory-utilization") or facts.engine.default_utilization
        for share in self.shares(config) if any_share else [own]:
            kv = math.ceil(facts.devices[0].memory_bytes * share) - need.overhead
            used = math.ceil(facts.devices[0].memory_bytes * share) + need.beyond
            if kv > 0 and free - used >= facts.headroom_bytes:
                longest = self.longest(config, kv - spare_bytes, facts.workload.concurrency)
                return min(longest, facts.context)
        return 0


def _rounded(number: float) -> int:
    """As vLLM prints it: GiB with two decimals."""
    return int(round(number / GIB, 2) * GIB)


def _ran_out(
    phase: Phase,
    cause: str,
    shortfall: int | None = None,
    limit: int | None = None,
    tried: int | None = None,
) -> OutOfMemory:
    return OutOfMemory(
        cause=cause, phase=phase, reason=cause, shortfall_bytes=shortfall, limit=limit
    )
