"""Every way a vLLM launch or request is known to fail: one table.

Strings are from vLLM's own sources, 0.6.6 to 0.33, or from what it calls (torch, NCCL,
transformers, huggingface_hub, argparse). Where two patterns match one line, the first wins.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from .outcome import Phase

Kind = Literal["out_of_memory", "rejected", "environment", "crashed"]

# How much a signature says about the cause: a stronger one replaces a weaker one seen before.
ROOT, GENERIC, CONSEQUENCE, DEATH = 4, 3, 2, 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """Name one failure and how to know it.

    `needle` is in every line that `pattern` matches. Groups named like a field of `Readings` are
    numbers (bytes in GiB unless a unit is captured); `argument` is a flag, `detail` goes to the
    reason. `phase` None means the last milestone. `fatal`: a start cannot survive this line.
    `serving`: it can also happen after the server was ready. `versions` is where vLLM prints it.
    """

    name: str
    kind: Kind
    needle: str
    pattern: re.Pattern[str]
    reason: str
    cures: tuple[str, ...]
    phase: Phase | None = None
    strength: int = ROOT
    fatal: bool = True
    serving: bool = False
    where: Literal["gpu", "host"] = "gpu"
    argument: str | None = None
    versions: str = "0.6.6 to 0.33"

    def cure_in(self, phase: Phase) -> tuple[str, ...]:
        """Return the cures; where the name says nothing about them, the phase does."""
        return OUT_OF_MEMORY_CURES.get(phase, self.cures) if not self.cures else self.cures


_LESS = "lower --gpu-memory-utilization by 0.03, so that more is left beside the KV cache"
_SMALLER_WEIGHTS = (
    "make the weights smaller: --quantization fp8, a quantized checkpoint, --cpu-offload-gb, "
    "--tensor-parallel-size"
)
OUT_OF_MEMORY_CURES: Mapping[Phase, tuple[str, ...]] = {
    "load": (_SMALLER_WEIGHTS, "--gpu-memory-utilization does not limit the weights"),
    "profile": ("lower --max-num-seqs", "lower --max-num-batched-tokens", _SMALLER_WEIGHTS),
    "kv_cache": (_LESS,),
    "graphs": (_LESS, "capture fewer graphs: --max-num-seqs lower, or --enforce-eager"),
    "warmup": (_LESS, "lower --max-num-seqs"),
    "serving": (_LESS, "lower --max-num-batched-tokens"),
}

_rows: list[Signature] = []


def _add(
    name: str, kind: Kind, needle: str, pattern: str, reason: str, *cures: str, **more: Any
) -> None:
    compiled = re.compile(pattern or re.escape(needle))
    _rows.append(
        Signature(
            name=name, kind=kind, needle=needle, pattern=compiled, reason=reason, cures=cures, **more
        )
    )


# --- the KV cache -------------------------------------------------------------------------------
_add(
    "kv_cache_too_small", "out_of_memory", "KV cache is needed",
    r"max seq len \((?P<max_model_len>\d+)\), \((?P<kv_needed_bytes>[\d.]+) GiB KV cache is needed, "
    r"which is larger than the available KV cache memory \((?P<kv_bytes>-?[\d.]+) GiB\)"
    r"(?:.*?estimated maximum model length is (?P<estimated_max_model_len>\d+)\b)?",
    "one request of {max_model_len} tokens needs {kv_needed_bytes} of KV cache, "
    "{kv_bytes} is left",
    "shorten --max-model-len to the estimate vLLM printed, less a few percent",
    "raise --gpu-memory-utilization if the device has free memory",
    "halve the KV cache: --kv-cache-dtype fp8",
    phase="kv_cache", versions="0.8.5 to 0.33",
)  # fmt: skip
_add(
    "kv_cache_too_small", "out_of_memory", "can be stored in KV cache",
    r"max seq len \((?P<max_model_len>\d+)\) is larger than the maximum number of tokens that can "
    r"be stored in KV cache \((?P<estimated_max_model_len>\d+)\)",
    "one request of {max_model_len} tokens does not fit the KV cache of "
    "{estimated_max_model_len} tokens",
    "shorten --max-model-len to the second number",
    "raise --gpu-memory-utilization if the device has free memory",
    phase="kv_cache", versions="V0: 0.6.6, 0.8.5",
)  # fmt: skip
_NO_KV = (
    "raise --gpu-memory-utilization if the device has free memory",
    _SMALLER_WEIGHTS,
    "a shorter --max-model-len does not help: the weights and activations already fill the share",
)
_add(
    "no_kv_cache_memory", "out_of_memory", "No available memory for the cache blocks", "",
    "the weights and activations leave no memory for the KV cache", *_NO_KV, phase="kv_cache",
)  # fmt: skip
_add(
    "auto_fit_impossible", "out_of_memory", "Cannot auto-fit max_model_len",
    r"Cannot auto-fit max_model_len: not enough GPU memory available",
    "not even one token of KV cache fits beside the weights and activations", *_NO_KV,
    phase="kv_cache", versions="0.14 to 0.33",
)  # fmt: skip
_add(
    "too_many_sequences", "out_of_memory", "exceeds available Mamba cache",
    r"max_num_seqs \(\d+\) exceeds available Mamba cache blocks \((?P<max_num_seqs>\d+)\)",
    "the memory holds the state of at most {max_num_seqs} sequences",
    "lower --max-num-seqs to that number", phase="graphs", versions="0.20 to 0.33",
)  # fmt: skip

# --- the CPU's memory ---------------------------------------------------------------------------
_NODE = r"Available memory on node \d+ \((?P<free_bytes>[\d.]+)/(?P<total_bytes>[\d.]+) GiB\) "
_KV_NODE = _NODE + r"on kv cache allocation is less than requested memory for kv "
_add(
    "model_exceeds_reservation", "out_of_memory", "requested memory for kv (-",
    _KV_NODE + r"\((?P<kv_bytes>-[\d.]+)/(?P<requested_bytes>[\d.]+) GiB\)",
    "the model alone uses more than the {requested_bytes} reserved for the worker",
    "raise --gpu-memory-utilization, or set --kv-cache-memory-bytes or VLLM_CPU_KVCACHE_SPACE; "
    "vLLM's hint to reduce other processes' memory is wrong when the number is negative",
    phase="kv_cache", where="host", versions="CPU: 0.20 to 0.32",
)  # fmt: skip
_add(
    "model_exceeds_reservation", "out_of_memory", "The worker already uses",
    r"The worker already uses [\d.]+ GiB",
    "the model alone uses more than what is reserved for the worker",
    "raise --gpu-memory-utilization above the number vLLM printed",
    phase="kv_cache", where="host", versions="CPU: 0.33",
)  # fmt: skip
_add(
    "cpu_memory_busy", "environment", "requested memory for kv (",
    _KV_NODE + r"\((?P<wanted_bytes>[\d.]+)/(?P<requested_bytes>[\d.]+) GiB\)",
    "other processes hold the host memory: {free_bytes} of {total_bytes} is free, the KV cache "
    "wants {wanted_bytes}",
    "lower --gpu-memory-utilization (it is the share of host memory on a CPU)",
    "stop what else uses memory", phase="kv_cache", versions="CPU: 0.20 to 0.32",
)  # fmt: skip
_add(
    "cpu_kv_cache_too_large", "out_of_memory", "requested memory for kv (",
    _KV_NODE.replace("free_bytes", "left_bytes") + r"\((?P<wanted_bytes>[\d.]+) GiB\)",
    "the KV cache asked for, {wanted_bytes}, is more than the {left_bytes} free",
    "lower --kv-cache-memory-bytes or VLLM_CPU_KVCACHE_SPACE",
    phase="kv_cache", where="host", versions="CPU: 0.20 to 0.33",
)  # fmt: skip
_add(
    "cpu_memory_busy", "environment", "less than desired CPU memory utilization",
    _NODE + r"on startup is less than desired CPU memory utilization "
    r"\((?P<utilization>[\d.]+), (?P<requested_bytes>[\d.]+) GiB\)",
    "{free_bytes} of {total_bytes} host memory is free, {requested_bytes} was asked for",
    "lower --gpu-memory-utilization (it is the share of host memory on a CPU)",
    "stop what else uses memory", versions="CPU: 0.20 to 0.33",
)  # fmt: skip
_add(
    "cpu_kv_cache_too_small", "out_of_memory", "Try increasing `VLLM_CPU_KVCACHE_SPACE`", "",
    "the KV cache reserved in host memory is too small",
    "raise VLLM_CPU_KVCACHE_SPACE (GiB)", "shorten --max-model-len",
    phase="kv_cache", where="host", versions="CPU: 0.6.6 to 0.8.5",
)  # fmt: skip

# --- somebody else's memory ---------------------------------------------------------------------
_add(
    "device_busy", "environment", "Free memory on device",
    r"Free memory on device (?:\S+ )?\((?P<free_bytes>[\d.]+)/(?P<total_bytes>[\d.]+) GiB\) on "
    r"startup is less than (?:desired GPU memory utilization|the engine's budget).*?"
    r"\((?P<utilization>[\d.]+), (?P<requested_bytes>[\d.]+) GiB\)",
    "{free_bytes} of {total_bytes} device memory is free, {requested_bytes} was asked for",
    "wait until the process that holds the memory is gone, or stop it",
    "lower --gpu-memory-utilization to at most free / total",
    versions="0.9.2 to 0.33",
)  # fmt: skip
_add(
    "external_weights", "out_of_memory", "Externally held weights on device",
    r"Externally held weights on device \S+ \([\d.]+/(?P<total_bytes>[\d.]+) GiB\) exceed the "
    r"desired GPU memory utilization \((?P<utilization>[\d.]+), (?P<requested_bytes>[\d.]+) GiB\)",
    "the weights another process holds exceed the {requested_bytes} asked for",
    "raise --gpu-memory-utilization", phase="load", versions="0.32 to 0.33",
)  # fmt: skip
_add(
    "memory_released_during_profiling", "environment", "Error in memory profiling",
    r"Error in memory profiling\.(?: Initial free memory [\d.]+ GiB, current free memory "
    r"(?P<free_bytes>[\d.]+) GiB)?",
    "another process gave memory back while vLLM measured it",
    "start it again unchanged", phase="profile", versions="0.6.6 to 0.33",
)  # fmt: skip

# --- device memory ------------------------------------------------------------------------------
_add(
    "weights_out_of_memory", "out_of_memory", "Failed to load model - not enough GPU memory",
    r"Failed to load model - not enough GPU memory"
    r"(?:.*?Tried to allocate (?P<tried_bytes>[\d.]+ [KMG]iB))?"
    r"(?:.*?of which (?P<left_bytes>[\d.]+ [KMG]iB) is free)?",
    "the weights do not fit the device",
    _SMALLER_WEIGHTS,
    "--gpu-memory-utilization does not limit the weights, whatever vLLM's hint says",
    phase="load", versions="V1 runner: 0.14 to 0.33",
)  # fmt: skip
_add(
    "sampler_out_of_memory", "out_of_memory", "CUDA out of memory occurred when warming up",
    r"CUDA out of memory occurred when warming up (?:sampler|pooler).*? with \d+ dummy requests",
    "the sampler's rehearsal with as many requests as --max-num-seqs allows ran out of memory",
    "lower --max-num-seqs", "lower --max-num-batched-tokens",
    "lower --gpu-memory-utilization a little if the KV cache was already allocated",
    versions="V1 runner: 0.8.5 to 0.33",
)  # fmt: skip
_add(
    "cuda_out_of_memory", "out_of_memory", "out of memory",
    r"(?:OutOfMemoryError: |Error: )(?:CUDA|HIP|XPU) out of memory\."
    r"(?: Tried to allocate (?P<tried_bytes>[\d.]+ [KMG]iB))?"
    r"(?:.*?of which (?P<left_bytes>[\d.]+ [KMG]iB) is free)?",
    "the device ran out of memory", strength=GENERIC, serving=True,
)  # fmt: skip
_add(
    "cuda_out_of_memory", "out_of_memory", "CUDA error: out of memory",
    r"Error: CUDA error: out of memory",
    "the device ran out of memory", strength=GENERIC, serving=True,
)  # fmt: skip
_add(
    "cuda_out_of_memory", "out_of_memory", "CUBLAS_STATUS_ALLOC_FAILED",
    r"Error: .{0,400}?CUBLAS_STATUS_ALLOC_FAILED",
    "cuBLAS found no device memory for its workspace",
    strength=GENERIC, serving=True,
)  # fmt: skip
_add(
    "cuda_out_of_memory", "out_of_memory", "cudaErrorMemoryAllocation",
    r"Error: .{0,400}?cudaErrorMemoryAllocation|cudaErrorMemoryAllocation: ",
    "the device ran out of memory", strength=GENERIC, serving=True,
)  # fmt: skip
_add(
    "cuda_out_of_memory", "out_of_memory", "'out of memory'",
    r"(?:NCCL|Cuda failure).{0,400}?'out of memory'",
    "NCCL found no device memory for its buffers", strength=GENERIC, serving=True,
)  # fmt: skip
_add(
    "host_out_of_memory", "out_of_memory", "DefaultCPUAllocator: can't allocate memory",
    r"DefaultCPUAllocator: can't allocate memory: you tried to allocate (?P<tried_bytes>\d+ bytes)",
    "the host ran out of memory: {tried_bytes} more was wanted",
    "use less host memory: a smaller KV cache on a CPU, less --cpu-offload-gb",
    where="host", strength=GENERIC, serving=True,
)  # fmt: skip
_add(
    "host_out_of_memory", "out_of_memory", "Cannot allocate memory",
    r"Error: \[Errno 12\] Cannot allocate memory",
    "the host ran out of memory",
    "use less host memory: a smaller KV cache on a CPU, less --cpu-offload-gb",
    where="host", strength=GENERIC, serving=True,
)  # fmt: skip

# --- what vLLM refuses --------------------------------------------------------------------------
_add(
    "unknown_flag", "rejected", "error: unrecognized arguments:",
    r"error: unrecognized arguments: (?P<detail>(?:-*(?P<argument>[\w.-]+))?.*)",
    "this vLLM does not know {detail}", "drop the flag, or use what replaced it in this version",
    phase="config",
)  # fmt: skip
_add(
    "invalid_value", "rejected", "error: argument ",
    r"error: argument (?:-\w+(?: \w+)?[/,] ?)*--(?P<argument>[\w.-]+)[^:]*: (?P<detail>.*)",
    "--{argument}: {detail}", "give a value this vLLM accepts", phase="config",
)  # fmt: skip
_add(
    "context_too_long", "rejected", "greater than the derived max_model_len",
    r"User-specified max_model_len \((?P<max_model_len>\d+)\) is greater than the derived "
    r"max_model_len \(\w+=(?P<estimated_max_model_len>\d+)",
    "the model was made for {estimated_max_model_len} tokens, {max_model_len} was asked for",
    "shorten --max-model-len to the model's own length",
    phase="config", argument="max-model-len",
)  # fmt: skip
_add(
    "tensor_parallel_indivisible", "rejected", "must be divisible by tensor parallel size",
    r"(?P<detail>Total number of attention heads \(\d+\) must be divisible by tensor parallel "
    r"size \(\d+\))", "{detail}",
    "use a --tensor-parallel-size that divides the number of attention heads",
    phase="config", argument="tensor-parallel-size",
)  # fmt: skip
_add(
    "too_few_gpus", "rejected", "larger than the number of available GPUs",
    r"(?P<detail>[Ww]orld size(?: \(\d+\))? is larger than the number of available GPUs"
    r"(?: \(\d+\))?)", "{detail}",
    "use fewer GPUs: --tensor-parallel-size times --pipeline-parallel-size",
    phase="config", argument="tensor-parallel-size", versions="0.11.2 to 0.33",
)  # fmt: skip
_add(
    "too_few_gpus", "rejected", "Unable to load Ray", r"Error: .{0,400}?Unable to load Ray",
    "more GPUs were asked for than this host has, and Ray is not installed",
    "use fewer GPUs: --tensor-parallel-size times --pipeline-parallel-size",
    phase="config", argument="tensor-parallel-size", versions="0.6.6 to 0.11.0",
)  # fmt: skip
_add(
    "pipeline_parallel_unsupported", "rejected", "Pipeline parallelism is not supported for",
    "", "this model cannot be split into stages", "use --tensor-parallel-size instead",
    phase="config", argument="pipeline-parallel-size",
)  # fmt: skip
_add(
    "too_few_batched_tokens", "rejected", "max_num_batched_tokens (",
    r"(?P<detail>max_num_batched_tokens \(\d+\) (?:is smaller than max_model_len|must be greater "
    r"than or equal to max_num_seqs)[^.]*)", "{detail}",
    "raise --max-num-batched-tokens, or lower the other number",
    phase="config", argument="max-num-batched-tokens",
)  # fmt: skip
_QUANT = {"phase": "config", "argument": "quantization"}
_add(
    "unsupported_quantization", "rejected", "not supported for the current GPU",
    r"quantization method (?P<detail>\S+) is not supported for the current GPU. Minimum "
    r"capability: (?P<minimum_capability>\d+)",
    "{detail} needs compute capability {minimum_capability}",
    "use another quantization method", **_QUANT,
)  # fmt: skip
_add(
    "unsupported_quantization", "rejected", "is not supported for quantization method",
    r"(?P<detail>torch\.\w+ is not supported for quantization method \S+?)[. ]", "{detail}",
    "use --dtype half", "use another quantization method", **_QUANT,
)  # fmt: skip
_add(
    "unsupported_quantization", "rejected", "quantization is currently not supported in",
    r"(?P<detail>\S+ quantization is currently not supported in \w+)", "{detail}",
    "use another quantization method", **_QUANT,
)  # fmt: skip
_add(
    "unknown_quantization", "rejected", "Unknown quantization method",
    r"(?P<detail>Unknown quantization method: [^.]+)", "{detail}",
    "use a method of this vLLM; bitsandbytes needs vllm-bnb-plugin from 0.28, GGUF "
    "vllm-gguf-plugin from about 0.26", **_QUANT,
)  # fmt: skip
_add(
    "quantization_mismatch", "rejected", "Quantization method specified in the model config",
    r"(?P<detail>Quantization method specified in the model config \(\S+\) does not match[^.]*)",
    "{detail}", "leave --quantization out: the checkpoint says what it is", **_QUANT,
)  # fmt: skip
_add(
    "quantization_mismatch", "rejected", "Cannot find the config file for",
    r"(?P<detail>Cannot find the config file for \w+)",
    "{detail}: the checkpoint is not quantized that way",
    "leave --quantization out, or use a method that quantizes while loading (fp8)", **_QUANT,
)  # fmt: skip
_add(
    "deprecated_quantization", "rejected", "--allow-deprecated-quantization",
    r"is deprecated and will be removed in future versions of vLLM\. To bypass",
    "this vLLM refuses a deprecated quantization method",
    "add --allow-deprecated-quantization, or use another method",
    versions="0.14 to 0.33", **_QUANT,
)  # fmt: skip
_add(
    "bitsandbytes_unavailable", "rejected", "itsandbytes",
    r"(?P<detail>Please install bitsandbytes\S+|\S+ does not support BitsAndBytes quantization)",
    "{detail}", "install bitsandbytes", "use another quantization method",
    phase="load", argument="quantization", versions="0.6.6 to 0.27",
)  # fmt: skip
_add(
    "unsupported_dtype", "rejected", "Bfloat16 is only supported on GPUs",
    r"Bfloat16 is only supported on GPUs with compute capability of at least "
    r"(?P<minimum_capability>\d+\.\d)",
    "this GPU has no bfloat16", "use --dtype half", argument="dtype",
)  # fmt: skip
_KV_DTYPE = {"argument": "kv-cache-dtype"}
_add(
    "unsupported_kv_cache_dtype", "rejected", "kv_cache_dtype not supported",
    r"No valid attention backend found for .{0,4000}kv_cache_dtype not supported",
    "no attention backend of this device knows that KV cache dtype",
    "leave --kv-cache-dtype out, or try fp8_e5m2 or int8_per_token_head",
    versions="0.11.2 to 0.33", **_KV_DTYPE,
)  # fmt: skip
_add(
    "unsupported_kv_cache_dtype", "rejected", "does not support fp8",
    r"Error: .{0,400}?FlashAttention does not support fp8",
    "FlashAttention has no 8-bit KV cache here", "leave --kv-cache-dtype out", **_KV_DTYPE,
)  # fmt: skip
_add(
    "unsupported_kv_cache_dtype", "rejected", "type fp8e4nv not supported in this architecture",
    "", "this GPU cannot compute fp8_e4m3", "use --kv-cache-dtype fp8_e5m2, or leave it out",
    **_KV_DTYPE,
)  # fmt: skip
_add(
    "no_attention_backend", "rejected", "No valid attention backend found",
    r"(?P<detail>No valid attention backend found for \S+)", "{detail} with these options",
    "read the reasons in the line: drop the option they name", strength=GENERIC,
    versions="0.11.2 to 0.33",
)  # fmt: skip

# --- the model ----------------------------------------------------------------------------------
_MODEL = {"phase": "config", "argument": "model"}
_HUB = {**_MODEL, "fatal": False, "strength": GENERIC}
_add(
    "gated_model", "rejected", "gated repo", r"(?:Cannot access gated repo|GatedRepoError)",
    "the model is gated: this account may not read it",
    "accept the model's terms on its page and give a token with access (HF_TOKEN)",
    **{**_MODEL, "fatal": False},
)  # fmt: skip
for _needle, _pattern in (
    ("Invalid repository ID or local directory", ""),
    ("Repo id must ", r"Error: Repo id must (?:be in the form|use alphanumeric)"),
    ("LocalEntryNotFoundError", r"LocalEntryNotFoundError: "),
    ("RepositoryNotFoundError", r"RepositoryNotFoundError: "),
    ("outgoing traffic has been disabled", r"Error: .{0,400}?outgoing traffic has been disabled"),
    ("couldn't connect to 'https://", r"Error: We couldn't connect to 'https://"),
    ("is not a valid model identifier", r"Error: .{0,400}?is not a (?:local folder and is not a )?valid "
                                        r"model identifier"),
    ("does not appear to have a file named", r"Error: .{0,400}?does not appear to have a file named"),
):  # fmt: skip
    _add(
        "model_not_found", "rejected", _needle, _pattern, "the model was not found",
        "check the path or the name; a missing directory is taken for a Hub name", **_HUB,
    )  # fmt: skip
_add(
    "missing_weights", "rejected", "Cannot find any model weights", "",
    "the model's directory has no weights", "download the checkpoint again",
    phase="load", argument="model",
)  # fmt: skip
_add(
    "missing_weights", "rejected", "No model weights found", r"Error: .{0,400}?No model weights found",
    "the loader found no weights it can read", "use real weights: this loader cannot take dummies",
    phase="load", argument="model",
)  # fmt: skip
_add(
    "remote_code", "rejected", "remote_code",
    r"requires you to execute the configuration file|contains custom code which must be executed|"
    r"(?:pass the argument|set the option|setting|by setting) `trust_remote_code=True`",
    "the model brings its own code", "read that code, then add --trust-remote-code",
    phase="config", argument="trust-remote-code",
)  # fmt: skip
for _needle, _pattern in (
    ("are not supported for now", r"Model architectures \[.{0,400}?\] are not supported for now"),
    ("failed to be inspected", r"Error.{0,400}?failed to be inspected"),
    ("was supported in vLLM until", ""),
    ("is not supported in-tree anymore", ""),
    ("does not recognize this architecture", ""),
):
    _add(
        "unknown_architecture", "rejected", _needle, _pattern,
        "this vLLM, or its transformers, does not know the model's architecture",
        "use a newer vLLM, or a plugin that brings the model", **_MODEL,
    )  # fmt: skip

# --- the surroundings ---------------------------------------------------------------------------
_add(
    "port_in_use", "environment", "ddress already in use",
    r"Error: \[Errno 98\] .*[Aa]ddress already in use|EADDRINUSE|"
    r"\[Errno 98\] error while attempting to bind",
    "another process listens on that port", "take another port", strength=GENERIC,
)  # fmt: skip
_add(
    "port_in_use", "environment", "EADDRINUSE", r"Error: .{0,400}?EADDRINUSE",
    "another process took the port of the workers' rendezvous", "start it again unchanged",
    strength=GENERIC,
)  # fmt: skip
_add(
    "shared_memory_too_small", "environment", "Insufficient space in",
    r"(?P<detail>Insufficient space in \S+ for [^:]+: \d+ MiB required, \d+ MiB free)", "{detail}",
    "give the container more shared memory: --shm-size or --ipc=host", versions="0.27 to 0.33",
)  # fmt: skip
for _needle, _pattern in (
    ("NCCL error", r"Error: NCCL [Ee]rror|NCCL error in: "),
    ("DistBackendError", r"DistBackendError: "),
    ("ncclUnhandledCudaError", ""),
    ("DistNetworkError", r"DistNetworkError: "),
):
    _add(
        "nccl", "environment", _needle, _pattern, "the GPUs could not talk to each other",
        "start it again unchanged", "add --disable-custom-all-reduce",
        "give the container more shared memory: --shm-size or --ipc=host",
        strength=CONSEQUENCE, fatal=False, serving=True,
    )  # fmt: skip

# --- refused, by nobody's name ------------------------------------------------------------------
_add(
    "invalid_value", "rejected", "Value error, ", r"^\W*(?:\(.*\) )?\s*Value error, (?P<detail>.*)",
    "{detail}", "read the reason: vLLM refused this combination",
    phase="config", strength=GENERIC,
)  # fmt: skip
_add(
    "invalid_value", "rejected", "validation error", r"\d+ validation errors? for (?P<detail>\w+)",
    "{detail} refused a value", "read the reason: vLLM refused this combination",
    phase="config", strength=CONSEQUENCE,
)  # fmt: skip

# --- deaths without a word ----------------------------------------------------------------------
for _needle, _pattern in (
    ("died unexpectedly", r"[Pp]roc(?:ess)? \S+ died unexpectedly"
                          r"(?: \(exit code: (?P<exit>-?\d+)\))?"),
    ("Failed core proc(s)", r"Failed core proc\(s\): \{'\w+': (?P<exit>-\d+)"),
    ("engine core exited unexpectedly", ""),
    ("EngineDeadError", r"EngineDeadError: "),
    ("encountered a fatal error", r"EngineCore encountered a fatal error"),
    ("timed out", r"TimeoutError: RPC call to \w+ timed out"),
):  # fmt: skip
    _add(
        "engine_died", "crashed", _needle, _pattern, "the engine process died",
        "read the lines above the first of these", strength=DEATH, fatal=False, serving=True,
    )  # fmt: skip

# Named by exit code or cgroup, not by a line of the log.
_add(
    "killed_by_host", "out_of_memory", "\0", "\0", "the host's OOM killer ended the engine",
    "use less host memory: a smaller KV cache on a CPU, less --cpu-offload-gb, a smaller model",
    "raise the container's memory limit", where="host", strength=DEATH,
)  # fmt: skip
_add(
    "killed", "crashed", "\0", "\0", "killed by signal 9, perhaps the host's OOM killer",
    "look at `dmesg`, or oom_kill in the cgroup's memory.events", strength=DEATH,
)  # fmt: skip

SIGNATURES: tuple[Signature, ...] = tuple(_rows)
