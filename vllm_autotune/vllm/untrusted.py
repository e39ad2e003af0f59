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
# What says no more than in which order devices are numbered.
HARMLESS = ("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
# Flags of vLLM 0.6.6 to 0.33 that load code or files, or belong to whoever serves.
_FLAGS = """
additional-config allow-credentials allowed-headers allowed-local-media-path allowed-methods
allowed-origins api-key chat-template code-revision config data-parallel-address
data-parallel-rpc-port default-mm-loras device-ids download-dir ec-transfer-config
enable-ssl-refresh generation-config hf-config-path hf-token host io-processor-plugin
kv-events-config kv-transfer-config log-config-file logging-config logits-processors lora-modules
master-addr master-port middleware mm-encoder-fp8-scale-path mm-encoder-fp8-scale-save-path model
model-class-overrides model-loader-extra-config otlp-traces-endpoint port profiler-config
prompt-adapters reasoning-parser-plugin revision root-path scheduler-cls served-model-name
ssl-ca-certs ssl-cert-reqs ssl-certfile ssl-ciphers ssl-keyfile tokenizer tokenizer-revision
tool-parser-plugin tool-server trust-remote-code uds weight-transfer-config worker-cls
worker-extension-cls
"""
FLAGS = frozenset(_FLAGS.split())
FLAG_PARTS = re.compile(r"(?:^|-)(?:cls|plugin|path|dir|file|ssl)(?:-|$)")
# argparse takes the beginning of a flag for the flag: these alone are flags of their own.
WHOLE = frozenset({"reasoning-parser"})
VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
FLAG_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*(?:\.[A-Za-z0-9_.-]+\+?)?")
# A value that argparse would read as a flag of its own.
FLAG = re.compile(r"--?[A-Za-z]|--$")
# A path, an address, or the dotted name of something in Python.
POINTER = re.compile(r"/|\\|[A-Za-z_]\w*\.[A-Za-z_]")
FORBIDDEN_HINT = "set it yourself, after `--` or in the environment"


def forbidden(args: Mapping[str, Value], env: Mapping[str, str]) -> tuple[str, str] | None:
    """Return the first name that may not be set, and the reason; None if all may be set."""
    for name, value in env.items():
        if (name, value) == HARMLESS:
            continue
        if not VARIABLE_NAME.fullmatch(name):
            return name, "that is not the name of a variable"
        if not name.startswith(ENV_PREFIXES):
            return name, f"only variables that begin with {', '.join(ENV_PREFIXES)} are allowed"
        if ENV_WORDS.intersection(re.split(r"[_\d]+", name.upper())):
            return name, "it can load code, access files or devices, or switch off a safety check"
        if POINTER.search(value):
            return name, f"`{value}` is a path, an address or a Python name"
    for name, setting in args.items():
        if not FLAG_NAME.fullmatch(name):
            return name, "that is not the name of an argument"
        flag = name.partition(".")[0].removeprefix("no-")
        begun = flag not in WHOLE and any(known.startswith(flag) for known in FLAGS)
        if begun or FLAG_PARTS.search(flag):
            return name, "it can load code or files, or it belongs to the deployment"
        for word in setting if isinstance(setting, tuple) else (str(setting),):
            if FLAG.match(word):
                return name, f"`{word}` is an argument of its own"
            if POINTER.search(word):
                return name, f"`{word}` is a path, an address or a Python name"
    return None
