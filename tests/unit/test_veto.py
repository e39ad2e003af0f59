"""What a ladder or an answer from elsewhere may set, and what not."""

from pathlib import Path

import pytest

from vllm_autotune.errors import BadLadder
from vllm_autotune.search.ladder_file import read_ladder
from vllm_autotune.vllm.config import Value
from vllm_autotune.vllm.untrusted import forbidden

VARIABLES = {
    "LD_PRELOAD": "x.so",
    "PYTHONPATH": "x",
    "PATH": "x",
    "vllm_use_v1": "1",
    "VLLM_PLUGINS": "evil",
    "VLLM_ALLOW_INSECURE_SERIALIZATION": "1",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
    "VLLM_LOGGING_CONFIG_PATH": "x.json",
    "VLLM_NCCL_SO_PATH": "x.so",
    "VLLM_SERVER_DEV_MODE": "1",
    "VLLM_API_KEY": "k",
    "VLLM_CACHE_ROOT": "x",
    "VLLM_TORCH_PROFILER_DIR": "x",
    "CUDA_INJECTION64_PATH": "x.so",
    "CUDA_VISIBLE_DEVICES": "1",
    "CUDA_HOME": "x",
    "NCCL_NET_PLUGIN": "evil",
    "NCCL_CONF_FILE": "x",
    "TORCH_DEVICE_BACKEND_AUTOLOAD": "1",
    "TORCH_TRACE": "x",
    "OMP_TOOL_LIBRARIES": "x.so",
    "VLLM_ATTENTION_BACKEND": "/tmp/x",
    "VLLM_USE_MODELSCOPE": "evil.module",
}
FLAGS: dict[str, Value] = {
    "trust-remote-code": True,
    "no-trust-remote-code": True,
    "worker-cls": "a",
    "worker-extension-cls": "a",
    "scheduler-cls": "a",
    "tool-parser-plugin": "a",
    "middleware": "a",
    "logits-processors": ("a", "b"),
    "kv-transfer-config": "{}",
    "kv-transfer-config.kv_connector": "x",
    "chat-template": "x",
    "download-dir": "x",
    "log-config-file": "x",
    "ssl-keyfile": "x",
    "host": "0",
    "config": "x",
    "tokenizer": "x",
    "distributed-executor-backend": "evil.Executor",
    "compilation-config": '{"backend": "evil.module"}',
    "quantization": "../x",
}
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


@pytest.mark.parametrize("name", VARIABLES)
def test_a_variable_that_loads_or_opens_something_is_refused(name: str) -> None:
    refused = forbidden({}, {name: VARIABLES[name]})
    assert refused is not None
    assert refused[0] == name


@pytest.mark.parametrize("name", FLAGS)
def test_a_flag_that_loads_or_opens_something_is_refused(name: str) -> None:
    refused = forbidden({name: FLAGS[name]}, {})
    assert refused is not None
    assert refused[0] == name


def test_what_tunes_is_allowed() -> None:
    env = {
        "VLLM_USE_V2_MODEL_RUNNER": "0",
        "VLLM_ATTENTION_BACKEND": "FLASHINFER",
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True,max_split_size_mb:128",
        "NCCL_P2P_DISABLE": "1",
        "CUDA_MODULE_LOADING": "LAZY",
        "OMP_NUM_THREADS": "8",
    }
    assert forbidden(HARMLESS, {name: v for name, v in env.items() if "MODULE" not in name}) is None


def test_a_ladder_is_refused_with_the_line(tmp_path: Path) -> None:
    path = tmp_path / "evil.toml"
    path.write_text('[[rung]]\nname = "a"\ngives_up = "b"\nset = { trust_remote_code = true }\n')
    with pytest.raises(BadLadder, match="may not set trust-remote-code") as refusal:
        read_ladder(path)
    assert "after `--`" in refusal.value.hint
