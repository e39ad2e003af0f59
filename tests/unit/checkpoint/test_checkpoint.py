"""What a model is, read from real shapes and small files."""

import os
from pathlib import Path

import pytest

from tests.support.small_model import (
    QUANTIZED,
    SMALL,
    WEIGHTS,
    Tensors,
    make,
    of_shape,
    refusal_of,
    without,
)
from vllm_autotune.checkpoint import read_checkpoint


def test_a_tied_head_in_the_file_is_not_loaded_twice(tmp_path: Path) -> None:
    tied = read_checkpoint(str(make(tmp_path, {**SMALL, "tie_word_embeddings": True})))
    assert tied.tied_embeddings
    assert tied.weights is not None
    assert tied.weights.embedding == 1000 * 64


def test_without_a_word_on_tying_the_missing_head_says_it(tmp_path: Path) -> None:
    silent = without("tie_word_embeddings")
    headless = {k: v for k, v in WEIGHTS.items() if not k.startswith("lm_head")}
    assert read_checkpoint(str(make(tmp_path / "a", silent, headless))).tied_embeddings
    assert not read_checkpoint(str(make(tmp_path / "b", silent))).tied_embeddings


def test_a_quantized_sibling_is_found_next_to_the_model(tmp_path: Path) -> None:
    model = make(tmp_path / "Tiny")
    half: Tensors = {"model.embed_tokens.weight": ("F16", [1000, 64])}
    make(tmp_path / "Tiny-AWQ", QUANTIZED, half)
    make(tmp_path / "Tiny-Instruct")  # not quantized
    make(tmp_path / "Tiny-GPTQ", {**QUANTIZED, "vocab_size": 7}, half)  # another vocabulary
    make(tmp_path / "Tiny-W4", {**QUANTIZED, "architectures": ["Qwen2ForClassification"]}, half)
    make(tmp_path / "Tiny-FP8", QUANTIZED, None)  # no weights
    make(tmp_path / "Tinyish-AWQ", QUANTIZED, half)  # another name
    make(tmp_path / "Tiny-Instruct-AWQ", QUANTIZED, half)  # another fine-tune
    make(tmp_path / "Tiny-mine", QUANTIZED, half)
    assert read_checkpoint(str(model)).siblings == (str(tmp_path / "Tiny-AWQ"),)


def test_the_digest_changes_with_the_weights(tmp_path: Path) -> None:
    one = read_checkpoint(str(make(tmp_path / "one"))).digest
    assert read_checkpoint(str(make(tmp_path / "two"))).digest == one
    longer = {**WEIGHTS, "model.layers.1.mlp.down_proj.weight": ("BF16", [64, 128])}
    assert read_checkpoint(str(make(tmp_path / "three", tensors=longer))).digest != one
    assert read_checkpoint(str(make(tmp_path / "four", {**SMALL, "eos": 1}))).digest != one
    pickled = make(tmp_path / "five", tensors=None)
    digests = set()
    for size in (400_000, 400_001):
        (pickled / "pytorch_model.bin").write_bytes(bytes(size))
        digests.add(read_checkpoint(str(pickled)).digest)
    assert len(digests) == 2


# name: parameters in 10^9 as published, context, default context, layer groups
PUBLISHED: dict[str, tuple[float | None, int, int, dict[str, int]]] = {
    "qwen2.5-7b": (7.6156, 32768, 32768, {"full": 28}),
    "qwen2.5-72b": (72.706, 32768, 32768, {"full": 80}),
    "llama-3.1-8b": (8.0303, 131072, 131072, {"full": 32}),
    "falcon-7b": (6.9217, 2048, 2048, {"full": 32}),
    "starcoder": (15.517, 8192, 8192, {"full": 40}),
    "mistral-7b-v0.1": (7.2417, 32768, 32768, {"sliding": 32}),
    "mixtral-8x7b": (46.703, 32768, 32768, {"full": 32}),
    "qwen3-30b-a3b": (30.532, 40960, 40960, {"full": 48}),
    "deepseek-v2-lite": (15.706, 163840, 163840, {"mla": 27}),
    "gemma-2-9b": (9.2417, 8192, 8192, {"sliding": 21, "full": 21}),
    "gemma-3-4b": (4.3001, 131072, 131072, {"sliding": 29, "full": 5}),
    "phi-3-mini-128k": (3.8211, 131072, 4096, {"sliding": 32}),
    "llama-4-scout": (108.64, 10485760, 10485760, {"chunked": 36, "full": 12}),
    "qwen2-vl-7b": (8.2914, 32768, 32768, {"full": 28}),
    "llava-1.5-7b": (7.0634, 4096, 4096, {"full": 32}),
    "jamba-mini": (51.570, 262144, 262144, {"state": 28, "full": 4}),
    "qwen3-next-80b": (79.674, 262144, 262144, {"state": 36, "full": 12}),
    "mamba-2.8b": (2.7685, 2048, 2048, {"state": 64}),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_shape_is_read_as_published(tmp_path: Path, name: str) -> None:
    billions, context, default, groups = PUBLISHED[name]
    found = of_shape(tmp_path, name)
    assert (found.context, found.default_context) == (context, default)
    assert {group.kind: group.count for group in found.layer_groups or ()} == groups
    assert found.weights is not None
    assert found.weights.elements / 1e9 == pytest.approx(billions, rel=0.003)


@pytest.mark.parametrize("name", ["gemma-3-4b", "llama-4-scout", "qwen2-vl-7b", "llava-1.5-7b"])
def test_a_model_with_a_tower_is_multimodal(tmp_path: Path, name: str) -> None:
    assert of_shape(tmp_path, name).multimodal


@pytest.mark.parametrize("model", ["x" * 5000, "a\0b", "", "-", "~nobody-here/x"])
def test_a_path_that_cannot_be_is_refused(model: str) -> None:
    assert refusal_of(model)


def test_a_missing_model_or_one_without_weights_is_refused(tmp_path: Path) -> None:
    assert "there is no model at" in refusal_of(tmp_path / "nowhere")
    assert "has no weights" in refusal_of(make(tmp_path, tensors=None))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", ""])
def test_an_unreadable_file_is_refused(tmp_path: Path, name: str) -> None:
    (make(tmp_path / "model") / name).chmod(0)
    assert "cannot read" in refusal_of(tmp_path / "model")
    (tmp_path / "model" / name).chmod(0o700)
