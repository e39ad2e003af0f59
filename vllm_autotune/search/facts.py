"""Everything known before the first launch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ..checkpoint import Checkpoint
from ..machine.device import Device, differ
from ..memory import Boot, Setup, Stage, batch_defaults, even_stages, weight_bytes
from ..vllm.config import LaunchConfig, Value
from ..vllm.engine import Engine
from ..workload import Workload
from .ladder import Ladder


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything known before the first launch.

    `fixed` are the user's own vLLM arguments, never changed, and `env` the variables of vLLM that
    were set already. `checkpoints` maps what vLLM may be given as a model (the user's, and
    quantized siblings) to what it is. `headroom_bytes` must stay free on each device,
    `host_free_bytes` is what weights may be offloaded into, `shared_free_bytes` of it what segments
    of shared memory may take (None: as much). `boots` is what earlier walks measured on devices of
    this kind with this vLLM, `withheld` are those of the user's arguments that must not be written
    down, `left_out` are the names of these and of what belongs to the deployment. `asked` are
    autotune's own options as the command line has them, by name; a flag is an empty word.
    `busy` are devices of the same kind that others use, `left_alone` says why these and any of
    another kind are not used.
    `draft` is the model that drafts, where it can be read.
    """

    model: str
    checkpoints: Mapping[str, Checkpoint]
    devices: tuple[Device, ...]
    engine: Engine
    workload: Workload
    ladder: Ladder
    fixed: Mapping[str, Value]
    headroom_bytes: int
    host_free_bytes: int = 0
    shared_free_bytes: int | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    boots: tuple[Boot, ...] = ()
    withheld: Mapping[str, Value] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    asked: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    busy: tuple[Device, ...] = ()
    left_alone: tuple[str, ...] = ()
    draft: Checkpoint | None = None

    @property
    def checkpoint(self) -> Checkpoint:
        return self.checkpoints[self.model]

    @property
    def context(self) -> int:
        """The context wanted, in tokens: the user's, the fixed one, or the model's own."""
        fixed = LaunchConfig(self.model, self.fixed).max_model_len
        return fixed or self.workload.context or self.checkpoint.default_context

    def base(self) -> LaunchConfig:
        """Return the model as it is, with the user's arguments and wanted context."""
        config = LaunchConfig(self.model, self.fixed, self.env)
        if self.workload.context and "max-model-len" not in self.fixed:
            config = config.replace({"max-model-len": self.workload.context})
        config = config.replace(self._as_on_the_rehearsed_card(config))
        wanted, usual = self.workload.concurrency, self.batch_defaults(config)[1]
        if "max-num-seqs" not in self.fixed and wanted > config.integer("max-num-seqs", usual):
            config = config.replace({"max-num-seqs": wanted})
        return config

    def setup(self, config: LaunchConfig) -> Setup:
        """Return what is launched on each device, or where they differ, on the one with least room.

        That is where the KV cache likely holds the fewest tokens.
        """
        setups = self.setups(config)
        return setups[0] if len(setups) == 1 else min(setups, key=self._room)

    def setups(self, config: LaunchConfig) -> tuple[Setup, ...]:
        """Return what is launched on each stage of a pipeline; one where all are the same."""
        used, partition = self.used(config), config.partition
        if partition is None and not differ(used):
            return (self._setup(config, used[0], None),)
        layers, stages = self.checkpoints[config.model].layers, config.pipeline_parallel
        counts = partition or even_stages(layers, stages)
        return tuple(self.staged(config, n, count) for n, count in enumerate(counts))

    def staged(self, config: LaunchConfig, number: int, layers: int) -> Setup:
        """Return what is launched on one stage of a pipeline that has so many layers."""
        used, stages = self.used(config), config.pipeline_parallel
        each = max(1, len(used) // stages)
        own = used[number * each : (number + 1) * each] or used[-1:]
        smallest = min(own, key=lambda device: device.utilization_base)
        stage = Stage(layers, first=number == 0, last=number == stages - 1, leader=used[0])
        return self._setup(config, smallest, stage)

    def _setup(self, config: LaunchConfig, device: Device, stage: Stage | None) -> Setup:
        checkpoint, logprobs = self.checkpoints[config.model], self.workload.probe.logprobs
        release = self.engine.release
        return Setup(checkpoint, config, device, release, logprobs, self.draft, stage)

    def _room(self, setup: Setup) -> float:
        """Return the bytes that a stage has beside the weights, for each of its layers."""
        left = self.reserved_by(setup.device, setup.config) - weight_bytes(setup)
        layers = setup.stage.layers if setup.stage else 1
        return left.middle / max(1, layers)

    def batch_defaults(self, config: LaunchConfig) -> tuple[int, int]:
        """Return batched tokens and sequences as this vLLM would choose them."""
        return batch_defaults(self.devices[0], config, self.engine.release)

    def _as_on_the_rehearsed_card(self, config: LaunchConfig) -> dict[str, Value]:
        """Return what vLLM would choose by itself on a card as small as the limit, if not here."""
        device = self.devices[0]
        size = min(device.memory_bytes, device.limit_bytes or device.memory_bytes)
        smaller = replace(device, memory_bytes=size)
        tokens, sequences = batch_defaults(smaller, config, self.engine.release)
        if (tokens, sequences) == self.batch_defaults(config):
            return {}
        tokens = config.integer("max-num-batched-tokens", tokens)
        chosen: dict[str, Value] = {
            "max-num-batched-tokens": tokens,
            "max-num-seqs": min(sequences, tokens),
        }
        return {flag: value for flag, value in chosen.items() if flag not in self.fixed}

    def length(self, config: LaunchConfig) -> int:
        """Return the context a configuration must serve at least, in tokens."""
        if config.is_auto_length:
            return min(self.workload.min_context, self.context)
        return config.integer("max-model-len", self.checkpoint.default_context)

    def budget(self, device: Device) -> int:
        """Return the bytes of `device` that may be used at most."""
        free = device.free_bytes - self.headroom_bytes
        return max(0, min(free, device.limit_bytes or device.utilization_base))

    def limit(self, config: LaunchConfig) -> float:
        """Return the most bytes that a configuration may reserve on each device.

        A share that the user fixed is held to the user's own limit only.
        """
        if "kv-cache-memory-bytes" in config.args:
            return math.inf  # then vLLM reserves no share
        if "gpu-memory-utilization" in self.fixed:
            return min(d.limit_bytes or math.inf for d in self.used(config))
        used = self.used(config)
        if not differ(used):
            return min(self.budget(d) for d in used)
        # One share is for all of them, and the limit is told for the one that is predicted.
        share = min(self.budget(d) / d.utilization_base for d in used)
        return math.ceil(share * self.setup(config).device.utilization_base)

    def used(self, config: LaunchConfig) -> tuple[Device, ...]:
        return self.devices[: max(1, config.world_size)]

    @property
    def weakest(self) -> Device:
        """The device that can do the least."""
        return min(self.devices, key=lambda device: device.capability or (0, 0))

    def reserved(self, config: LaunchConfig) -> int:
        """Return the bytes vLLM takes for itself on each device, by its utilization.

        Where they differ, on the one with least room.
        """
        used = self.used(config)
        if differ(used):
            return self.reserved_by(self.setup(config).device, config)
        return self.reserved_by(min(used, key=lambda d: d.utilization_base), config)

    def reserved_by(self, device: Device, config: LaunchConfig) -> int:
        share = config.utilization
        share = self.engine.default_utilization if share is None else share
        return math.ceil(device.utilization_base * share)
