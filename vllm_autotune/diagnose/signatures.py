"""Every way a vLLM launch or request is known to fail: one table.

Strings are from vLLM (0.6.6 to 0.33), torch and NCCL. If two match a line, the first wins.
"""

from collections.abc import Mapping

from ..outcome import FailedOutcome, Phase
from .faults import FAULTS
from .rejections import REJECTIONS
from .signature import CONSEQUENCE, GENERIC, NO_LINE, Signature, signature, spellings
from .surroundings import SURROUNDINGS

_UTILIZATION_DOWN = "lower --gpu-memory-utilization by 0.03, so that more memory stays free"
_UTILIZATION_UP = "raise --gpu-memory-utilization if the device has free memory"
_SEQUENCES_DOWN = "lower --max-num-seqs"
_BATCH_DOWN = "lower --max-num-batched-tokens"
_SMALLER_WEIGHTS = (
    "make the weights on each GPU smaller: --quantization fp8, a quantized checkpoint, "
    "--cpu-offload-gb, --tensor-parallel-size"
)
_NO_KV = (
    _UTILIZATION_UP,
    _SMALLER_WEIGHTS,
    "a lower --max-model-len does not help: weights and activations alone exceed vLLM's share",
)
_LESS_HOST_MEMORY = "use less host memory: a smaller KV cache on a CPU, less --cpu-offload-gb"
_AGAIN = "start vLLM again with the same configuration"
_NODE = r"Available memory on node \d+ \((?P<free_bytes>[\d.]+)/(?P<total_bytes>[\d.]+) GiB\) "
_KV_NODE = _NODE + r"on kv cache allocation is less than requested memory for kv "

# Running out of device memory says nothing about the cure; where it happened does.
OUT_OF_MEMORY_CURES: Mapping[Phase, tuple[str, ...]] = {
    "load": (
        _SMALLER_WEIGHTS,
        "--gpu-memory-utilization does not limit the weights, whatever vLLM's hint says",
    ),
    "profile": (
        _SEQUENCES_DOWN,
        _BATCH_DOWN,
        "for a multimodal model, fewer or smaller inputs: --limit-mm-per-prompt, or none of them: "
        "--language-model-only",
        _SMALLER_WEIGHTS,
    ),
    "kv_cache": (_UTILIZATION_DOWN,),
    "graphs": (
        _UTILIZATION_DOWN,
        "capture fewer CUDA graphs: lower --max-num-seqs, or use --enforce-eager",
    ),
    "warmup": (_UTILIZATION_DOWN, _SEQUENCES_DOWN),
    "serving": (_UTILIZATION_DOWN, _BATCH_DOWN),
}

# fmt: off
SIGNATURES: tuple[Signature, ...] = (
    # --- the KV cache ----------------------------------------------------------------------------
    signature("kv_cache_too_small", "out_of_memory", "KV cache is needed",
        r"max seq len \((?P<max_model_len>\d+)\), \((?P<kv_needed_bytes>[\d.]+) GiB KV cache is "
        r"needed, which is larger than the available KV cache memory \((?P<kv_bytes>-?[\d.]+) GiB\)"
        r"(?:.*?estimated maximum model length is (?P<estimated_max_model_len>\d+)[. ])?",
        "one request of {max_model_len} tokens needs {kv_needed_bytes} of KV cache, but only "
        "{kv_bytes} is available",
        "lower --max-model-len to a few percent below the maximum that vLLM printed",
        _UTILIZATION_UP + " (on a CPU also VLLM_CPU_KVCACHE_SPACE)",
        "halve the KV cache: --kv-cache-dtype fp8", phase="kv_cache", versions="0.8.5 to 0.33"),
    signature("kv_cache_too_small", "out_of_memory", "can be stored in KV cache",
        r"max seq len \((?P<max_model_len>\d+)\) is larger than the maximum number of tokens that "
        r"can be stored in KV cache \((?P<estimated_max_model_len>\d+)\)",
        "one request of {max_model_len} tokens does not fit in a KV cache of "
        "{estimated_max_model_len} tokens", phase="kv_cache", versions="V0: 0.6.6, 0.8.5"),
    signature("no_kv_cache_memory", "out_of_memory", "No available memory for the cache blocks", "",
        "the weights and activations leave no memory for the KV cache", *_NO_KV, phase="kv_cache"),
    signature("auto_fit_impossible", "out_of_memory", "Cannot auto-fit max_model_len",
        r"Cannot auto-fit max_model_len: not enough GPU memory available",
        "the weights and activations leave less memory than one token of KV cache needs",
        *_NO_KV, phase="kv_cache", versions="0.14 to 0.33"),
    signature("too_many_sequences", "out_of_memory", "exceeds available Mamba cache",
        r"max_num_seqs \(\d+\) exceeds available Mamba cache blocks \((?P<max_num_seqs>\d+)\)",
        "the Mamba cache has room for only {max_num_seqs} sequences",
        "lower --max-num-seqs to that number", phase="graphs", versions="0.20 to 0.33"),

    # --- the CPU's memory ------------------------------------------------------------------------
    signature("model_exceeds_reservation", "out_of_memory", "requested memory for kv (-",
        _KV_NODE + r"\((?P<kv_bytes>-[\d.]+)/(?P<requested_bytes>[\d.]+) GiB\)",
        "the model alone uses more than the {requested_bytes} reserved for the worker",
        "raise --gpu-memory-utilization (above the number vLLM printed, if any), or set "
        "--kv-cache-memory-bytes or VLLM_CPU_KVCACHE_SPACE; if vLLM printed a negative number, its "
        "hint about other processes is wrong",
        phase="kv_cache", where="host", versions="CPU: 0.20 to 0.32"),
    signature("model_exceeds_reservation", "out_of_memory", "The worker already uses",
        r"The worker already uses [\d.]+ GiB",
        "the model alone uses more memory than is reserved for the worker",
        phase="kv_cache", where="host", versions="CPU: 0.33"),
    signature("cpu_memory_busy", "environment", "requested memory for kv (",
        _KV_NODE + r"\((?P<wanted_bytes>[\d.]+)/(?P<requested_bytes>[\d.]+) GiB\)",
        "other processes use the host memory: {free_bytes} of {total_bytes} is free, the KV cache "
        "needs {wanted_bytes}",
        "lower --gpu-memory-utilization (on a CPU it is the share of host memory)",
        "stop other processes that use memory", phase="kv_cache", versions="CPU: 0.20 to 0.32"),
    signature("cpu_kv_cache_too_large", "out_of_memory", "requested memory for kv (",
        _KV_NODE.replace("free_bytes", "left_bytes") + r"\((?P<wanted_bytes>[\d.]+) GiB\)",
        "the KV cache was set to {wanted_bytes}, but only {left_bytes} is free",
        "lower --kv-cache-memory-bytes or VLLM_CPU_KVCACHE_SPACE",
        phase="kv_cache", where="host", versions="CPU: 0.20 to 0.33"),
    signature("cpu_memory_busy", "environment", "less than desired CPU memory utilization",
        _NODE + r"on startup is less than desired CPU memory utilization "
        r"\((?P<utilization>[\d.]+), (?P<requested_bytes>[\d.]+) GiB\)",
        "only {free_bytes} of {total_bytes} host memory is free, but vLLM was told to use "
        "{requested_bytes}", versions="CPU: 0.20 to 0.33"),

    # --- memory that other processes use ---------------------------------------------------------
    signature("device_busy", "environment", "Free memory on device",
        r"Free memory on device (?:\S+ )?\((?P<free_bytes>[\d.]+)/(?P<total_bytes>[\d.]+) GiB\) on "
        r"startup is less than (?:desired GPU memory utilization|the engine's budget).*?"
        r"\((?P<utilization>[\d.]+), (?P<requested_bytes>[\d.]+) GiB\)",
        "only {free_bytes} of {total_bytes} device memory is free, but vLLM was told to use "
        "{requested_bytes}; --gpu-memory-utilization {share} or less would start",
        "wait until the process that uses the memory ends, or stop it",
        "lower --gpu-memory-utilization to at most free / total", usual="load",
        versions="0.9.2 to 0.33"),
    signature("memory_released_during_profiling", "environment", "Error in memory profiling",
        r"Error in memory profiling\.(?: Initial free memory [\d.]+ GiB, current free memory "
        r"(?P<free_bytes>[\d.]+) GiB)?",
        "another process freed device memory while vLLM was measuring it", _AGAIN, phase="profile"),

    # --- device memory ---------------------------------------------------------------------------
    signature(
        "weights_out_of_memory", "out_of_memory", "Failed to load model - not enough GPU memory",
        r"Failed to load model - not enough GPU memory"
        r"(?:.*?Tried to allocate (?P<tried_bytes>[\d.]+ [KMG]iB))?"
        r"(?:.*?of which (?P<left_bytes>[\d.]+ [KMG]iB) is free)?",
        "the weights do not fit in the device's memory", *OUT_OF_MEMORY_CURES["load"],
        phase="load", versions="V1 runner: 0.14 to 0.33"),
    signature(
        "sampler_out_of_memory", "out_of_memory", "CUDA out of memory occurred when warming up",
        r"CUDA out of memory occurred when warming up (?:sampler|pooler).*? with \d+ dummy "
        r"requests",
        "the device ran out of memory while vLLM warmed up the sampler with --max-num-seqs "
        "requests", _SEQUENCES_DOWN, _BATCH_DOWN,
        "lower --gpu-memory-utilization a little if the KV cache was already allocated",
        usual="warmup", versions="V1 runner: 0.8.5 to 0.33"),
    signature("cuda_out_of_memory", "out_of_memory", "out of memory",
        r"(?:\w: |Error\(['\"]|Worker failed with error ')"
        r"(?:(?:CUDA|HIP|XPU|NPU|MUSA|MLU) out of memory|"
        r"(?:(?:CUDA|HIP|XPU|NPU) [Ee]rror|CUDART error|Triton Error \[\w+\]): out of memory)\.?"
        r"(?: Tried to allocate (?P<tried_bytes>[\d.]+ [KMG]iB))?"
        r"(?:.*?(?:of which|;) (?P<left_bytes>[\d.]+ [KMG]iB) (?:is )?free)?|"
        r"(?:NCCL|Cuda failure|Failed: Cuda error).{0,400}?'out of memory'",
        "the device ran out of memory", strength=GENERIC, usual="profile", serving=True),
    *spellings("cuda_out_of_memory", "out_of_memory", {
            "nrt_tensor_allocate": r"(?P<detail>nrt_tensor_allocate status=4)",
            "Failed to alloc DEVICE": r"(?P<detail>Failed to alloc DEVICE memory)",
            "RESOURCE_EXHAUSTED": r"(?P<detail>RESOURCE_EXHAUSTED[^\n]{0,80}?"
                r"(?:(?:allocate|reserve) (?P<tried_bytes>[\d.]+[KMG])|\.|$))",
            "memory in memory space": r"(?P<detail>Ran out of memory in memory space \w+)",
            "OUT_OF_DEVICE_MEMORY": r"(?P<detail>\w*OUT_OF_DEVICE_MEMORY)",
            "OUT_OF_RESOURCES": r"(?P<detail>(?:UR_RESULT|PI)_ERROR_OUT_OF_RESOURCES)",
            "OutOfMemory": r"(?P<detail>hipErrorOutOfMemory)",
            "MemoryAllocation": r"(?P<detail>cudaErrorMemoryAllocation)",
            "evice memory allocation failed": r"(?P<detail>[Dd]evice memory allocation failed)",
            "allocate device memory": r"(?P<detail>[Ff]ailed to allocate device memory)",
        }, "the device ran out of memory: {detail}", strength=GENERIC, usual="profile",
        serving=True),
    # As the one above, where the traceback is about them (trace.py).
    signature("images_out_of_memory", "out_of_memory", *NO_LINE,
        "the device ran out of memory over images, videos or sounds",
        "allow fewer of them: --limit-mm-per-prompt '{\"image\": 1, \"video\": 0}'",
        "make images smaller: --mm-processor-kwargs (for Qwen-VL '{\"max_pixels\": 1003520}')",
        "serve text alone: --language-model-only", _BATCH_DOWN, _SMALLER_WEIGHTS,
        strength=GENERIC, usual="profile", serving=True),
    # The allocator of sleep mode prints it; torch then frees what it cached and tries again.
    signature("cuda_out_of_memory", "out_of_memory", "CUDA Error: out of memory at ", "",
        "the device ran out of memory", strength=CONSEQUENCE, fatal=False),
    signature("cuda_out_of_memory", "out_of_memory", "CUBLAS_STATUS_ALLOC_FAILED",
        r"Error: .{0,400}?CUBLAS_STATUS_ALLOC_FAILED",
        "cuBLAS could not allocate its workspace in device memory", strength=GENERIC, serving=True),
    signature("host_out_of_memory", "out_of_memory", "allocate memory",
        r"Error: .{0,100}?DefaultCPUAllocator: can't allocate memory: you tried to allocate "
        r"(?P<tried_bytes>\d+ bytes)|Error: .{0,400}?Cannot allocate memory",
        "the host ran out of memory", _LESS_HOST_MEMORY,
        where="host", strength=GENERIC, serving=True),

    *SURROUNDINGS,
    *FAULTS,
    *REJECTIONS,
)
# fmt: on

# Causes for which another launch of the same configuration is of no use, and those of a wait.
LASTING = frozenset(known.name for known in SIGNATURES if known.lasting)
HANGS = frozenset(known.name for known in SIGNATURES if known.kind == "hung")

# How much a cause explains, by its name.
STRENGTH: Mapping[str, int] = {
    name: max(known.strength for known in SIGNATURES if known.name == name)
    for name in {known.name for known in SIGNATURES}
}

# Where several signatures have one name, the first that has the cures.
BY_NAME: Mapping[str, Signature] = {
    known.name: known
    for cured in (False, True)
    for known in reversed(SIGNATURES)
    if bool(known.cures) is cured
}

# What a signature means where the traceback above it is about images, videos or sounds.
OF_MEDIA: Mapping[str, Signature] = {"cuda_out_of_memory": BY_NAME["images_out_of_memory"]}


def cures(outcome: FailedOutcome) -> tuple[str, ...]:
    """Return what helps against this failure, best first, in words for a person."""
    known = BY_NAME.get(outcome.cause)
    if known is None:
        return ()
    if known.kind == "out_of_memory" and not known.cures:
        return OUT_OF_MEMORY_CURES.get(outcome.phase, OUT_OF_MEMORY_CURES["profile"])
    return known.cures
