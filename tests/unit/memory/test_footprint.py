"""The whole of a launch, against real boots, and the laws it keeps."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.memory import device, estimated, gib, token_bytes
from tests.support.paths import GOLDEN, SHAPES
from vllm_autotune.checkpoint import Checkpoint, read_checkpoint
from vllm_autotune.memory import Interval
from vllm_autotune.units import GIB
from vllm_autotune.vllm.config import Value

# What vLLM 0.26 printed on an H200: shape, arguments, weights, overhead beside them, available
# KV cache in GiB, and the tokens it made of it.
BOOTS: dict[str, tuple[str, dict[str, Value], float, float, float, int]] = {
    "7B": ("qwen2.5-7b", {}, 14.29, 1.35, 112.98, 2_115_440),
    "7B eager": ("qwen2.5-7b", {"enforce-eager": True}, 14.29, 1.34, 112.98, 2_115_568),
    "7B fp8": (
        "qwen2.5-7b",
        {"quantization": "fp8", "enforce-eager": True},
        8.17,
        1.45,
        1.42,
        26_528,
    ),
    "7B small": ("qwen2.5-7b", {"enforce-eager": True}, 14.29, 1.34, 1.84, 34_496),
    "72B on two": (
        "qwen2.5-72b",
        {"tensor-parallel-size": 2, "enforce-eager": True},
        67.8,
        1.39,
        59.42,
        389_392,
    ),
}


@pytest.mark.parametrize("boot", BOOTS)
def test_a_real_boot_lies_within_the_estimate(shapes: dict[str, Checkpoint], boot: str) -> None:
    shape, args, weights, overhead, kv, tokens = BOOTS[boot]
    found = estimated(shapes[shape], args)
    assert gib(weights) in found.weights
    assert (found.weights.low + found.weights.high) / 2 == pytest.approx(gib(weights), rel=0.01)
    assert gib(overhead) in found.activations + found.non_torch
    token = token_bytes(found.cache)
    assert gib(kv) / tokens == pytest.approx(token.low, rel=0.005)
    assert token.low == token.high


# What vLLM 0.26 took on an H200 with dummy weights, most of them cut to four layers, after it had
# served 64 to 1024 short prompts and six long ones (tests/gpu/boots.py).
TAKEN = json.loads((SHAPES / "booted" / "0.26.0-h200.json").read_text())


@pytest.mark.parametrize("boot", TAKEN, ids=lambda boot: f"{boot['shape']}-{boot['tokens']}")
def test_what_a_real_boot_took_lies_within_the_estimate(
    tmp_path: Path, boot: dict[str, Any]
) -> None:
    config = json.loads((SHAPES / f"{boot['shape']}.json").read_text())
    if boot["layers"]:
        config |= {n: boot["layers"] for n in ("num_hidden_layers", "n_layer") if n in config}
        if "layer_types" in config:
            config["layer_types"] = config["layer_types"][: boot["layers"]]
    (tmp_path / "config.json").write_text(json.dumps(config))
    checkpoint = read_checkpoint(str(tmp_path), weights_required=False)
    args: dict[str, Value] = {
        "max-num-batched-tokens": boot["tokens"],
        "max-num-seqs": boot["sequences"],
        "enforce-eager": boot["eager"],
    }
    if boot["quantization"]:
        args["quantization"] = boot["quantization"]
    env = {"VLLM_USE_V2_MODEL_RUNNER": "1" if boot["runner"] == "v2" else "0"}
    found = estimated(checkpoint, args, env=env)
    assert boot["activations"] in found.activations
    assert boot["non_torch"] in found.non_torch
    assert boot["graphs"] in found.graphs
    beyond = boot["used"] - boot["requested"]
    assert -gib(0.65) < beyond - found.beyond_share < gib(0.5)
    if found.weights.known and not boot["quantization"]:
        assert boot["weights"] in found.weights
        assert found.weights.middle == pytest.approx(boot["weights"], rel=0.01, abs=80 * 2**20)


LOADED = [
    log
    for log in sorted(GOLDEN.glob("*/*.log"))
    if re.search(r"model='[^']*/qwen2.5-\d+b'.*Model loading took", log.read_text(), re.DOTALL)
]


@pytest.mark.parametrize("log", LOADED, ids=lambda log: f"{log.parent.name}-{log.stem}")
def test_every_log_of_a_known_shape_agrees_with_the_estimate(
    shapes: dict[str, Checkpoint], log: Path
) -> None:
    text = log.read_text()
    model = re.search(r"with config: model='[^']*/([^'/]+)'", text)
    weights = re.search(r"Model loading took ([\d.]+) GiB", text)
    assert model
    assert weights
    args: dict[str, Value] = {}
    for flag in ("quantization", "tensor_parallel_size", "cpu_offload_gb"):
        given_ = re.search(rf"'{flag}': '?([\w.]+)'?", text)
        if given_:
            args[flag.replace("_", "-")] = given_[1]
    found = estimated(shapes[model[1]], args)
    measured = gib(float(weights[1]))
    assert measured in found.weights
    if "cpu-offload-gb" not in args:  # which moves whole layers
        assert (found.weights.low + found.weights.high) / 2 == pytest.approx(measured, rel=0.01)


SERVED = [log for log in LOADED if "KV cache size" in log.read_text()]


@pytest.mark.parametrize("log", SERVED, ids=lambda log: f"{log.parent.name}-{log.stem}")
def test_every_log_has_exactly_the_tokens_that_its_kv_cache_holds(
    shapes: dict[str, Checkpoint], log: Path
) -> None:
    text = log.read_text()
    model = re.search(r"with config: model='[^']*/([^'/]+)'", text)
    available = re.search(r"Available KV cache memory: ([\d.]+) GiB", text)
    tokens = re.search(r"KV cache size: ([\d,]+) tokens", text)
    devices = re.search(r"'tensor_parallel_size': (\d+)", text)
    assert model
    assert available
    assert tokens
    args: dict[str, Value] = {"tensor-parallel-size": devices[1]} if devices else {}
    token = token_bytes(estimated(shapes[model[1]], args).cache)
    assert token.low == token.high
    held = int(tokens[1].replace(",", "")) * token.low
    rounding = gib(0.005)
    assert held <= gib(float(available[1])) + rounding
    assert held + 32 * token.low > gib(float(available[1])) - rounding  # less than two blocks


def test_an_unknown_architecture_abstains(shapes: dict[str, Checkpoint]) -> None:
    found = estimated(replace(shapes["qwen2.5-7b"], layer_groups=None, architecture="FutureLM"))
    assert found.kv_bytes(1) == Interval.unknown()
    assert found.cache.longest(Interval.exactly(gib(1)), 1, 16, 32768) == (0, 32768)
    weightless = estimated(replace(shapes["jamba-mini"], weights=None))
    assert not weightless.weights.known
    assert weightless.kv_available(gib(80)).low == -math.inf


def test_a_cpu_takes_the_cache_it_is_told_to(shapes: dict[str, Checkpoint]) -> None:
    env = {"VLLM_CPU_KVCACHE_SPACE": "2"}
    tiny = shapes["tiny-qwen2"]
    found = estimated(tiny, on=device(kind="cpu"), env=env)
    assert found.kv_available(GIB) == Interval.exactly(2 * GIB)
    assert estimated(tiny, env=env).kv_fixed is None


NAMES = sorted(path.stem for path in SHAPES.glob("*.json"))


ARGS = st.fixed_dictionaries(
    {},
    optional={
        "tensor-parallel-size": st.sampled_from([1, 2, 4, 8]),
        "pipeline-parallel-size": st.sampled_from([1, 2, 3]),
        "kv-cache-dtype": st.sampled_from(["auto", "fp8", "int8_per_token_head", "turboquant"]),
        "max-num-batched-tokens": st.sampled_from([512, 2048, 8192]),
        "max-num-seqs": st.sampled_from([1, 16, 256]),
        "quantization": st.sampled_from(["fp8", "bitsandbytes", "something-new"]),
        "cpu-offload-gb": st.integers(0, 100),
        "block-size": st.sampled_from([16, 32, 128]),
        "enforce-eager": st.just(True),
        "data-parallel-size": st.sampled_from([2, 16]),
        "decode-context-parallel-size": st.sampled_from([2, 8]),
        "prefill-context-parallel-size": st.just(2),
        "enable-lora": st.just(True),
        "spec-method": st.sampled_from(["ngram", "mtp", "eagle3"]),
    },
)


VERSIONS = st.sampled_from([(0, 9, 2), (0, 20), (0, 26), (0, 33)])


@given(name=st.sampled_from(NAMES), args=ARGS, vllm=VERSIONS)
def test_every_interval_is_one(
    shapes: dict[str, Checkpoint],
    name: str,
    args: dict[str, Value],
    vllm: tuple[int, ...],
) -> None:
    found = estimated(shapes[name], args, vllm=vllm)
    parts = (found.weights, found.activations, found.graphs, found.non_torch, found.kv_bytes(5000))
    for part in parts:
        assert 0 <= part.low <= part.high


@given(
    name=st.sampled_from(NAMES),
    args=ARGS,
    vllm=VERSIONS,
    lengths=st.tuples(st.integers(1, 200_000), st.integers(1, 200_000)),
    sequences=st.integers(1, 64),
)
def test_more_tokens_and_more_sequences_never_need_less(
    shapes: dict[str, Checkpoint],
    name: str,
    args: dict[str, Value],
    vllm: tuple[int, ...],
    lengths: tuple[int, int],
    sequences: int,
) -> None:
    found = estimated(shapes[name], args, vllm=vllm)
    short, long = (found.kv_bytes(n, sequences) for n in sorted(lengths))
    assert short.low <= long.low
    assert short.high <= long.high
    more = found.kv_bytes(max(lengths), sequences + 1)
    assert long.low <= more.low
    assert long.high <= more.high


@given(
    name=st.sampled_from(NAMES),
    args=ARGS,
    available=st.integers(0, 80 * GIB),
    sequences=st.integers(1, 8),
    block=st.sampled_from([16, 128]),
)
def test_the_longest_length_fits_and_the_next_does_not(
    shapes: dict[str, Checkpoint],
    name: str,
    args: dict[str, Value],
    available: int,
    sequences: int,
    block: int,
) -> None:
    found = estimated(shapes[name], args)
    context = shapes[name].context
    sure, perhaps = found.cache.longest(Interval.exactly(available), sequences, block, context)
    assert 0 <= sure <= perhaps <= context
    if sure:
        assert found.kv_bytes(sure, sequences).high <= available
    if sure < context // block * block:
        assert found.kv_bytes(sure + block, sequences).high > available
    if perhaps < context // block * block:
        assert found.kv_bytes(perhaps + block, sequences).low > available
