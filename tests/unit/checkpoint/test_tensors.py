"""Which weight files vLLM loads, what they hold, and what is said of torn ones."""

import json
import struct
from math import prod
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.small_model import (
    JSON,
    SMALL,
    WEIGHTS,
    Tensors,
    headed,
    make,
    refusal_of,
    safetensors,
)
from vllm_autotune.checkpoint import read_checkpoint


def test_weights_are_the_tensors_not_the_file(tmp_path: Path) -> None:
    found = read_checkpoint(str(make(tmp_path)))
    assert found.weights is not None
    assert found.weight_bytes == sum(2 * prod(dims) for _, dims in WEIGHTS.values())
    assert found.weight_bytes < (tmp_path / "model.safetensors").stat().st_size
    assert found.weights.embedding == 2 * 1000 * 64
    assert found.weights.linear == 64 * 64 + 128 * 64
    assert found.weights.other == 64 + 64
    assert (found.load_format, found.quantization, found.context) == ("safetensors", None, 32768)


def test_prediction_layers_that_vllm_leaves_out_weigh_nothing(tmp_path: Path) -> None:
    extra: Tensors = {
        "model.layers.2.mlp.up_proj.weight": ("BF16", [128, 64]),
        "mtp.layers.0.weight": ("BF16", [128, 64]),
    }
    plain = read_checkpoint(str(make(tmp_path / "plain")))
    more = read_checkpoint(str(make(tmp_path / "more", tensors={**WEIGHTS, **extra})))
    assert more.weight_bytes == plain.weight_bytes


def test_packed_weights_count_as_they_are_stored(tmp_path: Path) -> None:
    config = {**SMALL, "quantization_config": {"quant_method": "awq", "bits": 4}}
    tensors: Tensors = {
        "model.embed_tokens.weight": ("F16", [1000, 64]),
        "model.layers.0.mlp.up_proj.qweight": ("I32", [64, 16]),
        "model.layers.0.mlp.up_proj.scales": ("F16", [1, 128]),
    }
    found = read_checkpoint(str(make(tmp_path, config, tensors)))
    assert found.quantization == "awq"
    assert found.weights is not None
    assert found.weights.packed_bytes == 64 * 16 * 4
    assert found.weight_bytes == 2 * 1000 * 64 + 64 * 16 * 4 + 2 * 128


def test_shards_are_those_the_index_names(tmp_path: Path) -> None:
    make(tmp_path, tensors=None)
    files = {f"{n}.weight": f"model-{i:05}-of-00002.safetensors" for i, n in enumerate("ab", 1)}
    for tensor, file in files.items():
        (tmp_path / file).write_bytes(safetensors({tensor: ("BF16", [8, 8])}))
    (tmp_path / "consolidated.safetensors").write_bytes(safetensors(WEIGHTS))
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    assert read_checkpoint(str(tmp_path)).weight_bytes == 2 * 8 * 8 * 2


def test_pickles_count_as_their_files(tmp_path: Path) -> None:
    make(tmp_path, tensors=None)
    (tmp_path / "pytorch_model.bin").write_bytes(bytes(400_000))
    found = read_checkpoint(str(tmp_path))
    assert (found.load_format, found.weight_bytes) == ("bin", 400_000)


TORN = {
    "header beyond the file": (struct.pack("<Q", 5000) + b"{}", "its header is incomplete"),
    "empty": (b"", "its header is incomplete"),
    "a git-lfs pointer": (b"version https://git-lfs.github.com/spec/v1\n", "header is incomplete"),
    "tensors beyond the file": (
        safetensors(WEIGHTS)[:-100],
        "the last 100 bytes of its tensors are missing",
    ),
    "not JSON": (struct.pack("<Q", 4) + b"nope" + bytes(10), "its header cannot be parsed"),
    "a list": (headed([1]), "its header cannot be parsed"),
    "no shape": (headed({"a": {"dtype": "F16", "data_offsets": [0, 0]}}), "cannot be parsed"),
}


@pytest.mark.parametrize("case", TORN)
def test_a_torn_file_is_refused(tmp_path: Path, case: str) -> None:
    content, why = TORN[case]
    (make(tmp_path) / "model.safetensors").write_bytes(content)
    assert why in refusal_of(tmp_path)


@pytest.mark.parametrize(
    ("index", "why"),
    [
        (
            '{"weight_map": {"a": "model.safetensors", "b": "model-00002.safetensors"}}',
            "lacks model-00002.safetensors: 1 of the 2 weight files",
        ),
        ("[]", "does not say which file holds which tensor"),
        ("{", "is not valid JSON"),
    ],
)
def test_an_index_that_cannot_be_followed_is_refused(tmp_path: Path, index: str, why: str) -> None:
    (make(tmp_path) / "model.safetensors.index.json").write_text(index)
    assert why in refusal_of(tmp_path)


def test_a_folder_in_the_place_of_a_file_is_refused(tmp_path: Path) -> None:
    make(tmp_path, tensors=None)
    (tmp_path / "model.safetensors").mkdir()
    assert "cannot read" in refusal_of(tmp_path)


@settings(max_examples=200, deadline=None)
@given(content=st.binary(max_size=200), length=st.integers(0, 300))
def test_no_weight_file_ever_ends_in_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, length: int
) -> None:
    folder = make(tmp_path_factory.getbasetemp() / "any-weights")
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", length) + content)
    refusal_of(folder)


@settings(max_examples=200, deadline=None)
@given(tensor=JSON, offsets=JSON | st.just([0, 0]))
def test_no_header_ever_ends_in_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, tensor: Any, offsets: Any
) -> None:
    folder = make(tmp_path_factory.getbasetemp() / "any-header")
    entry = {"dtype": "BF16", "shape": tensor, "data_offsets": offsets}
    (folder / "model.safetensors").write_bytes(headed({"a": tensor, "b": entry}))
    refusal_of(folder)
