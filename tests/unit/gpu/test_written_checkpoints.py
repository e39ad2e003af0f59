"""The random checkpoints for GPU tests are what autotune takes for a model and its siblings."""

from pathlib import Path
from typing import Any

import pytest

from tests.gpu import checkpoints as gpu_checkpoints
from vllm_autotune.checkpoint import read_checkpoint

TINY = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "vocab_size": 512,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
}
KINDS = {
    "awq": "awq",
    "gptq": "gptq",
    "w4a16": "compressed-tensors",
    "w8a8-fp8": "compressed-tensors",
}


@pytest.fixture(scope="module")
def checkpoints() -> Any:
    return gpu_checkpoints


@pytest.mark.parametrize("method", KINDS)
def test_a_quantized_checkpoint_is_a_sibling_of_its_model(
    method: str, checkpoints: Any, tmp_path: Path
) -> None:
    config = {**checkpoints.read_shape("qwen2.5-7b"), **TINY}
    model = checkpoints.make_checkpoint(tmp_path / "tiny", config, "bf16")
    sibling = checkpoints.make_checkpoint(tmp_path / f"tiny-{method}", config, method)
    whole, quantized = read_checkpoint(str(model)), read_checkpoint(str(sibling))

    assert whole.siblings == (str(sibling),)
    assert quantized.quantization == KINDS[method]
    assert whole.weight_bytes
    assert quantized.weight_bytes
    assert quantized.weight_bytes < 0.8 * whole.weight_bytes


def test_a_hollow_checkpoint_is_as_large_as_a_full_one_and_takes_no_disk(
    checkpoints: Any, tmp_path: Path
) -> None:
    config = {**checkpoints.read_shape("qwen2.5-7b"), **TINY}
    full = checkpoints.make_checkpoint(tmp_path / "full", config, "bf16")
    hollow = checkpoints.make_checkpoint(tmp_path / "hollow", config, "bf16", hollow=True)
    sizes = [(folder / "model.safetensors").stat() for folder in (full, hollow)]

    assert sizes[0].st_size == sizes[1].st_size
    assert sizes[1].st_blocks * 512 < 1 << 16
    assert read_checkpoint(str(hollow)).weight_bytes == read_checkpoint(str(full)).weight_bytes
