"""The memory of one device."""

import os

from .script import Script, number
from .words import CONSERVING, GIB, gib


class Raised(Exception):
    """An exception of vLLM's own, as its text would stand in a traceback."""


def out_of_memory(card: "Card", phase: str) -> str:
    """Return the exception that ends a phase when memory runs out."""
    if card.script.device == "cpu":
        return (
            "RuntimeError: [enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't"
            " allocate memory: you tried to allocate 312475648 bytes. Error code 12 (Cannot "
            "allocate memory)"
        )
    cause = (
        "CUDA out of memory. Tried to allocate 298.00 MiB. GPU 0 has a total capacity of "
        f"{gib(card.total)} GiB of which 51.00 MiB is free. Including non-PyTorch memory, this "
        f"process has {gib(card.total - 51 * 2**20)} GiB memory in use."
    )
    if phase == "profile":
        seqs = card.integer("max-num-seqs", 256)
        return (
            f"RuntimeError: CUDA out of memory occurred when warming up sampler with {seqs} dummy "
            "requests. Please try lowering `max_num_seqs` or `gpu_memory_utilization` when "
            "initializing the engine."
        )
    return f"torch.OutOfMemoryError: {cause}"


class Card:
    """The device as the arguments make vLLM use it; sizes in bytes.

    Of a pipeline over devices that differ it is the stage whose KV cache holds the fewest tokens.
    """

    def __init__(self, script: Script, args: dict[str, list[str]]) -> None:
        self.script = script
        self.args = args
        cpu = script.device == "cpu"
        self.block = self.integer("block-size", 128 if cpu else 16)
        self.workers = self.integer("tensor-parallel-size", 1)
        self.stages = self.integer("pipeline-parallel-size", 1)
        share: float = self.workers * self.stages
        total = script.total_gib or (8.21 if cpu else 139.8)
        if script.stages_gib:
            total, part = self.tightest(script.stages_gib[: self.stages])
            share = self.workers / part
        self.total = int(total * GIB)
        self.utilization = float(self.text("gpu-memory-utilization") or 0.92)
        self.requested = int(
            script.budget_gib * GIB if script.budget_gib else self.total * self.utilization
        )
        weights = script.weights_gib * GIB * self.weight_factor() / share
        self.offloaded = 0 if cpu else int(min(weights, self.integer("cpu-offload-gb", 0) * GIB))
        self.weights = int(weights - self.offloaded)
        self.eager = "enforce-eager" in self.args
        # On the CPU nothing is profiled without a compilation.
        self.activation = 0 if cpu and self.eager else int(script.activation_gib * GIB)
        self.graphs = 0 if cpu or self.eager else int(script.graph_gib * GIB)
        self.consumed = self.weights + self.activation + int(script.other_gib * GIB)
        halved = (self.text("kv-cache-dtype") or "auto").startswith("fp8")
        self.kv_per_token = script.kv_bytes_per_token / share / (2 if halved else 1)
        self.explicit_kv = self.text("kv-cache-memory-bytes")
        self.kv = (
            number(self.explicit_kv)
            if self.explicit_kv
            else self.requested - self.consumed - self.graphs
        )

    def tightest(self, sizes: list[float]) -> tuple[float, float]:
        """Return the GiB of the stage that has least for each of its layers, and its part."""
        counts = self.partition(len(sizes))
        per_layer = [size / count for size, count in zip(sizes, counts, strict=True)]
        least = per_layer.index(min(per_layer))
        return sizes[least], counts[least] / self.script.layers

    def partition(self, stages: int) -> list[int]:
        """Return the layers of each stage, as distributed/utils.py of 0.32 reads or deals them."""
        layers, text = self.script.layers, os.environ.get("VLLM_PP_LAYER_PARTITION")
        if text is None:
            over = range(2, layers % stages + 2)
            return [layers // stages + (stages - n in over) for n in range(stages)]
        partitions = [int(layer) for layer in text.split(",")]
        if len(partitions) != stages:
            raise Raised(f"ValueError: len(partitions)={len(partitions)} does not match")
        if sum(partitions) != layers:
            raise Raised(f"ValueError: sum(partitions)={sum(partitions)} does not match")
        return partitions

    def text(self, flag: str) -> str | None:
        values = self.args.get(flag)
        return values[-1] if values else None

    def integer(self, flag: str, default: int) -> int:
        value = self.text(flag)
        return default if value is None else int(float(value))

    def weight_factor(self) -> float:
        method = self.text("quantization")
        if method is None:
            return 1.0
        return 0.57 if "8" in method else 0.35

    @property
    def page(self) -> float:
        return self.block * self.kv_per_token

    @property
    def kv_tokens(self) -> int:
        """What vLLM says the cache holds."""
        return max(int(self.kv // self.page), 0) * self.block

    @property
    def longest(self) -> int:
        """The longest context that fits: one block stays empty."""
        return max(self.kv_tokens - self.block, 0)

    def needed(self, tokens: int) -> float:
        return -(-tokens // self.block) * self.page

    def max_model_len(self, context: int) -> int:
        """Return the length served, raising what vLLM raises where it does not fit."""
        asked = self.text("max-model-len")
        if asked in ("auto", "-1"):
            if not self.longest:
                raise Raised(
                    "ValueError: Cannot auto-fit max_model_len: not enough GPU memory available to "
                    "serve even a single token."
                )
            return min(context, self.longest)
        length = number(asked) if asked else context
        if self.script.is_on("longer_model_len"):
            length *= 2
        if self.kv <= 0:
            raise Raised(
                "ValueError: No available memory for the cache blocks. Try increasing "
                "`gpu_memory_utilization` when initializing the engine (this flag also controls "
                "CPU memory reservation on the CPU backend, despite its name). " + CONSERVING
            )
        if length > self.longest:
            raise Raised(
                "ValueError: To serve at least one request with the model's max seq len "
                f"({length}), ({gib(self.needed(length))} GiB KV cache is needed, which is larger "
                f"than the available KV cache memory ({gib(self.kv)} GiB). Based on the available "
                f"memory, the estimated maximum model length is {self.longest}. Try increasing "
                "`gpu_memory_utilization` (which also controls CPU memory on the CPU backend) or "
                "decreasing `max_model_len` when initializing the engine. " + CONSERVING
            )
        return length

    def check_kv(self) -> None:
        """Raise what the CPU worker raises when the rest leaves no room."""
        if self.script.device == "cuda" or (0 < self.kv <= self.total):
            return
        wanted = gib(self.kv) if self.explicit_kv else f"{gib(self.kv)}/{gib(self.requested)}"
        hint = (
            "Decrease --kv-cache-memory-bytes, VLLM_CPU_KVCACHE_SPACE, or reduce CPU memory used by"
            " other processes."
            if self.explicit_kv
            else "Reduce CPU memory used by other processes."
        )
        total = gib(self.total)
        raise Raised(
            f"ValueError: Available memory on node 0 ({total}/{total} GiB) on kv"
            f" cache allocation is less than requested memory for kv ({wanted} GiB). {hint}"
        )
