"""What vLLM's flags are called, and which of them change what (vLLM 0.6.6 to 0.33)."""

# vLLM's own short spellings (engine/arg_utils.py and entrypoints/**/cli_args.py, 0.6.6 to 0.33).
SHORT = {
    "-ac": "attention-config",
    "-asc": "api-server-count",
    "-cc": "compilation-config",
    "-dc": "diffusion-config",
    "-dcp": "decode-context-parallel-size",
    "-dp": "data-parallel-size",
    "-dpa": "data-parallel-address",
    "-dpb": "data-parallel-backend",
    "-dpe": "data-parallel-external-lb",
    "-dph": "data-parallel-hybrid-lb",
    "-dpl": "data-parallel-size-local",
    "-dpm": "data-parallel-multi-port-external-lb",
    "-dpn": "data-parallel-rank",
    "-dpp": "data-parallel-rpc-port",
    "-dpr": "data-parallel-start-rank",
    "-ep": "enable-expert-parallel",
    "-n": "nnodes",
    "-O": "optimization-level",
    "-pcp": "prefill-context-parallel-size",
    "-pp": "pipeline-parallel-size",
    "-q": "quantization",
    "-r": "node-rank",
    "-sc": "speculative-config",
    "-tp": "tensor-parallel-size",
}
ALIASES = {"device-memory-utilization": "gpu-memory-utilization"}
# The ways to use several devices: each is a flag, and multiplies their number.
PARALLEL = (
    "tensor-parallel-size",
    "pipeline-parallel-size",
    "data-parallel-size",
    "prefill-context-parallel-size",
)
# What belongs to one deployment: a trial sets it itself, or it has no place in a report.
SERVING = frozenset(
    {
        *("host", "port", "uds", "api-key", "served-model-name", "root-path"),
        *("ssl-keyfile", "ssl-certfile", "ssl-ca-certs", "ssl-cert-reqs", "ssl-ciphers"),
        *("enable-ssl-refresh", "allow-credentials", "allowed-origins", "allowed-methods"),
        "allowed-headers",
    }
)
# What may be added to a proven answer: it changes neither memory nor speed by much
# (FrontendArgs and BaseFrontendArgs, entrypoints/**/cli_args.py, 0.6.6 to 0.33).
DEPLOYMENT = SERVING | {
    *("chat-template", "chat-template-content-format", "default-chat-template-kwargs"),
    *("disable-access-log-for-endpoints", "disable-fastapi-docs", "disable-log-requests"),
    *("disable-uvicorn-access-log", "enable-auto-tool-choice", "enable-force-include-usage"),
    *("enable-log-outputs", "enable-log-requests", "enable-prompt-tokens-details"),
    *("enable-request-id-headers", "enable-server-load-tracking"),
    *("exclude-tools-when-tool-choice-none", "h11-max-header-count"),
    *("h11-max-incomplete-event-size", "log-config-file", "max-log-len", "middleware"),
    *("otlp-traces-endpoint", "reasoning-parser", "response-role"),
    *("return-tokens-as-token-ids", "tool-call-parser", "uvicorn-log-level"),
}
# What gives the KV cache of waiting requests room in the host's memory, the newer way first.
SWAPPING = ("kv-offloading-size", "swap-space")
# What puts weights or KV cache into the host's memory.
OFFLOADING = ("cpu-offload-gb", "swap-space", "kv-offloading-size", "offload-group-size")
# With one of these the model may accept more tokens than its config.json says.
EXTENDING = frozenset({"hf-overrides", "rope-scaling", "rope-theta"})

# Spellings of three fields of --speculative-config (engine/arg_utils.py, 0.26 and 0.32).
SPECULATIVE = {
    "method": "spec-method",
    "model": "spec-model",
    "num_speculative_tokens": "spec-tokens",
}
BESIDE_MODEL = (
    *("enable-lora", "max-loras", "max-lora-rank", "speculative-config"),
    *SPECULATIVE.values(),
)
# What changes the bytes of the weights, ...
CHANGES_WEIGHTS = (
    *("quantization", "quantization-config", "dtype", "tensor-parallel-size", "load-format"),
    *("pipeline-parallel-size", "data-parallel-size", "enable-expert-parallel", "hf-overrides"),
    *("cpu-offload-gb", "cpu-offload-params", "offload-backend", "offload-group-size"),
    *("offload-num-in-group", "offload-prefetch-step", "offload-params", "language-model-only"),
    *("prefill-context-parallel-size", *BESIDE_MODEL),
)
# ... of a step of the engine, beside its size, ...
CHANGES_STEP = (
    *("compilation-config", "optimization-level", "cudagraph-capture-sizes", "dtype"),
    *("max-cudagraph-capture-size", "limit-mm-per-prompt", "mm-processor-kwargs"),
    *("language-model-only", "skip-mm-profiling"),
    *("tensor-parallel-size", "pipeline-parallel-size", "data-parallel-size", *BESIDE_MODEL),
)
# ... and of a sequence in the KV cache, beside the size of a step.
CHANGES_CACHE = (
    *("kv-cache-dtype", "block-size", "disable-hybrid-kv-cache-manager", "dtype"),
    *("tensor-parallel-size", "pipeline-parallel-size"),
    *("decode-context-parallel-size", "prefill-context-parallel-size", "speculative-config"),
    *("spec-method", "spec-model"),
)
STEP_SIZE = ("max-num-seqs", "max-num-batched-tokens", "enforce-eager")
# How many layers each stage of a pipeline has: `24,8` (distributed/utils.py, 0.6.6 to 0.32).
PARTITION = "VLLM_PP_LAYER_PARTITION"
# Variables that change any of them.
VARIABLES = (
    *("VLLM_USE_V2_MODEL_RUNNER", "VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS"),
    PARTITION,
)
