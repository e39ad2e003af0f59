"""Shapes of models, cards, and what the arithmetic makes of them."""

import json
from dataclasses import replace
from pathlib import Path

from tests.support.paths import SHAPES
from vllm_autotune.checkpoint import Checkpoint, read_checkpoint
from vllm_autotune.machine.device import Device
from vllm_autotune.memory import Footprint, Interval, Setup, estimate
from vllm_autotune.memory.kv import KVCache
from vllm_autotune.units import GIB
from vllm_autotune.vllm.config import LaunchConfig, Value

TINY_QWEN2 = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    "vocab_size": 4096,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}


def device(memory_gib: float = 139.8, name: str = "NVIDIA H200", kind: str = "cuda") -> Device:
    size = int(memory_gib * GIB)
    return Device(
        kind="cpu" if kind == "cpu" else "cuda",
        index=0,
        name=name,
        uuid="GPU-0",
        memory_bytes=size,
        free_bytes=size - GIB // 2,
        capability=(9, 0),
    )


def read_shapes(folder: Path) -> dict[str, Checkpoint]:
    """Read every shape, without weights, and a tiny model's."""
    found = {}
    configs = {path.stem: path.read_text() for path in SHAPES.glob("*.json")}
    for name, text in {**configs, "tiny-qwen2": json.dumps(TINY_QWEN2)}.items():
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(text)
        found[name] = read_checkpoint(str(folder / name), weights_required=False)
    return found


def setup(
    checkpoint: Checkpoint,
    args: dict[str, Value] | None = None,
    *,
    on: Device | None = None,
    vllm: tuple[int, ...] = (0, 26, 0),
    env: dict[str, str] | None = None,
) -> Setup:
    config = LaunchConfig(checkpoint.path, args or {}, env or {})
    return Setup(checkpoint, config, on or device(), vllm)


def estimated(
    checkpoint: Checkpoint,
    args: dict[str, Value] | None = None,
    *,
    on: Device | None = None,
    vllm: tuple[int, ...] = (0, 26, 0),
    env: dict[str, str] | None = None,
) -> Footprint:
    return estimate(setup(checkpoint, args, on=on, vllm=vllm, env=env))


def gib(value: float) -> float:
    return value * GIB


def on_card(capability: tuple[int, int], memory_gib: float = 80) -> Device:
    return replace(device(memory_gib, "a card"), capability=capability)


def token_bytes(cache: KVCache) -> Interval:
    """Return the bytes of one more token in a long sequence."""
    groups = [group for group in cache.groups or () if group.kind in {"full", "mla"}]
    return Interval(
        sum(group.layers.low * group.token.low / group.ranks.high for group in groups),
        sum(group.layers.high * group.token.high / group.ranks.low for group in groups),
    )
