"""What a ladder or an answer from elsewhere may set, and what not."""

import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_autotune.errors import BadLadder
from vllm_autotune.search.ladder_file import read_ladder
from vllm_autotune.vllm.config import Value
from vllm_autotune.vllm.untrusted import forbidden

# Names of real variables and flags that load code, reach files, or open something.
VARIABLES = (
    *("LD_PRELOAD", "PYTHONPATH", "PATH", "vllm_use_v1", "VLLM_PLUGINS", "VLLM_API_KEY"),
    *("VLLM_ALLOW_INSECURE_SERIALIZATION", "VLLM_ALLOW_RUNTIME_LORA_UPDATING"),
    *("VLLM_LOGGING_CONFIG_PATH", "VLLM_NCCL_SO_PATH", "VLLM_SERVER_DEV_MODE", "VLLM_CACHE_ROOT"),
    *("VLLM_TORCH_PROFILER_DIR", "CUDA_INJECTION64_PATH", "CUDA_VISIBLE_DEVICES", "CUDA_HOME"),
    *("NCCL_NET_PLUGIN", "NCCL_CONF_FILE", "TORCH_DEVICE_BACKEND_AUTOLOAD", "TORCH_TRACE"),
    "OMP_TOOL_LIBRARIES",
)
FLAGS = (
    *("trust-remote-code", "worker-cls", "worker-extension-cls", "scheduler-cls", "middleware"),
    *("tool-parser-plugin", "logits-processors", "kv-transfer-config", "chat-template", "host"),
    *("download-dir", "log-config-file", "ssl-keyfile", "config", "tokenizer"),
)
HARMLESS: dict[str, Value] = {
    "max-model-len": 8192,
    "gpu-memory-utilization": 0.92,
    "kv-cache-dtype": "fp8",
    "quantization": "bitsandbytes",
    "compilation-config": '{"level": 0, "cudagraph_mode": "NONE"}',
    "compilation-config.level": 0,
    "long-prefill-token-threshold": 512,
    "speculative-config": '{"method": "ngram", "num_speculative_tokens": 2}',
    "distributed-executor-backend": "mp",
    "enforce-eager": True,
    "cpu-offload-gb": "1.5",
}
TUNING = {
    "VLLM_USE_V2_MODEL_RUNNER": "0",
    "VLLM_ATTENTION_BACKEND": "FLASHINFER",
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True,max_split_size_mb:128",
    "NCCL_P2P_DISABLE": "1",
    "OMP_NUM_THREADS": "8",
}
OURS = ("VLLM_", "CUDA_", "NCCL_", "TORCH_", "PYTORCH_", "OMP_")


def test_what_loads_or_opens_something_is_refused() -> None:
    assert [name for name in VARIABLES if not forbidden({}, {name: "1"})] == []
    written = [form for name in FLAGS for form in (name, f"no-{name}", f"{name}.part")]
    assert [form for form in written if not forbidden({form: "1"}, {})] == []


def test_what_tunes_is_allowed() -> None:
    assert forbidden(HARMLESS, TUNING) is None


@given(st.text(string.ascii_letters + "_", min_size=1).filter(lambda n: not n.startswith(OURS)))
def test_a_variable_of_anything_but_vllm_and_its_libraries_is_refused(name: str) -> None:
    assert forbidden({}, {name: "1"})


@given(
    st.sampled_from(OURS),
    st.lists(st.sampled_from(["USE", "P2P", "V2", "64"]), max_size=2),
    st.sampled_from(["PATH", "Plugin", "dir", "KEY", "LIBRARY", "HOST", "ALLOW", "DEVICES"]),
    st.lists(st.sampled_from(["LEVEL", "V2", "NUM"]), max_size=2),
)
def test_a_word_that_opens_something_is_found_anywhere_in_a_variables_name(
    prefix: str, before: list[str], word: str, after: list[str]
) -> None:
    assert forbidden({}, {prefix + "_".join([*before, word, *after]): "1"})


@given(
    st.sampled_from(["/tmp/x", "../x", "C:\\x", "http://x", "evil.Executor", "a.b.c", "x/y"]),
    st.sampled_from(["{}", "fp8,{}", '{{"backend": "{}"}}', " {} "]),
    st.sampled_from(sorted(HARMLESS)),
    st.sampled_from(sorted(TUNING)),
)
def test_a_path_an_address_or_a_name_of_python_is_found_anywhere_in_a_value(
    pointer: str, around: str, flag: str, variable: str
) -> None:
    value = around.format(pointer)
    assert (forbidden({flag: value}, {}) or ("",))[0] == flag
    assert (forbidden({flag: ("harmless", value)}, {}) or ("",))[0] == flag
    assert (forbidden({}, {variable: value}) or ("",))[0] == variable


@given(st.integers() | st.floats(0, 1e9) | st.booleans())
def test_a_number_points_at_nothing(value: int | float) -> None:
    assert forbidden({"max-num-seqs": value, "cpu-offload-gb": str(value)}, {}) is None


def test_a_ladder_is_refused_with_the_line(tmp_path: Path) -> None:
    path = tmp_path / "evil.toml"
    path.write_text('[[rung]]\nname = "a"\ngives_up = "b"\nset = { trust_remote_code = true }\n')
    with pytest.raises(BadLadder, match="may not set trust-remote-code") as refusal:
        read_ladder(path)
    assert "after `--`" in refusal.value.hint
