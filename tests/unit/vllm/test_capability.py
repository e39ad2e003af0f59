"""What cards can do in vLLM, from a V100 to an RTX 50."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.support.memory_model import cards, default_ladder, engine, gather, install
from tests.support.paths import SHAPES
from vllm_autotune.checkpoint import Checkpoint, read_checkpoint
from vllm_autotune.search.build import inapplicable
from vllm_autotune.search.facts import Facts
from vllm_autotune.search.ladder import Rung
from vllm_autotune.search.step import next_step
from vllm_autotune.vllm.capability import (
    GENERATIONS,
    KERNELS,
    MINIMUM,
    SEVERAL,
    attention_backends,
    least_for_kv_cache,
    least_for_method,
)
from vllm_autotune.vllm.config import LaunchConfig
from vllm_autotune.workload import Workload

CARDS = {
    "V100": ("Tesla V100-SXM2-16GB", 15.8, (7, 0)),
    "T4": ("Tesla T4", 14.6, (7, 5)),
    "A100": ("NVIDIA A100-SXM4-80GB", 79.3, (8, 0)),
    "3090": ("NVIDIA GeForce RTX 3090", 23.6, (8, 6)),
    "4090": ("NVIDIA GeForce RTX 4090", 23.5, (8, 9)),
    "H200": ("NVIDIA H200", 139.8, (9, 0)),
    "B200": ("NVIDIA B200", 178.4, (10, 0)),
    "5090": ("NVIDIA GeForce RTX 5090", 31.4, (12, 0)),
}
# Every capability that a card vLLM runs on has (https://developer.nvidia.com/cuda-gpus).
CAPABILITIES = (
    *((7, 0), (7, 2), (7, 5), (8, 0), (8, 6), (8, 7), (8, 9)),
    *((9, 0), (10, 0), (10, 3), (12, 0), (12, 1)),
)
capabilities = st.sampled_from(CAPABILITIES)
releases = st.tuples(st.just(0), st.integers(6, 99), st.integers(0, 9))
methods = st.sampled_from(sorted({*MINIMUM, *KERNELS, *SEVERAL, "a method of tomorrow"}))


def capability(card: str) -> tuple[int, int]:
    return CARDS[card][2]


# A card that is one generation too old, and the first that is not; None where all of them run it.
# Sources: `get_min_capability` of that version's files, and for GPTQ and compressed-tensors the
# kernels behind them (utils/marlin_utils.py, schemes/).
@pytest.mark.parametrize(
    ("method", "vllm", "too_old", "first"),
    [
        ("fp8", (0, 11, 0), "T4", "A100"),
        ("fp8", (0, 20, 2), "V100", "T4"),
        ("bitsandbytes", (0, 26, 0), None, "V100"),
        ("awq", (0, 11, 0), "V100", "T4"),
        ("awq_marlin", (0, 11, 0), "T4", "A100"),
        ("gptq", (0, 20, 2), None, "V100"),
        ("gptq", (0, 26, 0), "V100", "T4"),
        ("compressed-tensors", (0, 26, 0), "V100", "T4"),
        ("mxfp4", (0, 32, 0), "T4", "A100"),
        ("fp_quant", (0, 26, 0), "H200", "B200"),
    ],
)
def test_a_method_runs_from_its_least_capability_on(
    method: str, vllm: tuple[int, ...], too_old: str | None, first: str
) -> None:
    least = least_for_method(method, vllm, None)
    assert least
    assert capability(first) >= least
    assert too_old is None or capability(too_old) < least


def test_a_later_row_of_the_tables_is_for_a_later_vllm_and_every_row_for_a_generation() -> None:
    for rows in (*MINIMUM.values(), *KERNELS.values()):
        versions = [version for version, _ in rows]
        assert versions == sorted(set(versions))
        assert {least for _, least in rows} <= set(GENERATIONS)


@given(methods, releases, releases, capabilities)
def test_what_a_method_needs_is_known_from_one_version_on_and_never_less_than_its_file_says(
    method: str, one: tuple[int, ...], other: tuple[int, ...], own: tuple[int, int]
) -> None:
    older, newer = sorted((one, other))
    before, after = (least_for_method(method, release, None) for release in (older, newer))
    assert before is None or after is not None
    assert least_for_method(method, newer[:2], None) == after  # a patch release changes nothing
    with_file = least_for_method(method, newer, own)
    assert (with_file is None) == (method in SEVERAL)
    assert with_file is None or with_file >= own


def test_a_file_that_asks_for_less_than_the_kernels_need_does_not_count() -> None:
    assert least_for_method("gptq", (0, 26, 0), (6, 0)) == (7, 5)
    assert least_for_method("gptq", (0, 20, 0), (6, 0)) == (6, 0)


# platforms/cuda.py `_get_backend_priorities` and `supports_compute_capability` (0.26, 0.32).
@pytest.mark.parametrize(
    ("card", "dense", "latent"),
    [
        ("T4", "TRITON_ATTN", "TRITON_MLA"),
        ("A100", "FLASH_ATTN", "TRITON_MLA"),
        ("H200", "FLASH_ATTN", "FLASH_ATTN_MLA"),
        ("B200", "FLASHINFER", "FLASHINFER_MLA"),
        ("5090", "FLASH_ATTN", "TRITON_MLA"),
    ],
)
def test_a_card_prefers_the_attention_backend_that_vllm_chooses(
    card: str, dense: str, latent: str
) -> None:
    assert attention_backends(capability(card))[0] == dense
    assert attention_backends(capability(card), mla=True)[0] == latent


# Who reads an 8-bit KV cache: FlashAttention 3 on Hopper, Triton from 8.9 on (its type fp8e4nv),
# FlashInfer from 8.0 on (vLLM PR 24577, measured on an A100).
@pytest.mark.parametrize(
    ("card", "without", "with_flashinfer"),
    [
        ("T4", None, None),
        ("A100", None, "FLASHINFER"),
        ("4090", "TRITON_ATTN", "FLASHINFER"),
        ("H200", "FLASH_ATTN", "FLASH_ATTN"),
        ("B200", "TRITON_ATTN", "FLASHINFER"),
    ],
)
def test_an_8bit_kv_cache_is_read_by_the_first_backend_that_can(
    card: str, without: str | None, with_flashinfer: str | None
) -> None:
    for flashinfer, first in ((False, without), (True, with_flashinfer)):
        found = attention_backends(capability(card), flashinfer=flashinfer, fp8=True)
        assert next(iter(found), None) == first


demands = st.fixed_dictionaries(
    {
        "mla": st.booleans(),
        "flashinfer": st.booleans(),
        "head_size": st.none() | st.sampled_from([56, 64, 80, 96, 128, 192, 256, 512]),
        "sinks": st.booleans(),
    }
)


@given(capabilities, demands, st.booleans())
def test_who_asks_for_more_has_fewer_backends_and_everyone_has_one(
    card: tuple[int, int], demand: dict[str, Any], fp8: bool
) -> None:
    assert attention_backends(card, mla=demand["mla"], flashinfer=False)
    found = attention_backends(card, fp8=fp8, **demand)
    assert len(set(found)) == len(found)
    for name, least in (("flashinfer", True), ("head_size", None), ("sinks", False)):
        assert set(found) <= set(attention_backends(card, fp8=fp8, **{**demand, name: least}))
    assert set(found) <= set(attention_backends(card, fp8=False, **demand))


@given(capabilities, demands, st.sampled_from(["fp8", "fp8_e4m3", "fp8_e5m2"]))
def test_the_least_capability_for_an_8bit_kv_cache_is_where_some_backend_reads_it(
    card: tuple[int, int], demand: dict[str, Any], dtype: str
) -> None:
    """On every card between two generations, too."""
    assume(not (demand["mla"] and demand["sinks"]))  # no model has both, and no backend
    least = least_for_kv_cache(dtype, (0, 26, 0), **demand)
    if demand["mla"]:
        demand = {**demand, "head_size": None}  # latent attention has a size of its own
    assert least
    assert bool(attention_backends(card, fp8=True, **demand)) == (card >= least)


def test_flashinfer_reads_8_bits_only_since_0_11() -> None:
    assert least_for_kv_cache("fp8", (0, 10, 2), flashinfer=True) == (8, 9)
    assert least_for_kv_cache("fp8", (0, 11, 0), flashinfer=True) == (8, 0)


def test_latent_attention_needs_a_newer_card_for_8_bits_with_flashinfer_too() -> None:
    assert least_for_kv_cache("fp8_e4m3", (0, 26, 0), mla=True, flashinfer=True) == (8, 9)


@pytest.mark.parametrize(
    ("head_size", "least"),
    [(None, (8, 0)), (64, (8, 0)), (128, (8, 0)), (256, (8, 0)), (80, (8, 9)), (96, (8, 9))],
)
def test_flashinfer_reads_8_bits_of_some_head_sizes_only(
    head_size: int | None, least: tuple[int, int]
) -> None:
    # flashinfer.py, `get_supported_head_sizes`; Triton, which takes any, refuses below 8.9.
    found = least_for_kv_cache("fp8", (0, 26, 0), flashinfer=True, head_size=head_size)
    assert found == least


def test_attention_sinks_leave_an_8bit_kv_cache_to_newer_cards() -> None:
    # GPT-OSS; `supports_sink` of flash_attn.py, flashinfer.py and triton_attn.py (0.26).
    assert least_for_kv_cache("fp8", (0, 26, 0), flashinfer=True, sinks=True) == (8, 9)
    assert attention_backends((8, 6), fp8=True, head_size=64, sinks=True) == ()
    assert attention_backends((8, 6), head_size=64, sinks=True) == ("TRITON_ATTN",)
    assert attention_backends((9, 0), fp8=True, sinks=True) == ("FLASH_ATTN", "TRITON_ATTN")
    assert attention_backends((10, 0), fp8=True, sinks=True) == ("FLASHINFER", "TRITON_ATTN")


def test_latent_attention_has_a_size_of_its_own() -> None:
    assert least_for_kv_cache("fp8", (0, 26, 0), mla=True, head_size=56) == (8, 9)


def test_a_16bit_kv_cache_asks_for_nothing() -> None:
    assert least_for_kv_cache("auto", (0, 26, 0)) is None


@pytest.fixture(scope="module")
def shape(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A 7B model."""
    folder = tmp_path_factory.mktemp("shape")
    (folder / "config.json").write_text((SHAPES / "qwen2.5-7b.json").read_text())
    return read_checkpoint(str(folder), weights_required=False)


def on(card: str, shape: Checkpoint, site: Path) -> Facts:
    name, gib, has = CARDS[card]
    return gather(shape, cards(name, gib, has, 1), Workload(), engine(install(site)))


def rung(name: str) -> Rung:
    return next(rung for rung in default_ladder().rungs if rung.name == name)


def refusal(name: str, facts: Facts) -> str | None:
    return inapplicable(rung(name), LaunchConfig(facts.model, {}), facts)


@pytest.mark.parametrize(
    ("name", "too_old", "first"),
    [
        ("kv-cache-8bit", "3090", "4090"),
        ("fp8-weights", "V100", "T4"),
        ("4bit-weights", None, "V100"),
    ],
)
def test_a_rung_that_the_card_cannot_do_is_skipped(
    name: str, too_old: str | None, first: str, shape: Checkpoint, tmp_path: Path
) -> None:
    assert refusal(name, on(first, shape, tmp_path / "first")) is None
    assert too_old is None or refusal(name, on(too_old, shape, tmp_path / "too-old"))


@pytest.mark.parametrize(("card", "dtype"), [("T4", "half"), ("A100", None), ("5090", None)])
def test_bfloat16_weights_are_served_as_float16_below_8_0(
    card: str, dtype: str | None, shape: Checkpoint, tmp_path: Path
) -> None:
    # platforms/cuda.py `supported_dtypes`: bfloat16 from 8.0 on, in every version.
    candidate = next_step(on(card, shape, tmp_path), []).candidate
    assert candidate
    assert candidate.config.args.get("dtype") == dtype


def test_the_reason_names_what_the_card_would_need(shape: Checkpoint, tmp_path: Path) -> None:
    assert refusal("kv-cache-8bit", on("A100", shape, tmp_path)) == (
        "fp8 KV cache needs compute capability 8.9 (Ada, Hopper and newer); "
        "NVIDIA A100-SXM4-80GB has 8.0"
    )
    assert refusal("fp8-weights", on("V100", shape, tmp_path)) == (
        "fp8 quantization needs compute capability 7.5 (Turing and newer); "
        "Tesla V100-SXM2-16GB has 7.0"
    )


def test_with_flashinfer_an_a100_gets_an_8bit_kv_cache(shape: Checkpoint, tmp_path: Path) -> None:
    facts = on("A100", shape, tmp_path)
    (tmp_path / "flashinfer").mkdir()
    assert refusal("kv-cache-8bit", facts) is None


def test_the_installed_files_win_over_the_table(shape: Checkpoint, tmp_path: Path) -> None:
    facts = on("T4", shape, tmp_path)
    folder = tmp_path / "vllm" / "model_executor" / "layers" / "quantization"
    with (folder / "__init__.py").open("a") as index:
        index.write('def get():\n    from .fp8 import Fp8Config\n    return {"fp8": Fp8Config}\n')
    (folder / "fp8.py").write_text(
        "class Other:\n    @classmethod\n    def get_min_capability(cls): return 60\n"
        "class Fp8Config:\n    @classmethod\n    def get_min_capability(cls): return 89\n"
    )
    assert facts.engine.least_capability("fp8") == (8, 9)
    assert facts.engine.least_capability("awq") is None
    assert "needs compute capability 8.9" in (refusal("fp8-weights", facts) or "")


def with_siblings(facts: Facts, **methods: int) -> Facts:
    """Return facts with quantized siblings of so many bytes."""
    found = dict(facts.checkpoints)
    for method, size in methods.items():
        assert facts.checkpoint.weights
        weights = replace(facts.checkpoint.weights, bytes=size)
        found[method] = replace(facts.checkpoint, quantization=method, weights=weights)
    return replace(facts, checkpoints=found)


def chosen(facts: Facts) -> str | None:
    """Return the sibling of the first candidate, None if it has the user's own weights."""
    candidate = next_step(facts, []).candidate
    return candidate.config.model if candidate and candidate.config.model != facts.model else None


def test_a_sibling_that_the_card_cannot_run_is_not_chosen(
    shape: Checkpoint, tmp_path: Path
) -> None:
    # AWQ, the larger one, gives up less; a V100 runs GPTQ alone (vLLM 0.20).
    facts = with_siblings(on("V100", shape, tmp_path), awq=6 * 2**30, gptq=5 * 2**30)
    old = replace(facts.engine, version="0.20.2")
    small = tuple(replace(d, limit_bytes=11 * 2**30) for d in facts.devices)
    text = tmp_path / "vllm" / "model_executor" / "layers" / "quantization" / "__init__.py"
    text.write_text('QuantizationMethods = Literal["fp8", "awq", "gptq"]\n')
    assert chosen(replace(facts, engine=old, devices=small)) == "gptq"
    turing = tuple(replace(d, capability=(7, 5)) for d in small)
    assert chosen(replace(facts, engine=old, devices=turing)) == "awq"


def test_siblings_none_of_which_the_card_can_run_are_named(
    shape: Checkpoint, tmp_path: Path
) -> None:
    facts = with_siblings(on("V100", shape, tmp_path), awq=6 * 2**30)
    assert refusal("quantized-checkpoint", facts) == (
        "awq quantization needs compute capability 7.5 (Turing and newer); "
        "Tesla V100-SXM2-16GB has 7.0"
    )
