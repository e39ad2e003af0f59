"""Every way a vLLM launch or request is known to fail: one table.

Strings are from vLLM's sources, 0.6.6 to 0.33, and from torch and NCCL. Where two patterns match
one line, the first wins.
"""

from collections.abc import Mapping

from ..outcome import Phase
from .rejections import REJECTIONS
from .signature import CONSEQUENCE, DEATH, GENERIC, Signature, signature, spellings

_LESS = "lower --gpu-memory-utilization by 0.03, so that more is left beside the KV cache"
_SMALLER_WEIGHTS = (
    "make the weights smaller: --quantization fp8, a quantized checkpoint, --cpu-offload-gb, "
    "--tensor-parallel-size"
)
_NO_KV = (
    "raise --gpu-memory-utilization if the device has free memory",
    _SMALLER_WEIGHTS,
    "a shorter --max-model-len does not help: the weights and activations already fill the share",
)
_SILENT = (
    "read the lines above the first of these",
    "if there are none, look at `dmesg`, or oom_kill in the cgroup's memory.events",
    "exit code -7 is a too small /dev/shm: --shm-size or --ipc=host",
)
_NODE = r"Available memory on node \d+ \((?P<free_bytes>[\d.]+)/(?P<total_bytes>[\d.]+) GiB\) "
_KV_NODE = _NODE + r"on kv cache allocation is less than requested memory for kv "

# Stands in no line, and matches none.
NOWHERE, NEVER = "\0", r"(?!)"

# Running out of device memory says nothing about the cure; where it happened does.
OUT_OF_MEMORY_CURES: Mapping[Phase, tuple[str, ...]] = {
    "load": (_SMALLER_WEIGHTS, "--gpu-memory-utilization does not limit the weights"),
    "profile": ("lower --max-num-seqs", "lower --max-num-batched-tokens", _SMALLER_WEIGHTS),
    "kv_cache": (_LESS,),
    "graphs": (_LESS, "capture fewer graphs: a lower --max-num-seqs, or --enforce-eager"),
    "warmup": (_LESS, "lower --max-num-seqs"),
    "serving": (_LESS, "lower --max-num-batched-tokens"),
}

# fmt: off
_MEMORY: tuple[Signature, ...] = (
    # --- the KV cache ----------------------------------------------------------------------------
    signature(
        "kv_cache_too_small", "out_of_memory", "KV cache is needed",
        r"max seq len \((?P<max_model_len>\d+)\), \((?P<kv_needed_bytes>[\d.]+) GiB KV cache is "
        r"needed, "
        r"which is larger than the available KV cache memory \((?P<kv_bytes>-?[\d.]+) GiB\)"
        r"(?:.*?estimated maximum model length is (?P<estimated_max_model_len>\d+)[. ])?",
        "one request of {max_model_len} tokens needs {kv_needed_bytes} of KV cache, "
        "{kv_bytes} is left",
        "shorten --max-model-len to the estimate vLLM printed, less a few percent",
        "raise --gpu-memory-utilization if the device has free memory",
        "halve the KV cache: --kv-cache-dtype fp8",
        phase="kv_cache", versions="0.8.5 to 0.33",
    ),
    signature(
        "kv_cache_too_small", "out_of_memory", "can be stored in KV cache",
        r"max seq len \((?P<max_model_len>\d+)\) is larger than the maximum number of tokens "
        r"that can "
        r"be stored in KV cache \((?P<estimated_max_model_len>\d+)\)",
        "one request of {max_model_len} tokens does not fit the KV cache of "
        "{estimated_max_model_len} tokens",
        "shorten --max-model-len to the second number",
        "raise --gpu-memory-utilization if the device has free memory, VLLM_CPU_KVCACHE_SPACE on a "
        "CPU",
        phase="kv_cache", versions="V0: 0.6.6, 0.8.5",
    ),
    signature(
        "no_kv_cache_memory", "out_of_memory", "No available memory for the cache blocks", "",
        "the weights and activations leave no memory for the KV cache", *_NO_KV, phase="kv_cache",
    ),
    signature(
        "auto_fit_impossible", "out_of_memory", "Cannot auto-fit max_model_len",
        r"Cannot auto-fit max_model_len: not enough GPU memory available",
        "not even one token of KV cache fits beside the weights and activations", *_NO_KV,
        phase="kv_cache", versions="0.14 to 0.33",
    ),
    signature(
        "too_many_sequences", "out_of_memory", "exceeds available Mamba cache",
        r"max_num_seqs \(\d+\) exceeds available Mamba cache blocks \((?P<max_num_seqs>\d+)\)",
        "the memory holds the state of at most {max_num_seqs} sequences",
        "lower --max-num-seqs to that number", phase="graphs", versions="0.20 to 0.33",
    ),

    # --- the CPU's memory ------------------------------------------------------------------------
    signature(
        "model_exceeds_reservation", "out_of_memory", "requested memory for kv (-",
        _KV_NODE + r"\((?P<kv_bytes>-[\d.]+)/(?P<requested_bytes>[\d.]+) GiB\)",
        "the model alone uses more than the {requested_bytes} reserved for the worker",
        "raise --gpu-memory-utilization, or set --kv-cache-memory-bytes or VLLM_CPU_KVCACHE_SPACE; "
        "vLLM's hint to reduce other processes' memory is wrong when the number is negative",
        phase="kv_cache", where="host", versions="CPU: 0.20 to 0.32",
    ),
    signature(
        "model_exceeds_reservation", "out_of_memory", "The worker already uses",
        r"The worker already uses [\d.]+ GiB",
        "the model alone uses more than what is reserved for the worker",
        "raise --gpu-memory-utilization above the number vLLM printed",
        phase="kv_cache", where="host", versions="CPU: 0.33",
    ),
    signature(
        "cpu_memory_busy", "environment", "requested memory for kv (",
        _KV_NODE + r"\((?P<wanted_bytes>[\d.]+)/(?P<requested_bytes>[\d.]+) GiB\)",
        "other processes hold the host memory: {free_bytes} of {total_bytes} is free, the KV cache "
        "wants {wanted_bytes}",
        "lower --gpu-memory-utilization (it is the share of host memory on a CPU)",
        "stop what else uses memory", phase="kv_cache", versions="CPU: 0.20 to 0.32",
    ),
    signature(
        "cpu_kv_cache_too_large", "out_of_memory", "requested memory for kv (",
        _KV_NODE.replace("free_bytes", "left_bytes") + r"\((?P<wanted_bytes>[\d.]+) GiB\)",
        "the KV cache asked for, {wanted_bytes}, is more than the {left_bytes} free",
        "lower --kv-cache-memory-bytes or VLLM_CPU_KVCACHE_SPACE",
        phase="kv_cache", where="host", versions="CPU: 0.20 to 0.33",
    ),
    signature(
        "cpu_memory_busy", "environment", "less than desired CPU memory utilization",
        _NODE + r"on startup is less than desired CPU memory utilization "
        r"\((?P<utilization>[\d.]+), (?P<requested_bytes>[\d.]+) GiB\)",
        "{free_bytes} of {total_bytes} host memory is free, {requested_bytes} was asked for",
        "lower --gpu-memory-utilization (it is the share of host memory on a CPU)",
        "stop what else uses memory", versions="CPU: 0.20 to 0.33",
    ),
    # --- somebody else's memory ------------------------------------------------------------------
    signature(
        "device_busy", "environment", "Free memory on device",
        r"Free memory on device (?:\S+ )?\((?P<free_bytes>[\d.]+)/(?P<total_bytes>[\d.]+) GiB\) on "
        r"startup is less than (?:desired GPU memory utilization|the engine's budget).*?"
        r"\((?P<utilization>[\d.]+), (?P<requested_bytes>[\d.]+) GiB\)",
        "{free_bytes} of {total_bytes} device memory is free, {requested_bytes} was asked for",
        "wait until the process that holds the memory is gone, or stop it",
        "lower --gpu-memory-utilization to at most free / total",
        versions="0.9.2 to 0.33",
    ),
    signature(
        "memory_released_during_profiling", "environment", "Error in memory profiling",
        r"Error in memory profiling\.(?: Initial free memory [\d.]+ GiB, current free memory "
        r"(?P<free_bytes>[\d.]+) GiB)?",
        "another process gave memory back while vLLM measured it",
        "start it again unchanged", phase="profile", versions="0.6.6 to 0.33",
    ),

    # --- device memory ---------------------------------------------------------------------------
    signature(
        "weights_out_of_memory", "out_of_memory", "Failed to load model - not enough GPU memory",
        r"Failed to load model - not enough GPU memory"
        r"(?:.*?Tried to allocate (?P<tried_bytes>[\d.]+ [KMG]iB))?"
        r"(?:.*?of which (?P<left_bytes>[\d.]+ [KMG]iB) is free)?",
        "the weights do not fit the device",
        _SMALLER_WEIGHTS,
        "--gpu-memory-utilization does not limit the weights, whatever vLLM's hint says",
        phase="load", versions="V1 runner: 0.14 to 0.33",
    ),
    signature(
        "sampler_out_of_memory", "out_of_memory", "CUDA out of memory occurred when warming up",
        r"CUDA out of memory occurred when warming up (?:sampler|pooler).*? with \d+ dummy "
        r"requests",
        "the sampler's rehearsal with as many requests as --max-num-seqs allows ran out of memory",
        "lower --max-num-seqs", "lower --max-num-batched-tokens",
        "lower --gpu-memory-utilization a little if the KV cache was already allocated",
        versions="V1 runner: 0.8.5 to 0.33",
    ),
    signature(
        "cuda_out_of_memory", "out_of_memory", "out of memory",
        r"Error: (?:(?:CUDA|HIP|XPU) out of memory\.|"
        r"(?:CUDA [Ee]rror|CUDART error|Triton Error \[CUDA\]): out of memory)"
        r"(?: Tried to allocate (?P<tried_bytes>[\d.]+ [KMG]iB))?"
        r"(?:.*?of which (?P<left_bytes>[\d.]+ [KMG]iB) is free)?|"
        r"(?:NCCL|Cuda failure|Failed: Cuda error).{0,400}?'out of memory'",
        "the device ran out of memory", strength=GENERIC, serving=True,
    ),
    # The allocator of sleep mode prints it; torch then frees what it cached and tries again.
    signature(
        "cuda_out_of_memory", "out_of_memory", "CUDA Error: out of memory at ", "",
        "the device ran out of memory", strength=CONSEQUENCE, fatal=False,
    ),
    signature(
        "cuda_out_of_memory", "out_of_memory", "CUBLAS_STATUS_ALLOC_FAILED",
        r"Error: .{0,400}?CUBLAS_STATUS_ALLOC_FAILED",
        "cuBLAS found no device memory for its workspace",
        strength=GENERIC, serving=True,
    ),
    signature(
        "host_out_of_memory", "out_of_memory", "allocate memory",
        r"Error: .{0,100}?DefaultCPUAllocator: can't allocate memory: you tried to allocate "
        r"(?P<tried_bytes>\d+ bytes)|Error: .{0,400}?Cannot allocate memory",
        "the host ran out of memory",
        "use less host memory: a smaller KV cache on a CPU, less --cpu-offload-gb",
        where="host", strength=GENERIC, serving=True,
    ),
)

_SURROUNDINGS: tuple[Signature, ...] = (
    # --- the surroundings ------------------------------------------------------------------------
    signature(
        "port_in_use", "environment", "ddress already in use",
        r"Error: \[Errno 98\] .*[Aa]ddress already in use|EADDRINUSE|"
        r"\[Errno 98\] error while attempting to bind",
        "another process listens on that port", "take another port", strength=GENERIC,
    ),
    signature(
        "shared_memory_too_small", "environment", "Insufficient space in",
        r"(?P<detail>Insufficient space in \S+ for [^:]+: \d+ MiB required, \d+ MiB free)",
        "{detail}",
        "give the container more shared memory: --shm-size or --ipc=host", versions="0.27 to 0.33",
    ),
    signature(
        "no_kernel_image", "environment", "no kernel image is available for execution",
        r"rror.{0,400}?no kernel image is available for execution on the device",
        "this build of vLLM, or of its torch, has no code for this GPU",
        "install a build for this GPU; vLLM's own wheels hold compute capability 7.5 and newer "
        "from 0.26",
        strength=GENERIC, serving=True,
    ),
    *spellings(
        "nccl", "environment", {
            "NCCL ": r"Error: NCCL [Ee]rror|NCCL error in: ",
            "torch.distributed.Dist": r"Dist\w*Error: ",
        }, "the GPUs could not talk to each other",
        "start it again unchanged", "add --disable-custom-all-reduce",
        "give the container more shared memory: --shm-size or --ipc=host",
        strength=CONSEQUENCE, fatal=False, serving=True,
    ),

    signature(
        "no_vllm", "environment", "No module named 'vllm'", "",
        "this Python has no vLLM",
        "install vLLM for it, or name the Python that has it", phase="spawn",
    ),

    # --- deaths without a word -------------------------------------------------------------------
    *spellings(
        "engine_died", "crashed", {
            "engine core exited unexpectedly": "",
            "EngineDeadError": r"EngineDeadError: ",
        }, "the engine process died", *_SILENT, strength=DEATH, serving=True,
    ),
    # Said before the cause is, or by those who outlive it.
    *spellings(
        "engine_died", "crashed", {
            "died unexpectedly":
                r"[Pp]roc(?:ess)? \S+ died unexpectedly(?: \(exit code: (?P<exit>-?\d+)\))?",
            "Failed core proc(s)": r"Failed core proc\(s\): \{(?:\}|'\w+': (?P<exit>-\d+))",
            "WorkerProc initialization failed": "",
            "encountered a fatal error": r"EngineCore encountered a fatal error",
            "timed out": r"TimeoutError: RPC call to \w+ timed out",
        }, "the engine process died", *_SILENT, strength=DEATH, serving=True, fatal=False,
    ),

    # Named by exit code or cgroup, not by a line of the log.
    signature(
        "killed_by_host", "out_of_memory", NOWHERE, NEVER, "the host's OOM killer ended the engine",
        "use less host memory: a smaller KV cache on a CPU, less --cpu-offload-gb, a smaller model",
        "raise the container's memory limit", where="host", strength=DEATH,
    ),
    signature(
        "killed", "crashed", NOWHERE, NEVER, "killed by signal 9, perhaps the host's OOM killer",
        "look at `dmesg`, or oom_kill in the cgroup's memory.events", strength=DEATH,
    ),
)
# fmt: on

SIGNATURES: tuple[Signature, ...] = (*_MEMORY, *_SURROUNDINGS, *REJECTIONS)
