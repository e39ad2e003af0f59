"""What a ladder or a cached answer may not set, since it may come from somebody else.

It may tune vLLM and its libraries. It may not load code, read or write files, choose devices,
open ports or switch off a safety check; only the user may, after `--` or in the environment.
"""

import re
from collections.abc import Mapping

from .config import Value

ENV_PREFIXES = ("VLLM_", "CUDA_", "NCCL_", "TORCH_", "PYTORCH_", "OMP_")
# Words of names such as VLLM_LOGGING_CONFIG_PATH, CUDA_INJECTION64_PATH, NCCL_NET_PLUGIN,
# OMP_TOOL_LIBRARIES, VLLM_ALLOW_INSECURE_SERIALIZATION, CUDA_VISIBLE_DEVICES, VLLM_API_KEY.
_WORDS = """
ALLOW AUTOLOAD DEV DEVICE DEVICES DIR FILE HOME HOST INSECURE IP KEY LIBRARIES LIBRARY MODULE PATH
PLUGIN PLUGINS PORT ROOT SO TOKEN TOOL TRACE URL
"""
ENV_WORDS = frozenset(_WORDS.split())
# Flags of vLLM 0.6.6 to 0.33 that load code or files, or belong to whoever serves.
_FLAGS = """
additional-config allowed-headers allowed-local-media-path allowed-methods allowed-origins
api-key chat-template code-revision config ec-transfer-config generation-config hf-token host
io-processor-plugin kv-events-config kv-transfer-config logits-processors lora-modules middleware
model model-loader-extra-config otlp-traces-endpoint port profiler-config prompt-adapters revision
served-model-name tokenizer tokenizer-revision tool-server trust-remote-code uds
"""
FLAGS = frozenset(_FLAGS.split())
FLAG_PARTS = re.compile(r"(?:^|-)(?:cls|plugin|path|dir|file|ssl)(?:-|$)")
# A path, an address, or the dotted name of something in Python.
POINTER = re.compile(r"/|\\|[A-Za-z_]\w*\.[A-Za-z_]")
FORBIDDEN_HINT = "set it yourself, after `--` or in the environment"


def forbidden(args: Mapping[str, Value], env: Mapping[str, str]) -> tuple[str, str] | None:
    """Return the first name that may not be set, and the reason; None if all may be set."""
    for name, value in env.items():
        if not name.startswith(ENV_PREFIXES):
            return name, f"only variables that begin with {', '.join(ENV_PREFIXES)} are allowed"
        if ENV_WORDS.intersection(re.split(r"[_\d]+", name.upper())):
            return name, "it can load code, access files or devices, or switch off a safety check"
        if POINTER.search(value):
            return name, f"`{value}` is a path, an address or a Python name"
    for name, setting in args.items():
        flag = name.partition(".")[0].removeprefix("no-")
        if flag in FLAGS or FLAG_PARTS.search(flag):
            return name, "it can load code or files, or it belongs to the deployment"
        text = " ".join(setting) if isinstance(setting, tuple) else str(setting)
        if POINTER.search(text):
            return name, f"`{text}` is a path, an address or a Python name"
    return None
