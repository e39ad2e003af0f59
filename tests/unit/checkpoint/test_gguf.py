"""A GGUF file alone says what the model is; half a file is no model."""

import struct
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.small_model import SMALL, make, refusal_of
from vllm_autotune.checkpoint import read_checkpoint
from vllm_autotune.errors import BadModel

Value = int | float | str | list[str] | list[int]
F32, F16, Q4_0, Q8_0, Q4_K = 0, 1, 2, 8, 12
QWEN: Mapping[str, Value] = {
    "general.architecture": "qwen2",
    "qwen2.block_count": 2,
    "qwen2.embedding_length": 256,
    "qwen2.feed_forward_length": 512,
    "qwen2.attention.head_count": 4,
    "qwen2.attention.head_count_kv": 2,
    "qwen2.context_length": 32768,
    "qwen2.rope.freq_base": 1e6,
    "tokenizer.ggml.tokens": [f"token {i}" for i in range(1000)],
    "tokenizer.ggml.scores": [0] * 5000,
}
TENSORS = {
    "token_embd.weight": ((256, 1000), Q8_0),
    "output.weight": ((256, 1000), F16),
    "blk.0.attn_q.weight": ((256, 256), Q4_0),
    "blk.0.ffn_up.weight": ((256, 512), Q4_K),
    "blk.0.attn_norm.weight": ((256,), F32),
}
BYTES = (
    *(256 * 1000 // 32 * 34, 256 * 1000 * 2, 256 * 256 // 32 * 18, 256 * 512 // 256 * 144),
    256 * 4,
)


def text(word: str) -> bytes:
    return struct.pack("<Q", len(word)) + word.encode()


def encoded(value: Value) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", 8) + text(value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value[0], str):
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(text(str(word)) for word in value)
    return struct.pack(f"<IIQ{len(value)}I", 9, 4, len(value), *value)


def gguf(
    fields: Mapping[str, Value] = QWEN,
    tensors: Mapping[str, tuple[tuple[int, ...], int]] = TENSORS,
    version: int = 3,
) -> bytes:
    """Return a file as docs/gguf.md of ggml describes it."""
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(fields))
    for key, value in fields.items():
        head += text(key) + encoded(value)
    offset = 0
    for (name, (shape, kind)), size in zip(tensors.items(), BYTES, strict=False):
        head += text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        head += struct.pack("<IQ", kind, offset)
        offset += -(-size // 32) * 32
    return head + bytes(-len(head) % 32) + bytes(offset)


@pytest.mark.parametrize("version", [2, 3])
def test_a_file_alone_says_what_the_model_is(tmp_path: Path, version: int) -> None:
    path = tmp_path / "qwen-q4.gguf"
    path.write_bytes(gguf(version=version))
    for model in (path, tmp_path):
        found = read_checkpoint(str(model))
        assert found.architecture == "Qwen2ForCausalLM"
        assert (found.layers, found.heads, found.kv_heads, found.head_dim) == (2, 4, 2, 64)
        assert (found.context, found.vocab_size) == (32768, 1000)
        assert (found.load_format, found.quantization) == ("gguf", "gguf")
        assert found.weight_bytes == sum(BYTES)
        assert not found.tied_embeddings
        assert found.layer_groups
        assert found.layer_groups[0].count == 2


def test_the_config_beside_a_file_is_believed_before_it(tmp_path: Path) -> None:
    make(tmp_path, tensors=None)
    (tmp_path / "tiny.gguf").write_bytes(gguf())
    found = read_checkpoint(str(tmp_path / "tiny.gguf"))
    assert found.hidden_size == SMALL["hidden_size"]
    assert found.weight_bytes == sum(BYTES)


def test_without_a_head_of_its_own_the_embeddings_are_shared(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(gguf(tensors={"token_embd.weight": ((256, 1000), Q8_0)}))
    assert read_checkpoint(str(tmp_path / "m.gguf")).tied_embeddings


def test_experts_of_a_llama_make_it_a_mixtral(tmp_path: Path) -> None:
    fields = {key.replace("qwen2", "llama"): value for key, value in QWEN.items()}
    fields |= {"general.architecture": "llama", "llama.expert_count": 8}
    (tmp_path / "m.gguf").write_bytes(gguf({**fields, "llama.expert_used_count": 2}))
    found = read_checkpoint(str(tmp_path / "m.gguf"))
    assert (found.architecture, found.experts, found.experts_per_token) == (
        "MixtralForCausalLM",
        8,
        2,
    )


# Bits per weight, as llama.cpp states them of its types.
BITS = {
    2: 4.5,
    3: 5,
    6: 5.5,
    7: 6,
    8: 8.5,
    20: 4.5,
    39: 4.25,
    10: 2.625,
    11: 3.4375,
    12: 4.5,
    13: 5.5,
    14: 6.5625,
    16: 2.0625,
    17: 2.3125,
    18: 3.0625,
    19: 1.5625,
    21: 3.4375,
    22: 2.5625,
    23: 4.25,
    29: 1.75,
    34: 1.6875,
    35: 2.0625,
}


@pytest.mark.parametrize("kind", BITS)
def test_a_tensor_takes_the_bits_of_its_type(tmp_path: Path, kind: int) -> None:
    content = gguf(tensors={"token_embd.weight": ((256, 1000), kind)})
    (tmp_path / "m.gguf").write_bytes(content + bytes(256_000))
    assert read_checkpoint(str(tmp_path / "m.gguf")).weight_bytes == 256_000 * BITS[kind] / 8


def test_layers_that_differ_are_not_guessed(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(gguf({**QWEN, "qwen2.attention.head_count_kv": [2, 4]}))
    found = read_checkpoint(str(tmp_path / "m.gguf"))
    assert found.layer_groups is None
    assert found.weight_bytes == sum(BYTES)
    (tmp_path / "m.gguf").write_bytes(gguf({**QWEN, "qwen2.attention.head_count_kv": [2, 2]}))
    assert read_checkpoint(str(tmp_path / "m.gguf")).layer_groups


def test_an_architecture_that_is_not_known_has_its_bytes_all_the_same(tmp_path: Path) -> None:
    fields = {key.replace("qwen2", "novel"): value for key, value in QWEN.items()}
    (tmp_path / "m.gguf").write_bytes(gguf({**fields, "general.architecture": "novel"}))
    found = read_checkpoint(str(tmp_path / "m.gguf"))
    assert (found.architecture, found.layer_groups) == ("novel", None)
    assert found.weight_bytes == sum(BYTES)


def test_parts_are_added_up_and_all_must_be_there(tmp_path: Path) -> None:
    parts = [tmp_path / f"m-{i:05}-of-00002.gguf" for i in (1, 2)]
    parts[0].write_bytes(gguf())
    with pytest.raises(BadModel, match=r"m-00002-of-00002\.gguf"):
        read_checkpoint(str(parts[0]))
    parts[1].write_bytes(gguf())
    assert read_checkpoint(str(parts[0])).weight_bytes == 2 * sum(BYTES)
    assert read_checkpoint(str(tmp_path)).weight_bytes == 2 * sum(BYTES)


def test_of_several_files_one_must_be_named(tmp_path: Path) -> None:
    for name in ("m-Q4_0.gguf", "m-Q8_0.gguf"):
        (tmp_path / name).write_bytes(gguf())
    with pytest.raises(BadModel, match="holds 2 GGUF files") as refused:
        read_checkpoint(str(tmp_path))
    assert "m-Q4_0.gguf" in refused.value.hint
    assert read_checkpoint(str(tmp_path / "m-Q8_0.gguf")).weight_bytes == sum(BYTES)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "empty"),
        (b"PK\x03\x04" + bytes(100), "does not begin with GGUF"),
        (gguf(version=1), "version 1"),
        (gguf()[:300], "as a GGUF file"),
        (gguf()[:-1000], "bytes of its tensors are missing"),
        (gguf(tensors={"a.weight": ((256,), 99)}), "type 99"),
        (gguf({**QWEN, "qwen2.block_count": ["x"]}), "lacks num_hidden_layers"),
    ],
)
def test_half_a_file_is_refused(tmp_path: Path, content: bytes, why: str) -> None:
    (tmp_path / "m.gguf").write_bytes(content)
    assert why in refusal_of(tmp_path / "m.gguf")


WHOLE = gguf({**QWEN, "tokenizer.ggml.tokens": ["a"], "tokenizer.ggml.scores": [0]})
HEADER = len(WHOLE) - sum(BYTES)


@settings(max_examples=300, deadline=None)
@given(at=st.integers(0, HEADER), change=st.binary(min_size=1, max_size=8))
def test_no_header_ever_ends_in_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, at: int, change: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.gguf"
    path.write_bytes(WHOLE[:at] + change + WHOLE[at + len(change) :])
    refusal_of(path)
