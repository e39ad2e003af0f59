"""What vLLM chooses by itself: floats, model runner, batches, graphs."""

import json
from dataclasses import replace
from typing import Any

import pytest

from tests.support.memory import device, estimated, on_card, setup
from tests.support.paths import SHAPES
from vllm_autotune.checkpoint import Checkpoint
from vllm_autotune.machine.device import Device
from vllm_autotune.memory import batch_defaults
from vllm_autotune.units import GIB
from vllm_autotune.vllm.config import LaunchConfig, Value


@pytest.mark.parametrize(
    ("shape", "capability", "args", "bytes_each"),
    [
        ("gemma-2-9b", (7, 5), {}, 4),
        ("gemma-2-9b", (8, 0), {}, 2),
        ("gemma-2-9b", (7, 5), {"dtype": "half"}, 2),  # which vLLM refuses itself
        ("gemma-3-4b", (7, 0), {"dtype": "auto"}, 4),
        ("llama-3.1-8b", (7, 5), {}, 2),
    ],
)
def test_without_bfloat16_some_models_become_float32(
    shapes: dict[str, Checkpoint],
    shape: str,
    capability: tuple[int, int],
    args: dict[str, Value],
    bytes_each: int,
) -> None:
    """config/model.py, _FLOAT16_NOT_SUPPORTED_MODELS and _resolve_auto_dtype (0.26, 0.32)."""
    there, newer = (estimated(shapes[shape], args, on=on_card(c)) for c in (capability, (9, 0)))
    double = bytes_each / 2
    assert there.weights.low == pytest.approx(double * newer.weights.low)
    assert there.kv_bytes(4096).low == double * newer.kv_bytes(4096).low
    assert (there.activations.low > 1.3 * newer.activations.low) == (double == 2)


def test_gemma_within_another_model_is_served_as_float16(shapes: dict[str, Checkpoint]) -> None:
    """vLLM asks for the outer model type, `paligemma`."""
    seen = replace(
        shapes["gemma-2-2b"],
        multimodal=True,
        architecture="PaliGemmaForConditionalGeneration",
    )
    assert setup(seen, on=on_card((7, 5))).float_bytes == 2
    assert setup(shapes["gemma-2-2b"], on=on_card((7, 5))).float_bytes == 4


TAKEN = json.loads((SHAPES / "booted" / "0.26.0-h200.json").read_text())


@pytest.mark.parametrize("boot", TAKEN, ids=lambda boot: f"{boot['shape']}-{boot['tokens']}")
def test_the_model_runner_is_the_one_that_vllm_chose(
    shapes: dict[str, Checkpoint], boot: dict[str, Any]
) -> None:
    checkpoint = shapes[boot["shape"]]
    asked = boot["shape"] == "qwen2.5-7b" and boot["runner"] == "v1"
    env = {"VLLM_USE_V2_MODEL_RUNNER": "0"} if asked else {}
    assert setup(checkpoint, env=env).model_runner == boot["runner"]


@pytest.mark.parametrize(
    ("vllm", "env", "charged"),
    [
        ((0, 17), {}, False),
        ((0, 19), {"VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS": "1"}, True),
        ((0, 20, 2), {}, True),
        ((0, 26), {}, False),
        ((0, 26), {"VLLM_USE_V2_MODEL_RUNNER": "0"}, True),
        ((0, 29), {}, False),
        ((0, 30), {}, True),
        ((0, 33), {}, True),
        ((0, 33), {"VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS": "0"}, False),
    ],
)
def test_graphs_come_out_of_the_budget_in_some_versions(
    shapes: dict[str, Checkpoint],
    vllm: tuple[int, ...],
    env: dict[str, str],
    charged: bool | None,
) -> None:
    assert estimated(shapes["qwen2.5-7b"], vllm=vllm, env=env).graphs_charged is charged


@pytest.mark.parametrize(
    ("on", "expected"),
    [
        (device(), (8192, 1024)),
        (device(79.3, "NVIDIA A100-SXM4-80GB"), (2048, 256)),
        (device(23.9, "NVIDIA GeForce RTX 4090"), (2048, 256)),
        (device(178, "NVIDIA B200"), (16384, 1024)),
        (device(16, "CPU", "cpu"), (2048, 128)),
    ],
)
def test_batch_defaults_follow_the_device(on: Device, expected: tuple[int, int]) -> None:
    assert batch_defaults(on, LaunchConfig("m"), (0, 33)) == expected


def test_a_cpu_takes_more_by_default_the_more_workers_there_are() -> None:
    config, cpu = LaunchConfig("m", {"tensor-parallel-size": 2}), device(16, "CPU", "cpu")
    assert batch_defaults(cpu, config, (0, 33)) == (4096, 256)


def test_a_limit_does_not_change_the_batch_defaults() -> None:
    assert batch_defaults(replace(device(), limit_bytes=11 * GIB), LaunchConfig("m"), (0, 26)) == (
        8192,
        1024,
    )
