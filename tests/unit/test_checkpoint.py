"""What a model is, read from real shapes, and what is said of a broken one."""

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.checkpoints import (
    SMALL,
    WEIGHTS,
    Tensors,
    make,
    refused_politely,
    write_safetensors,
)
from tests.support.paths import SHAPES
from vllm_autotune.checkpoint import Checkpoint, read_checkpoint
from vllm_autotune.checkpoint.local import neighbours
from vllm_autotune.errors import BadModel


def shape(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((SHAPES / f"{name}.json").read_text())
    return found


def of_shape(folder: Path, name: str) -> Checkpoint:
    return read_checkpoint(str(make(folder, shape(name), None)), weights_required=False)


def test_weights_are_the_tensors_not_the_file(tmp_path: Path) -> None:
    found = read_checkpoint(str(make(tmp_path)))
    assert found.weights is not None
    assert found.weight_bytes == sum(2 * _count(dims) for _, dims in WEIGHTS.values())
    assert found.weight_bytes < (tmp_path / "model.safetensors").stat().st_size
    assert found.weights.embedding == 2 * 1000 * 64
    assert found.weights.linear == 64 * 64 + 128 * 64
    assert found.weights.other == 64 + 64
    assert (found.load_format, found.quantization, found.context) == ("safetensors", None, 32768)


def _count(dims: list[int]) -> int:
    total = 1
    for dim in dims:
        total *= dim
    return total


def test_a_tied_head_in_the_file_is_not_loaded_twice(tmp_path: Path) -> None:
    tied = read_checkpoint(str(make(tmp_path, {**SMALL, "tie_word_embeddings": True})))
    assert tied.tied_embeddings
    assert tied.weights is not None
    assert tied.weights.embedding == 1000 * 64


def test_without_a_word_on_tying_the_missing_head_says_it(tmp_path: Path) -> None:
    silent = {k: v for k, v in SMALL.items() if k != "tie_word_embeddings"}
    headless = {k: v for k, v in WEIGHTS.items() if not k.startswith("lm_head")}
    assert read_checkpoint(str(make(tmp_path / "a", silent, headless))).tied_embeddings
    assert not read_checkpoint(str(make(tmp_path / "b", silent))).tied_embeddings


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


@pytest.mark.parametrize(
    ("algorithm", "kv_cache", "method"),
    [("FP8", "FP8", "modelopt"), ("NVFP4", None, "modelopt_fp4")],
)
def test_modelopts_own_file_says_how_a_checkpoint_is_quantized(
    tmp_path: Path, algorithm: str, kv_cache: str | None, method: str
) -> None:
    plain = read_checkpoint(str(make(tmp_path)))
    words = {"quant_algo": algorithm, "kv_cache_quant_algo": kv_cache}
    said = {"producer": {"name": "modelopt", "version": "0.29.0"}, "quantization": words}
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(said))
    found = read_checkpoint(str(tmp_path))
    assert (plain.quantization, found.quantization) == (None, method)
    assert found.kv_quantized == bool(kv_cache)
    assert found.digest != plain.digest
    (tmp_path / "hf_quant_config.json").write_text("{")
    with pytest.raises(BadModel, match=r"hf_quant_config\.json is broken JSON") as refusal:
        read_checkpoint(str(tmp_path))
    assert refusal.value.hint == "Copy or download hf_quant_config.json again."


@pytest.mark.parametrize(
    ("quantization", "block"),
    [
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, 128),
        ({"quant_method": "fp8", "weight_block_size": [128, 64]}, 128),
        ({"quant_method": "fp8"}, 1),
        ({"quant_method": "awq", "group_size": 128}, 1),
        ({"config_groups": {"a": {"weights": {"block_structure": [128, 128]}}}}, 128),
        ({"config_groups": {"a": {"weights": {"block_structure": None}}}}, 1),
        (None, 1),
    ],
)
def test_the_blocks_that_share_a_scale_are_read(
    tmp_path: Path, quantization: object, block: int
) -> None:
    found = read_checkpoint(str(make(tmp_path, {**SMALL, "quantization_config": quantization})))
    assert found.block == block


@pytest.mark.parametrize(
    ("modules", "pooled"),
    [
        ([{"type": "sentence_transformers.models.Transformer"}], False),
        ([{"type": "x"}, {"type": "sentence_transformers.models.Pooling"}], True),
        (
            [{"type": "sentence_transformers.sentence_transformer.modules.pooling.Pooling"}],
            True,
        ),
        ({"type": "sentence_transformers.models.Pooling"}, False),
    ],
)
def test_a_pooling_module_of_sentence_transformers_is_noted(
    tmp_path: Path, modules: object, pooled: bool
) -> None:
    plain = read_checkpoint(str(make(tmp_path)))
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    assert (plain.pooled, read_checkpoint(str(tmp_path)).pooled) == (False, pooled)


def test_shards_are_those_the_index_names(tmp_path: Path) -> None:
    make(tmp_path, tensors=None)
    write_safetensors(tmp_path / "model-00001-of-00002.safetensors", {"a.weight": ("BF16", [8, 8])})
    write_safetensors(tmp_path / "model-00002-of-00002.safetensors", {"b.weight": ("BF16", [8, 8])})
    write_safetensors(tmp_path / "consolidated.safetensors", WEIGHTS)
    names = {"a.weight": "model-00001-of-00002.safetensors"}
    names["b.weight"] = "model-00002-of-00002.safetensors"
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    assert read_checkpoint(str(tmp_path)).weight_bytes == 2 * 8 * 8 * 2


def test_more_layers_than_any_model_has_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match="4,000,000,000 layers"):
        read_checkpoint(str(make(tmp_path, {**SMALL, "num_hidden_layers": 4_000_000_000})))


def test_pickles_count_as_their_files(tmp_path: Path) -> None:
    make(tmp_path, tensors=None)
    (tmp_path / "pytorch_model.bin").write_bytes(bytes(400_000))
    found = read_checkpoint(str(tmp_path))
    assert (found.load_format, found.weight_bytes) == ("bin", 400_000)


def test_a_quantized_sibling_is_found_next_to_the_model(tmp_path: Path) -> None:
    model = make(tmp_path / "Tiny")
    quantized = {**SMALL, "quantization_config": {"quant_method": "awq"}}
    half: Tensors = {"model.embed_tokens.weight": ("F16", [1000, 64])}
    make(tmp_path / "Tiny-AWQ", quantized, half)
    make(tmp_path / "Tiny-Instruct")  # not quantized
    make(tmp_path / "Tiny-GPTQ", {**quantized, "vocab_size": 7}, half)  # another vocabulary
    make(tmp_path / "Tiny-W4", {**quantized, "architectures": ["Qwen2ForClassification"]}, half)
    make(tmp_path / "Tiny-FP8", quantized, None)  # no weights
    make(tmp_path / "Tinyish-AWQ", quantized, half)  # another name
    make(tmp_path / "Tiny-Instruct-AWQ", quantized, half)  # another fine-tune
    make(tmp_path / "Tiny-mine", quantized, half)
    assert read_checkpoint(str(model)).siblings == (str(tmp_path / "Tiny-AWQ"),)


@pytest.mark.parametrize(
    ("name", "quantized"),
    [
        *((f"M{rest}", True) for rest in ("-AWQ", "-GPTQ-Int4", "-FP8-dynamic", "_fp8", ".w8a8")),
        *((f"M{rest}", True) for rest in ("-quantized.w4a16", "-bnb-4bit", "-NVFP4A16")),
        *((f"M{rest}", False) for rest in ("", "-Instruct", "-Instruct-AWQ", "-v2", "-1.5-AWQ")),
        ("Mistral-AWQ", False),
    ],
)
def test_only_words_of_quantization_make_a_name_the_same_model(
    tmp_path: Path, name: str, quantized: bool
) -> None:
    for folder in {"M", name}:
        (tmp_path / folder).mkdir()
    found = [path.name for _, path in neighbours(tmp_path / "M")]
    assert found == ([name] if quantized else [])


def test_a_name_is_looked_up_in_the_hub_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    quantized = {**SMALL, "quantization_config": {"quant_method": "awq"}}
    for name, config in (
        ("org--Tiny", SMALL),
        ("org--Tiny-AWQ", quantized),
        ("org--Tiny-GPTQ", {**quantized, "vocab_size": 7}),
        ("other--Tiny-FP8", {**quantized, "architectures": ["Qwen2ForClassification"]}),
    ):
        repository = tmp_path / f"models--{name}"
        make(repository / "snapshots" / "abc123", config)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text("abc123")
    found = read_checkpoint("org/Tiny")
    assert found.revision == "abc123"
    assert found.siblings == ("org/Tiny-AWQ",)
    assert read_checkpoint("org/Tiny", "abc123").digest == found.digest
    for model, revision in (("org/Other", None), ("org/Tiny", "v2")):
        with pytest.raises(BadModel, match="neither a folder here nor in the Hugging Face cache"):
            read_checkpoint(model, revision)


def test_the_digest_changes_with_the_weights(tmp_path: Path) -> None:
    one = read_checkpoint(str(make(tmp_path / "one"))).digest
    assert read_checkpoint(str(make(tmp_path / "two"))).digest == one
    longer = {**WEIGHTS, "model.layers.1.mlp.down_proj.weight": ("BF16", [64, 128])}
    assert read_checkpoint(str(make(tmp_path / "three", tensors=longer))).digest != one
    assert read_checkpoint(str(make(tmp_path / "four", {**SMALL, "eos": 1}))).digest != one


# name: parameters in 10^9 as published, context, default context, layer plan
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
    "gemma-3-4b": (3.8801, 131072, 131072, {"sliding": 29, "full": 5}),
    "phi-3-mini-128k": (3.8211, 131072, 4096, {"sliding": 32}),
    "llama-4-scout": (107.77, 10485760, 10485760, {"chunked": 36, "full": 12}),
    "qwen2-vl-7b": (7.6156, 32768, 32768, {"full": 28}),
    "llava-1.5-7b": (6.7389, 4096, 4096, {"full": 32}),
    "jamba-mini": (None, 262144, 262144, {"state": 28, "full": 4}),
    "qwen3-next-80b": (None, 262144, 262144, {"state": 36, "full": 12}),
    "mamba-2.8b": (None, 2048, 2048, {"state": 64}),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_shape_is_read_as_published(tmp_path: Path, name: str) -> None:
    billions, context, default, plan = PUBLISHED[name]
    found = of_shape(tmp_path, name)
    assert (found.context, found.default_context) == (context, default)
    assert {layers.kind: layers.count for layers in found.plan or ()} == plan
    if billions is not None:
        assert found.weights is not None
        assert found.weights.elements / 1e9 == pytest.approx(billions, rel=0.002)


def test_packed_shapes_come_to_the_size_of_their_published_files(tmp_path: Path) -> None:
    gpt_oss = of_shape(tmp_path / "gpt-oss", "gpt-oss-20b")
    assert gpt_oss.weight_bytes == pytest.approx(13.76e9, rel=0.01)
    deepseek = of_shape(tmp_path / "deepseek", "deepseek-v3")
    assert deepseek.weight_bytes == pytest.approx(671.03e9 + 1.85e9, rel=0.01)


@pytest.mark.parametrize("name", ["gemma-3-4b", "llama-4-scout", "qwen2-vl-7b", "llava-1.5-7b"])
def test_a_model_with_a_tower_is_multimodal(tmp_path: Path, name: str) -> None:
    assert of_shape(tmp_path, name).multimodal


def test_a_nested_text_config_goes_before_what_is_around_it(tmp_path: Path) -> None:
    nested = {"model_type": "wrapped", "vocab_size": 5, "text_config": SMALL}
    found = read_checkpoint(str(make(tmp_path, nested)))
    assert (found.model_type, found.vocab_size, found.kv_heads) == ("qwen2", 1000, 2)


def test_an_unknown_architecture_is_said_to_be_unknown(tmp_path: Path) -> None:
    config = {**SMALL, "model_type": "from_the_future", "architectures": ["FutureLM"]}
    found = read_checkpoint(str(make(tmp_path, config)))
    assert found.plan is None
    assert found.weight_bytes


@pytest.mark.parametrize(
    ("rope", "expected"),
    [
        ({"type": "linear", "factor": 4.0}, 131072),
        ({"rope_type": "dynamic", "factor": 2.0}, 65536),
        ({"rope_type": "yarn", "factor": 4.0}, 32768),
        ({"rope_type": "llama3", "factor": 8.0}, 32768),
        ({"rope_type": "linear", "factor": None}, 32768),
        ({"full_attention": {"rope_type": "linear", "factor": 2}}, 65536),
        (None, 32768),
    ],
)
def test_the_context_is_scaled_as_vllm_scales_it(
    tmp_path: Path, rope: object, expected: int
) -> None:
    assert read_checkpoint(str(make(tmp_path, {**SMALL, "rope_scaling": rope}))).context == expected


def without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in SMALL.items() if name not in names}


def missing_path(folder: Path) -> Path:
    return folder / "nowhere"


def no_config(folder: Path) -> Path:
    write_safetensors(folder / "model.safetensors", WEIGHTS)
    return folder


def broken_json(folder: Path) -> Path:
    make(folder)
    (folder / "config.json").write_text('{"hidden_size": 64,')
    return folder


def binary_config(folder: Path) -> Path:
    make(folder)
    (folder / "config.json").write_bytes(b"\xff\xfe\x00\x01")
    return folder


def no_weights(folder: Path) -> Path:
    return make(folder, tensors=None)


def short_header(folder: Path) -> Path:
    make(folder)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 5000) + b"{}")
    return folder


def empty_file(folder: Path) -> Path:
    make(folder)
    (folder / "model.safetensors").write_bytes(b"")
    return folder


def cut_tensors(folder: Path) -> Path:
    make(folder)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    return folder


def not_safetensors(folder: Path) -> Path:
    make(folder)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 4) + b"nope" + bytes(10))
    return folder


def pointer_file(folder: Path) -> Path:
    make(folder)
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    return folder


def missing_shards(folder: Path) -> Path:
    make(folder)
    names = {"a": "model.safetensors", "b": "model-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    return folder


def broken_index(folder: Path) -> Path:
    make(folder)
    (folder / "model.safetensors.index.json").write_text("[]")
    return folder


BROKEN: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing path": (missing_path, "There is no model at"),
    "no config.json": (no_config, "has no config.json"),
    "broken JSON": (broken_json, "is broken JSON"),
    "binary config.json": (binary_config, "is broken JSON"),
    "a list for a config": (lambda f: make(f, [1]), "holds list, not an object"),
    "an empty config": (lambda f: make(f, {}), "lacks model_type, hidden_size, num_hidden_layers"),
    "no heads": (lambda f: make(f, without("num_attention_heads")), "lacks num_attention_heads."),
    "words for numbers": (lambda f: make(f, {**SMALL, "hidden_size": "x"}), "lacks hidden_size."),
    "no weights": (no_weights, "has no weights"),
    "header beyond the file": (short_header, "its header is incomplete"),
    "empty weights": (empty_file, "its header is incomplete"),
    "tensors beyond the file": (cut_tensors, "the last 100 bytes of its tensors are missing"),
    "no safetensors at all": (not_safetensors, "its header cannot be understood"),
    "a git-lfs pointer": (pointer_file, "its header is incomplete"),
    "missing shards": (missing_shards, "lacks model-00002.safetensors: 1 of the 2 weight files"),
    "broken index": (broken_index, "does not say which file holds which tensor"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_model_is_refused_with_a_sentence_and_a_hint(tmp_path: Path, case: str) -> None:
    build, sentence = BROKEN[case]
    with pytest.raises(BadModel) as refusal:
        read_checkpoint(str(build(tmp_path)))
    assert sentence in refusal.value.message
    assert refusal.value.hint
    assert refusal.value.exit_code == 3


@pytest.mark.parametrize("model", ["x" * 5000, "a\0b", "", "-", "~nobody-here/x"])
def test_a_path_that_cannot_be_is_refused(model: str) -> None:
    with pytest.raises(BadModel) as refusal:
        read_checkpoint(model)
    assert refusal.value.hint


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", ""])
def test_an_unreadable_file_is_refused(tmp_path: Path, name: str) -> None:
    (make(tmp_path / "model") / name).chmod(0)
    with pytest.raises(BadModel, match="Cannot read"):
        read_checkpoint(str(tmp_path / "model"))
    (tmp_path / "model" / name).chmod(0o700)


def test_a_folder_in_the_place_of_a_file_is_refused(tmp_path: Path) -> None:
    make(tmp_path, tensors=None)
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(BadModel, match="Cannot read"):
        read_checkpoint(str(tmp_path))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)
FIELDS = (
    *SMALL,
    "rope_scaling",
    "text_config",
    "sliding_window",
    "layer_types",
    "quantization_config",
)
FIELDS += ("attn_layer_offset", "attn_config", "ffn_config", "mlp_only_layers", "kv_lora_rank")
KNOWN_TYPES = ("qwen2", "gemma3_text", "jamba", "deepseek_v3", "nemotron_h", "bamba", "qwen3_next")


@settings(max_examples=300, deadline=None)
@given(
    changes=st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4),
    model_type=st.sampled_from(KNOWN_TYPES),
)
def test_no_config_ever_ends_in_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, changes: dict[str, Any], model_type: str
) -> None:
    folder = make(
        tmp_path_factory.getbasetemp() / "any", {**SMALL, "model_type": model_type, **changes}
    )
    assert refused_politely(folder)


@settings(max_examples=200, deadline=None)
@given(content=st.binary(max_size=200), length=st.integers(0, 300))
def test_no_weight_file_ever_ends_in_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, length: int
) -> None:
    folder = make(tmp_path_factory.getbasetemp() / "any-weights")
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", length) + content)
    assert refused_politely(folder)


@settings(max_examples=200, deadline=None)
@given(tensor=JSON, offsets=JSON)
def test_no_header_ever_ends_in_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, tensor: Any, offsets: Any
) -> None:
    folder = make(tmp_path_factory.getbasetemp() / "any-header")
    entry = {"dtype": "BF16", "shape": tensor, "data_offsets": offsets}
    text = json.dumps({"a": tensor, "b": entry}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    assert refused_politely(folder)
