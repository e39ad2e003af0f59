"""Lines that vLLM and what it runs on can print, of which no recorded log has one."""

from typing import Any

GIB = 2**30

# At least one line for each signature that no real log of ours shows; the words are vLLM's (or
# torch's, NCCL's, the Hub's), the numbers are made up.
FROM_SOURCE: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("ValueError: To serve at least one request with the models's max seq len (32768), (1.75 GiB "
     "KV cache is needed, which is larger than the available KV cache memory (1.14 GiB). Based on "
     "the available memory,  Try increasing `gpu_memory_utilization` or decreasing",
     "kv_cache_too_small",
     {"phase": "kv_cache", "limit": None, "shortfall_bytes": round(0.61 * GIB)}),
    ("ValueError: The model's max seq len (32768) is larger than the maximum number of tokens "
     "that can be stored in KV cache (20112). Try increasing `gpu_memory_utilization`",
     "kv_cache_too_small", {"phase": "kv_cache", "limit": 20112}),
    ("ValueError: max_num_seqs (1024) exceeds available Mamba cache blocks (311). Each decode",
     "too_many_sequences", {"phase": "graphs"}),
    ("ValueError: Available memory on node 0 (6.5/8.21 GiB) on kv cache allocation is less than "
     "requested memory for kv (7.0/7.5 GiB). Reduce CPU memory used by other processes.",
     "cpu_memory_busy", {"phase": "kv_cache"}),
    ("ValueError: The worker already uses 1.2 GiB of memory; increase --gpu-memory-utilization to "
     "more than 0.17", "model_exceeds_reservation", {"where": "host"}),
    ("ValueError: No available memory for the cache blocks. Try increasing "
     "`VLLM_CPU_KVCACHE_SPACE` when initializing the engine.", "no_kv_cache_memory", {}),
    ("ValueError: Free memory on device (20.1/23.65 GiB) on startup is less than desired GPU "
     "memory utilization (0.9, 21.28 GiB). Decrease GPU memory",
     "device_busy", {"kind": "environment"}),
    ("AssertionError: Error in memory profiling. Initial free memory 60.5 GiB, current free "
     "memory 70.25 GiB. This happens when other processes sharing the same container release",
     "memory_released_during_profiling", {"kind": "environment"}),
    ("ERROR 11-20 09:50:12 [gpu_model_runner.py:5148] Failed to load model - not enough GPU "
     "memory. Try lowering --gpu-memory-utilization to free memory for weights (original error: "
     "CUDA out of memory. Tried to allocate 1.50 GiB. GPU 0 has a total capacity of 23.65 GiB of "
     "which 1.00 GiB is free.)",
     "weights_out_of_memory", {"phase": "load", "shortfall_bytes": GIB // 2}),
    ("RuntimeError: CUDA out of memory occurred when warming up sampler with 1024 dummy requests. "
     "Please try lowering `max_num_seqs`", "sampler_out_of_memory", {}),
    ("torch.AcceleratorError: CUDA error: out of memory", "cuda_out_of_memory", {}),
    ("RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
     "cuda_out_of_memory", {}),
    ("RuntimeError: NCCL Error 1: unhandled cuda error; Cuda failure 2 'out of memory'",
     "cuda_out_of_memory", {}),
    ("host:35:35 [0] include/alloc.h:48 NCCL WARN Cuda failure 2 'out of memory'",
     "cuda_out_of_memory", {}),
    ("RuntimeError: [enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't "
     "allocate memory: you tried to allocate 1073741824 bytes. Error code 12",
     "host_out_of_memory", {"where": "host"}),
    ("OSError: [Errno 12] Cannot allocate memory", "host_out_of_memory", {"where": "host"}),
    ("  Value error, The quantization method awq is not supported for the current GPU. Minimum "
     "capability: 75. Current capability: 70. [type=value_error]",
     "unsupported_quantization", {"argument": "quantization"}),
    ("  Value error, torch.bfloat16 is not supported for quantization method gptq. Supported "
     "dtypes: [torch.float16]", "unsupported_quantization", {}),
    ("ValueError: Bfloat16 is only supported on GPUs with compute capability of at least 8.0. "
     "Your Tesla T4 GPU has compute capability 7.5.", "unsupported_dtype", {"argument": "dtype"}),
    ("ValueError: No valid attention backend found for cuda with "
     "AttentionSelectorConfig(head_size=128). Reasons: {FLASH_ATTN: [kv_cache_dtype not "
     "supported]}.", "unsupported_kv_cache_dtype", {"argument": "kv-cache-dtype"}),
    ("ValueError: No valid attention backend found for cuda with "
     "AttentionSelectorConfig(head_size=17). Reasons: {FLASH_ATTN: [head_size not supported]}.",
     "no_attention_backend", {}),
    ('ValueError("type fp8e4nv not supported in this architecture. The supported fp8 dtypes are")',
     "unsupported_kv_cache_dtype", {}),
    ("NotImplementedError: FlashAttention does not support fp8 kv-cache on this device.",
     "unsupported_kv_cache_dtype", {"argument": "kv-cache-dtype"}),
    ("AttributeError: '_OpNamespace' '_C' object has no attribute 'static_scaled_fp8_quant'",
     "unsupported_quantization", {"phase": "load"}),
    ("  Value error, Pipeline parallelism is not supported for this model. Supported models",
     "pipeline_parallel_unsupported", {}),
    ("ImportError: Please install bitsandbytes>=0.46.1 via `pip install bitsandbytes>=0.46.1`",
     "bitsandbytes_unavailable", {}),
    ("ValueError: Unable to load Ray: No module named 'ray'. Ray is required for multi-node "
     "inference", "too_few_gpus", {}),
    ("RuntimeError: NCCL error: unhandled system error", "nccl", {"kind": "environment"}),
    ("torch.distributed.DistBackendError: NCCL error in: /pytorch/torch/csrc", "nccl", {}),
    ("torch.distributed.DistNetworkError: The server socket has failed to listen on any local "
     "network address. port: 45759, useIpv6: false, code: -98, name: EADDRINUSE, message: address "
     "already in use", "port_in_use", {"kind": "environment"}),
    ("OSError: You are trying to access a gated repo.", "gated_model", {}),
    ("huggingface_hub.errors.GatedRepoError: 403 Client Error. Cannot access gated repo for url",
     "gated_model", {}),
    ("huggingface_hub.errors.RepositoryNotFoundError: 404 Client Error.", "model_not_found", {}),
    ("  Value error, Model architectures ['Foo'] failed to be inspected. Please check the logs",
     "unknown_architecture", {}),
    ("RuntimeError: Triton Error [CUDA]: out of memory", "cuda_out_of_memory", {"where": "gpu"}),
    ("RuntimeError: CUDART error: out of memory", "cuda_out_of_memory", {"where": "gpu"}),
    ("CUDA Error: out of memory at /workspace/csrc/cumem_allocator.cpp:139",
     "cuda_out_of_memory", {"where": "gpu"}),
    ("Failed: Cuda error /workspace/csrc/libtorch_stable/custom_all_reduce.cuh:453 'out of memory'",
     "cuda_out_of_memory", {"where": "gpu"}),
    ("ValueError: FP8 KV cache is not supported by the Triton attention backend on Tesla T4 "
     "(compute capability 7.5); native FP8 (fp8e4nv) requires SM89+. Re-run with --kv-cache-dtype "
     "float16.",
     "unsupported_kv_cache_dtype",
     {"kind": "rejected", "phase": "load", "argument": "kv-cache-dtype"}),
    ("ValueError: FP8 KV cache is not supported by the Triton MLA backend on NVIDIA "
     "A100-SXM4-80GB (compute capability 8.0); native FP8 (fp8e4nv) requires SM89+. Re-run with "
     "--kv-cache-dtype bfloat16.", "unsupported_kv_cache_dtype", {"argument": "kv-cache-dtype"}),
    ("ValueError: bfloat16 KV cache is not supported on Tesla T4 (compute capability 7.5); "
     "bfloat16 requires SM80+. Re-run with --kv-cache-dtype float16.",
     "unsupported_kv_cache_dtype", {"argument": "kv-cache-dtype"}),
    ("AssertionError: Triton reshape-and-cache cannot store kv_cache_dtype=fp8 on this device: an "
     "FP8 KV cache needs native fp8e4nv (SM89+). Use --kv-cache-dtype bfloat16 (or float16 on "
     "SM75).", "unsupported_kv_cache_dtype", {"argument": "kv-cache-dtype"}),
    ("AttributeError: Model FooForCausalLM does not support BitsAndBytes quantization yet. No "
     "'packed_modules_mapping' found.", "bitsandbytes_unavailable", {"argument": "quantization"}),
    ("ValueError: Prequant BitsAndBytes models with tensor parallelism is not supported. Please "
     "try with pipeline parallelism.",
     "tensor_parallel_unsupported", {"kind": "rejected", "argument": "tensor-parallel-size"}),
    *((line, "tensor_parallel_indivisible", {
        "kind": "rejected", "phase": "load", "argument": "tensor-parallel-size",
    }) for line in (
        "ValueError: The output_size of gate's and up's weight = 320 is not divisible by weight "
        "quantization block_n = 128.",
        "ValueError: The input_size of down's weight = 320 is not divisible by weight "
        "quantization block_k = 128.",
        "ValueError: Weight input_size_per_partition = 64 is not divisible by weight quantization "
        "block_k = 128.",
        "ValueError: Weight output_partition_size = 320 is not divisible by weight quantization "
        "block_n = 128.",
        "ValueError: Weight output_size_per_partition = 96 is not divisible by  min_thread_n = "
        "64. Consider reducing tensor_parallel_size or running with --quantization gptq.",
        "ValueError: Weight input_size_per_partition=96 for layer 'model.layers.0.mlp.down_proj' "
        "is not divisible by group_size=128. This happens when tensor_parallel_size splits",
    )),
    ("torch.AcceleratorError: CUDA error: no kernel image is available for execution on the device",
     "no_kernel_image", {"kind": "environment", "phase": "load"}),
    ("RuntimeError: Triton Error [CUDA]: no kernel image is available for execution on the device",
     "no_kernel_image", {"kind": "environment"}),
)  # fmt: skip

# The same where only the cause is of interest.
MORE_FROM_SOURCE: tuple[tuple[str, str], ...] = (
    ("jaxlib.xla_extension.XlaRuntimeError: RESOURCE_EXHAUSTED: Error allocating device buffer: "
     "Attempting to allocate 2.00G. That was not possible.", "cuda_out_of_memory"),
    ("RuntimeError: level_zero backend failed with error: 39 "
     "(UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)", "cuda_out_of_memory"),
    ("RuntimeError: Native API failed. Native API returns: 40 (UR_RESULT_ERROR_OUT_OF_RESOURCES)",
     "cuda_out_of_memory"),
    ("RuntimeError: [Rank:0] FATAL ERROR :: MODULE:PT_DEVMEM Device memory allocation failed",
     "cuda_out_of_memory"),
    ("RuntimeError: Failed to allocate device memory", "cuda_out_of_memory"),
    ("torch.OutOfMemoryError: HPU: hipErrorOutOfMemory", "cuda_out_of_memory"),
    ("RuntimeError: CUDA failure: cudaErrorMemoryAllocation", "cuda_out_of_memory"),
    ("RuntimeError: CUDA error: CUDA driver version is insufficient for CUDA runtime version",
     "driver_too_old"),
    ("nvidia-container-cli: requirement error: unsatisfied condition: cuda>=12.9, please update "
     "your driver to a newer version", "driver_too_old"),
    ("RuntimeError: Unexpected error from cudaGetDeviceCount(). Error 803: system has unsupported "
     "display driver / cuda driver combination", "driver_too_old"),
    ("RuntimeError: Unexpected error from cudaGetDeviceCount(). Error 802: system not yet "
     "initialized", "fabric_manager_down"),
    ("RuntimeError: CUDA error: no CUDA-capable device is detected", "no_gpu"),
    ("RuntimeError: Device string must not be empty", "no_gpu"),
    ("RuntimeError: CUDA unknown error - this may be due to an incorrectly set up environment",
     "no_gpu"),
    ('docker: Error response from daemon: could not select device driver "" with capabilities: '
     "[[gpu]].", "no_gpu"),
    ("AssertionError: Torch not compiled with CUDA enabled", "no_gpu"),
    ("torch.AcceleratorError: CUDA error: invalid device ordinal", "device_not_visible"),
    ("ValueError: invalid literal for int() with base 10: 'GPU-00000000-0000'",
     "device_id_not_a_number"),
    ("RuntimeError: nvcc fatal   : Unknown option '-static-global-template-stub=false'",
     "toolkit_too_old"),
    ("RuntimeError: No supported CUDA architectures found for major versions [10].",
     "no_kernel_image"),
    ("RuntimeError: Sparse Attention Indexer CUDA op requires DeepGEMM to be installed.",
     "missing_package"),
    ("RuntimeError: Hermes 2 Pro Tool parser could not locate tool call start/end tokens in the "
     "tokenizer!", "parser_mismatch"),
    ("host-a:1:1 [0] init.cc:426 NCCL WARN Cuda failure 2 'unhandled'", "nccl"),
    ("RuntimeError: FlashAttention only supports Ampere GPUs or newer.", "gpu_too_old"),
    ("RuntimeError: UVA is not available", "pinned_memory_unavailable"),
    ("RuntimeError: Could not find nvcc and default cuda_home='/usr/local/cuda' doesn't exist",
     "no_cuda_toolkit"),
    ("OSError: CUDA_HOME environment variable is not set. Please set it to your CUDA install root.",
     "no_cuda_toolkit"),
    ("RuntimeError: Could not find CUDA installation", "no_cuda_toolkit"),
    ("RuntimeError: nvcc fatal   : Unsupported gpu architecture 'compute_120a'", "toolkit_too_old"),
    ("RuntimeError: Failed to find C compiler. Please specify via CC environment variable",
     "no_compiler"),
    ("torch._inductor.exc.InductorError: InvalidCxxCompiler: No working C++ compiler found",
     "no_compiler"),
    ("gcc: fatal error: error trying to exec 'cc1plus': execvp: No such file or directory",
     "no_compiler"),
    ("RuntimeError: /usr/bin/ld: cannot find -lcuda: No such file or directory", "no_compiler"),
    ("FileNotFoundError: [Errno 2] No such file or directory: 'ninja'", "no_compiler"),
    ("RuntimeError: Ninja is required to load C++ extensions", "no_compiler"),
    ("triton.runtime.errors.OutOfResources: out of resource: shared memory, Required: 131072, "
     "Hardware limit: 101376. Reducing block sizes or `num_stages` may help.", "kernel_too_large"),
    ("ModuleNotFoundError: No module named 'flashinfer'", "flashinfer_missing"),
    ("ValueError: FlashInfer is not installed. Please install it first.", "flashinfer_missing"),
    ("TypeError: 'NoneType' object is not callable (flashinfer.py:117 in _get_prefill_wrapper)",
     "flashinfer_missing"),
    ("ImportError: /opt/vllm/_C.abi3.so: undefined symbol: _ZN3c104cuda9SetDeviceEab",
     "broken_install"),
    ("ModuleNotFoundError: No module named 'vllm._C'", "broken_install"),
    ("AttributeError: '_OpNamespace' '_C' object has no attribute 'rms_norm'", "broken_install"),
    ("ImportError: Please install vllm[audio] for audio support.", "missing_package"),
    ("ImportError: cannot import name 'ALL_ATTENTION_FUNCTIONS' from "
     "'transformers.modeling_utils' (/opt/transformers/modeling_utils.py)", "missing_package"),
    ("ValueError: Couldn't instantiate the backend tokenizer from one of: (1) a file",
     "transformers_mismatch"),
    ("Exception: data did not match any variant of untagged enum ModelWrapper at line 1251003",
     "transformers_mismatch"),
    ("RuntimeError: An attempt has been made to start a new process before the current process has "
     "finished its bootstrapping phase.", "no_main_guard"),
    ("host-a:101:101 [0] misc/shmutils.cc:72 NCCL WARN Error while creating shared memory segment "
     "/dev/shm/nccl-abcdef (size 9637888)", "shared_memory_too_small"),
    ("OSError: [Errno 28] No space left on device: '/dev/shm/psm_0123abcd'",
     "shared_memory_too_small"),
    ("RuntimeError: unable to write to file </torch_101_1_0>: No space left on device (28)",
     "shared_memory_too_small"),
    ("ERROR: Unexpected bus error encountered in worker. This might be caused by insufficient "
     "shared memory (shm).", "shared_memory_too_small"),
    ("OSError: [Errno 28] No space left on device: '/cache/huggingface'", "disk_full"),
    ("RuntimeError: Data processing error: File reconstruction error: IO Error: No space left on "
     "device (os error 28)", "disk_full"),
    ("huggingface_hub.errors.LocalError: Not enough free disk space to download the file. "
     "The expected file size is: 9976.58 MB.", "disk_full"),
    ("OSError: [Errno 122] Disk quota exceeded: '/home/user/.cache'", "disk_full"),
    ("PermissionError: [Errno 13] Permission denied: '/.cache'", "permission_denied"),
    ("OSError: [Errno 30] Read-only file system: '/models/.lock'", "permission_denied"),
    ("RuntimeError: can't start new thread", "process_limit"),
    ("OSError: [Errno 24] Too many open files", "process_limit"),
    ("RuntimeError: OpenBLAS: pthread_create failed for thread 17 of 64", "process_limit"),
    ("ERROR:    [Errno 13] error while attempting to bind on address ('0.0.0.0', 80)",
     "port_forbidden"),
    ("ValueError: Current node has no GPU available. current_node_resource={'CPU': 8.0}",
     "ray_without_gpu"),
    ("ValueError: Cannot provide a placement group of placement_group_specs=[{'GPU': 1.0}] within "
     "1800 seconds.", "ray_lacks_gpus"),
    ("torch.distributed.DistStoreError: Timed out after 601 seconds waiting for clients. 1/2 "
     "clients joined.", "node_missing"),
    ("torch.distributed.DistNetworkError: The client socket has timed out after 600000ms while "
     "trying to connect to (192.0.2.1, 29500).", "node_missing"),
    ("torch.distributed.DistNetworkError: The client socket has failed to connect to any network "
     "address of (node-a, 29500).", "node_missing"),
    ("RuntimeError: Gloo connectFullMesh failed with [../third_party/gloo/pair.cc:144] no error",
     "node_missing"),
    ("requests.exceptions.HTTPError: 429 Client Error: Too Many Requests for url: "
     "https://huggingface.co/api/models/org/model", "hub_refused"),
    ("CUDA Error: device-side assert triggered at /workspace/csrc/x.cu:10", "device_fault"),
    ("RuntimeError: HIP error: an illegal memory access was encountered", "device_fault"),
    ("host-a:1:1 [0] enqueue.cc:1 NCCL WARN Cuda failure 700 'an illegal memory access was "
     "encountered'", "device_fault"),
    ("RuntimeError: Triton Error [CUDA]: an illegal memory access was encountered", "device_fault"),
    ("RuntimeError: CUDA driver error: CUDA_ERROR_ILLEGAL_ADDRESS", "device_fault"),
    ("Memory access fault by GPU node-1 (Agent handle: 0x1) on address 0x7f00. Reason: Unknown.",
     "device_fault"),
    ("Segmentation fault (core dumped)", "segmentation_fault"),
    ("Illegal instruction (core dumped)", "illegal_instruction"),
    ("*** SIGILL received at time=1700000000 on cpu 1 ***", "illegal_instruction"),
    ("Fatal Python error: Bus error", "bus_error"),
    ("*** SIGBUS received at time=1700000000 on cpu 1 ***", "bus_error"),
    ("ray.exceptions.RayChannelTimeoutError: System error: Timed out waiting for object available "
     "to read.", "worker_hung"),
    ("ERROR 01-02 03:04:05 async_llm_engine.py:671] Engine iteration timed out. This should never "
     "happen!", "worker_hung"),
    ("TimeoutError: Timed out waiting for engines to send initial message on input socket.",
     "worker_hung"),
    ("TimeoutError: Timed out waiting for engine core processes to start.", "worker_hung"),
    ("[rank0]:[E102 03:04:05.1 ProcessGroupNCCL.cpp:616] [Rank 0] Watchdog caught collective "
     "operation timeout: WorkNCCL(SeqNum=9, OpType=ALLREDUCE) ran for 600029 milliseconds before "
     "timing out.", "worker_hung"),
    ("ERROR 01-02 03:04:05 client.py:250] RuntimeError('Engine loop has died')", "engine_died"),
    ("vllm.engine.async_llm_engine.AsyncEngineDeadError: Background loop has errored already.",
     "engine_died"),
    ("ERROR 01-02 03:04:05 multiproc_worker_utils.py:120] Worker VllmWorkerProcess pid 101 died, "
     "exit code: 1", "engine_died"),
    ("command terminated with exit code 1", "engine_died"),
    ("command terminated with exit code 137", "killed"),
    ("Aborted (core dumped)", "engine_died"),
    ("Killed", "killed"),
    ("Last State: Terminated, Reason: OOMKilled", "killed"),
    ("ValueError: No FP8 MoE backend supports the deployment configuration.",
     "moe_backend_unsupported"),
    ("ValueError: moe_backend='triton' is not supported for unquantized MoE. Expected one of",
     "moe_backend_unsupported"),
    ("NotImplementedError: Speculative decoding is not yet supported with pipeline parallelism.",
     "unsupported_combination"),
    ("ValueError: Data parallelism is not supported with this backend", "unsupported_combination"),
    ("NotImplementedError: VLLM_USE_V1=1 is not supported by the V1 Engine",
     "unsupported_combination"),
    ("ValueError: LoRA rank 64 is greater than max_lora_rank 16.", "lora_rank_too_large"),
    ("ValueError: Cannot use chat template functions because tokenizer.chat_template is not set "
     "and no template argument was passed!", "chat_template_missing"),
    ("KeyError: 'invalid tool call parser: hermes2 (chose from { hermes,mistral })'",
     "unknown_parser"),
    ("KeyError: 'invalid reasoning parser: qwen9 (chose from { qwen3 })'", "unknown_parser"),
    ("KeyError: \"Tool parser 'hermes2' not found.\"", "unknown_parser"),
    ("TypeError: Error: --enable-auto-tool-choice requires --tool-call-parser", "parser_missing"),
    ('ValueError: "auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to '
     "be set", "parser_missing"),
    ("ValueError: The decoder prompt (length 9000) is longer than the maximum model length of "
     "8192. Make sure that `max_model_len` is no smaller than the number of text tokens plus "
     "multimodal tokens.", "multimodal_too_long"),
    ("RuntimeError: The sequence length used for profiling (32768) is too short to hold the "
     "multi-modal embeddings in the worst case", "multimodal_too_long"),
    ("ValueError: The decoder prompt contains a(n) image item with 9000 embedding tokens, which "
     "exceeds the pre-allocated encoder cache size 8192.", "multimodal_too_long"),
    ("ValueError: Attempted to assign 1 + 2 = 3 multimodal tokens to 4 placeholders",
     "multimodal_mismatch"),
    ("RuntimeError: Expected there to be 1 prompt updates corresponding to 1 image items, but "
     "instead found 0 prompt updates!", "multimodal_mismatch"),
    ("RuntimeError: Expected there to be 1 prompt replacements corresponding to 1 image items, but",
     "multimodal_mismatch"),
    ("RuntimeError: Failed to apply Qwen2VLProcessor on data={'text': 'x'}", "multimodal_mismatch"),
    ("ValueError: Mismatch in `image` token count between text and `input_ids`.",
     "multimodal_mismatch"),
    ("AssertionError at `assert param.size() == loaded_weight.size()` (weight_utils.py:9 in f)",
     "checkpoint_mismatch"),
    ("AssertionError at `assert param_data.shape == loaded_weight.shape` (linear.py:9 in f)",
     "checkpoint_mismatch"),
    ("AssertionError: Attempted to load weight (torch.Size([8, 4])) into parameter (torch.Size([4, "
     "4]))", "checkpoint_mismatch"),
    ("KeyError: 'layers.0.mlp.down_proj.weight_scale'", "checkpoint_mismatch"),
    ("RuntimeError: The size of tensor a (1280) must match the size of tensor b (2560) at "
     "non-singleton dimension 1 (adapters.py:351 in load_weights)", "checkpoint_mismatch"),
    ("RuntimeError: PytorchStreamReader failed reading zip archive: failed finding central "
     "directory", "corrupt_weights"),
    ("_pickle.UnpicklingError: invalid load key, 'v'.", "corrupt_weights"),
    ("safetensors_rust.SafetensorError: Error while deserializing: MetadataIncompleteBuffer",
     "corrupt_weights"),
    ("ValueError: Unrecognized model in org/model. Should have a `model_type` key in its "
     "config.json", "no_model_config"),
    ("OSError: org/model does not appear to have a file named config.json.", "no_model_config"),
    ("huggingface_hub.errors.HfHubHTTPError: 401 Client Error. Invalid credentials in "
     "Authorization header", "gated_model"),
    ("requests.exceptions.ConnectionError: HTTPSConnectionPool(host='huggingface.co', port=443): "
     "Max retries exceeded", "hub_unreachable"),
    ("ConnectionError: [Errno -3] Temporary failure in name resolution", "hub_unreachable"),
)  # fmt: skip

# The same for milestones: the line, the phase that it begins after nothing else, what it says.
MILESTONES_FROM_SOURCE: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("Loading model weights took 16.0698 GB", "profile", {"weights_gib": 16.0698}),
    ("Estimated CUDA graph memory: 0.35 GiB total", "profile", {"graph_gib": 0.35}),
    ("Initial free memory 78.7 GiB, reserved 20.0 GiB memory for KV Cache as specified by "
     "kv_cache_memory_bytes config and skipped memory profiling.", "kv_cache", {"kv_gib": 20.0}),
    ("model weights take 14.27GiB; non_torch_memory takes 0.15GiB; PyTorch activation peak memory "
     "takes 2.18GiB; the rest of the memory reserved for KV Cache is 3.54GiB.",
     "kv_cache", {"kv_gib": 3.54}),
    ("CUDA graph pool memory: 0.89 GiB (actual), 0.35 GiB (estimated), difference: 0.54 GiB "
     "(60.7%).", "warmup", {"graph_gib": 0.89}),
    ("INFO:     Uvicorn running on http://0.0.0.0:8000 (Press CTRL+C to quit)", "serving", {}),
)  # fmt: skip
