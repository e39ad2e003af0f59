"""What fails around vLLM: drivers, toolkits, packages, disks, networks and clusters.

Strings are from torch, CUDA, NCCL, Triton, Ray, glibc and the kernel, and from vLLM 0.5.5 to 0.33.
"""

from .signature import CONSEQUENCE, GENERIC, WAIT, Signature, signature, spellings

_UPDATE_DRIVER = "update the NVIDIA driver; `nvidia-smi` shows the newest CUDA that it can run"
_OLDER_BUILD = "or install a build of vLLM and torch for that CUDA version"
_GPUS_VISIBLE = (
    "check that `nvidia-smi` (or `rocm-smi`) works in the same container or shell",
    "give the container its GPUs: `--gpus all` with Docker, `nvidia.com/gpu` with Kubernetes",
    "check CUDA_VISIBLE_DEVICES; without a GPU, install vLLM's CPU build",
)
_COMPILER = (
    "install a C++ compiler and the headers of this Python (apt: build-essential, python3-dev)",
    "if it cannot find -lcuda: LIBRARY_PATH=/usr/local/cuda/lib64/stubs",
    "or use vLLM's own container image, which has them",
)
_NVCC = (
    "install the CUDA toolkit of the version that torch was built for, and set CUDA_HOME",
    "or do without what is compiled at run time: VLLM_USE_FLASHINFER_SAMPLER=0, "
    "--attention-backend FLASH_ATTN (before 0.14: VLLM_ATTENTION_BACKEND)",
)
_REINSTALL = (
    "install vLLM anew in an environment of its own, so that torch and its kin fit to it",
    "or use vLLM's own container image",
)
_SHARED_MEMORY = "give the container more shared memory: --shm-size or --ipc=host"
_FREE_DISK = (
    "free disk space, or move the caches: HF_HOME, VLLM_CACHE_ROOT, TMPDIR",
    "in Kubernetes, raise the limit of the emptyDir or of the ephemeral storage",
)
_ONE_WAY = {"lasting": True}  # the next launch would end the same way

# fmt: off
SURROUNDINGS: tuple[Signature, ...] = (
    # --- driver and device -----------------------------------------------------------------------
    *spellings("driver_too_old", "environment", {
            "driver on your system is too old":
                r"(?P<detail>NVIDIA driver on your system is too old(?: \(found version \d+\))?)",
            "driver version is insufficient": r"(?P<detail>CUDA driver version is insufficient for "
                r"CUDA runtime version)",
            "unsatisfied condition: cuda": r"(?P<detail>unsatisfied condition: cuda\S+)",
            "display driver / cuda driver": r"(?P<detail>system has unsupported display driver / "
                r"cuda driver combination)",
        }, "the NVIDIA driver is too old for this build: {detail}", _UPDATE_DRIVER, _OLDER_BUILD,
        usual="load", **_ONE_WAY),
    signature("driver_too_old", "environment", "with an unsupported toolchain",
        r"(?P<detail>PTX was compiled with an unsupported toolchain)",
        "the NVIDIA driver is older than the CUDA toolkit that compiled a kernel: {detail}",
        usual="load", serving=True, **_ONE_WAY),
    *spellings("cuda_compatibility", "environment", {
            "Error 804": r"(?P<detail>Error 804: forward compatibility was attempted on non "
                r"supported HW|Error 804)",
            "forward compatibility was attempted": r"(?P<detail>forward compatibility was attempted"
                r" on non supported HW)",
        }, "the container's CUDA compatibility libraries do not work with this GPU and driver "
        "({detail})",
        "remove CUDA's `compat` folder from LD_LIBRARY_PATH (in vLLM's image: unset "
        "VLLM_ENABLE_CUDA_COMPATIBILITY, or delete /usr/local/cuda/compat)",
        _UPDATE_DRIVER, usual="load", **_ONE_WAY),
    signature("fabric_manager_down", "environment", "system not yet initialized",
        r"Error 802: system not yet initialized|CUDA error: system not yet initialized",
        "the GPUs' fabric is not initialised (CUDA error 802)",
        "start nvidia-fabricmanager in the version of the driver, then start again",
        usual="load"),
    *spellings("no_gpu", "environment", {
            "GPUs are available": r"(?P<detail>No (?:CUDA|HIP|XPU) GPUs are available)",
            "ailed to infer device type": r"(?P<detail>Failed to infer device type)",
            "Found no NVIDIA driver": r"(?P<detail>Found no NVIDIA driver on your system)",
            "no CUDA-capable device": r"(?P<detail>no CUDA-capable device is detected)",
            "Device string must not be empty": r"Error: (?P<detail>Device string must not be "
                r"empty)",
            "CUDA unknown error": r"(?P<detail>CUDA unknown error)",
            "select device driver": r"(?P<detail>could not select device driver [^.\n]*)",
            "Torch not compiled with CUDA": r"(?P<detail>Torch not compiled with CUDA enabled)",
        }, "vLLM sees no GPU: {detail}", *_GPUS_VISIBLE, fatal=False, usual="load", **_ONE_WAY),
    *spellings("device_not_visible", "environment", {
            "device < num_gpus":
                r"(?P<detail>device >= 0 && device < num_gpus)",
            "invalid device ordinal": r"(?P<detail>invalid device ordinal)",
        }, "a worker asked for a GPU that is not visible to it ({detail})",
        "use no more GPUs than are visible: --tensor-parallel-size times --pipeline-parallel-size",
        "check CUDA_VISIBLE_DEVICES, and how many GPUs the container or the Ray node was given",
        usual="load", **_ONE_WAY),
    *spellings("device_id_not_a_number", "environment", {
            "with base 10: 'MIG-": r"base 10: '(?P<detail>MIG-)",
            "with base 10: 'GPU-": r"base 10: '(?P<detail>GPU-)",
        }, "this vLLM reads CUDA_VISIBLE_DEVICES as numbers, but it names a {detail} UUID",
        "name the devices by number, or let the container show only the MIG slice",
        "or use a newer vLLM", usual="config", **_ONE_WAY),
    *spellings("no_kernel_image", "environment", {
            "no kernel image is available for execution":
                r"rror.{0,400}?(?P<detail>no kernel image is available for execution on the "
                r"device)",
            "kernel image is invalid": r"(?P<detail>device kernel image is invalid)",
            "No supported CUDA architectures":
                r"(?P<detail>No supported CUDA architectures found for major versions \[[^\]]*\])",
            "invalid device function": r"(?P<detail>invalid device function)",
        }, "this build of vLLM, torch or a kernel has no code for this GPU: {detail}",
        "install a build for this GPU; vLLM's own wheels from 0.26 on need compute capability 7.5 "
        "or newer",
        "on an AMD GPU, build vLLM and torch for its gfx name (`rocminfo`), or try "
        "HSA_OVERRIDE_GFX_VERSION", "an old Triton cache can do it too: delete ~/.triton",
        strength=GENERIC, usual="load", serving=True, **_ONE_WAY),
    signature("gpu_too_old", "environment", "only supports Ampere GPUs or newer",
        r"(?P<detail>FlashAttention only supports Ampere GPUs or newer)",
        "this attention backend does not support the GPU: {detail}",
        "choose another: --attention-backend TRITON_ATTN (before 0.14: "
        "VLLM_ATTENTION_BACKEND=XFORMERS)", usual="load", **_ONE_WAY),
    signature("pinned_memory_unavailable", "environment", "UVA is not available",
        r"(?P<detail>UVA is not available)",
        "this machine gives no pinned host memory, which vLLM needs here ({detail})",
        "under WSL, set VLLM_WSL2_ENABLE_PIN_MEMORY=1",
        "elsewhere, do not offload to host memory (--cpu-offload-gb), or raise `ulimit -l`",
        usual="load", **_ONE_WAY),
    # --- compilers and kernels made at run time --------------------------------------------------
    *spellings("no_cuda_toolkit", "environment", {
            "nvcc": r"(?P<detail>Could not find nvcc[^.\n]{0,80}|nvcc: (?:command )?not found|"
                r"No such file or directory: '[^']*nvcc'|[Cc]ould not find CUDA[^.\n]{0,60}nvcc)",
            "CUDA_HOME": r"rror: (?P<detail>CUDA_HOME (?:environment variable )?is not set)",
            "find CUDA installation":
                r"(?P<detail>[Cc]ould not find CUDA installation)",
        }, "a kernel must be compiled here, but there is no CUDA compiler: {detail}", *_NVCC,
        fatal=False, usual="profile", serving=True, **_ONE_WAY),
    *spellings("toolkit_too_old", "environment", {
            "is not defined for option 'gpu-name'":
                r"(?P<detail>ptxas fatal *: Value '\w+' is not defined for option 'gpu-name')",
            "nvcc fatal": r"(?P<detail>nvcc fatal *: [^\n]{1,120})",
            "does not support .target":
                r"(?P<detail>PTX \.version [\d.]+ does not support \.target \w+)",
        }, "the CUDA compiler that Triton or FlashInfer uses is too old: {detail}",
        "use the ptxas of a newer CUDA toolkit: TRITON_PTXAS_PATH=/usr/local/cuda/bin/ptxas",
        "or install a newer Triton, and vLLM with it",
        fatal=False, usual="profile", serving=True, **_ONE_WAY),
    signature("deep_gemm_failed", "environment", "ssertion error",
        r"Assertion error \(?(?P<detail>csrc/[^\n]*jit[^\n]{1,120})",
        "DeepGEMM could not build or run a kernel: {detail}",
        "do without it: VLLM_USE_DEEP_GEMM=0",
        "or install the DeepGEMM that this vLLM was tested with, and a CUDA toolkit of torch's "
        "version", fatal=False, usual="warmup", serving=True, **_ONE_WAY),
    signature("toolkit_too_old", "environment", "PTXASError",
        r"(?P<detail>PTXASError: [^\n]{1,200})",
        "the CUDA assembler that Triton uses failed: {detail}",
        strength=CONSEQUENCE, fatal=False, usual="profile", serving=True, **_ONE_WAY),
    *spellings("no_compiler", "environment", {
            "fatal error: ": r"fatal error: (?P<detail>\S+\.h\w*: No such file or directory)",
            "Failed to find C compiler": r"(?P<detail>Failed to find C compiler)",
            "InvalidCxxCompiler": r"(?P<detail>InvalidCxxCompiler[^\n]{0,120})",
            "error trying to exec": r"(?P<detail>error trying to exec 'cc1\w*')",
            "cannot find -l": r"(?P<detail>cannot find -l\w+)",
            "No such file or directory: '": r"(?P<detail>No such file or directory: "
                r"'(?:[^']*/)?(?:gcc|g\+\+|cc|c\+\+|clang|ninja)')",
            "Ninja is required": r"(?P<detail>Ninja is required)",
        }, "a kernel must be compiled here, and that failed: {detail}", *_COMPILER,
        "or compile less: --enforce-eager", fatal=False, usual="profile", serving=True, **_ONE_WAY),
    signature("no_compiler", "environment", "CalledProcessError: Command '['",
        r"CalledProcessError: Command '\['(?P<detail>[^']*(?:gcc|g\+\+|cc|clang))'",
        "a kernel must be compiled here, and the compiler failed: {detail}",
        strength=CONSEQUENCE, fatal=False, usual="profile", serving=True, **_ONE_WAY),
    signature("kernel_too_large", "environment", "out of resource: ",
        r"(?P<detail>out of resource: shared memory, Required: \d+, Hardware limit: \d+)",
        "a Triton kernel needs more shared memory than this GPU has ({detail})",
        "choose another attention backend, or a newer vLLM that tunes the kernel for this GPU",
        fatal=False, usual="profile", serving=True, **_ONE_WAY),
    signature("triton_failed", "crashed", "PassManager::run failed", "",
        "Triton could not compile a kernel for this GPU (PassManager::run failed)",
        "choose another attention backend: --attention-backend (before 0.14: "
        "VLLM_ATTENTION_BACKEND)", "update Triton and vLLM together; on a GPU older than Ampere, "
        "do without prefix caching or chunked prefill", fatal=False, usual="profile", serving=True,
        **_ONE_WAY),
    # --- packages --------------------------------------------------------------------------------
    signature("no_vllm", "environment", "No module named 'vllm'", "",
        "vLLM is not installed for this Python",
        "install vLLM for it, or use the Python that has vLLM", phase="spawn", serving=True),
    *spellings("flashinfer_missing", "environment", {
            "No module named 'flashinfer": "",
            "nfer is not ": r"(?i:flashinfer is not (?:installed|available))",
            "(flashinfer.py:": r"'NoneType' object is not callable.*?\(flashinfer\.py:",
        }, "FlashInfer is not installed, and this configuration needs it",
        "install flashinfer-python in the version that this vLLM asks for",
        "or choose another attention backend: --attention-backend (before 0.14: "
        "VLLM_ATTENTION_BACKEND)", strength=GENERIC, fatal=False, usual="profile", **_ONE_WAY),
    *spellings("libc_too_old", "environment", {
            "version `GLIBC": r"(?P<detail>version `GLIBC\w*_[\d.]+' not found)",
        }, "this build needs a newer system: {detail}",
        "use a newer distribution or vLLM's own container image",
        "or build vLLM from source on this one", usual="spawn", **_ONE_WAY),
    *spellings("broken_install", "environment", {
            "cannot open shared object file":
                r"ImportError: (?P<detail>[^\s:]+: cannot open shared object file)",
            "undefined symbol": r"(?:ImportError|OSError): .{0,300}?(?P<detail>undefined symbol: "
                r"\w{1,120})",
            "No module named 'vllm.": r"(?P<detail>No module named 'vllm\.\w+')",
        }, "vLLM's installation does not fit together: {detail}", *_REINSTALL,
        strength=CONSEQUENCE, usual="config", fatal=False, survivable=True, **_ONE_WAY),
    signature("missing_package", "environment", "No module named '",
        r"(?:ModuleNotFoundError|ImportError): No module named '(?P<detail>[\w.]+)'",
        "a Python package is missing: {detail}",
        "install it for the Python that runs vLLM, in the version that fits its torch",
        strength=CONSEQUENCE, usual="config", fatal=False, survivable=True, **_ONE_WAY),
    *spellings("missing_package", "environment", {
            "lease install": r"ImportError: .{0,200}?(?P<detail>[Pp]lease install "
                r"(?!bitsandbytes)[^.\n]{1,80})",
            " to be installed": r"(?P<detail>requires [\w.-]+ to be installed)",
            "cannot import name": r"ImportError: (?P<detail>cannot import name '\w+' from "
                r"'[\w.]+')",
        }, "a Python package is missing or has another version: {detail}",
        strength=CONSEQUENCE, usual="config", fatal=False, survivable=True, **_ONE_WAY),
    *spellings("transformers_mismatch", "environment", {
            "Tokenizer class ":
                r"(?P<detail>Tokenizer class \w+ does not exist or is not currently imported)",
            "is already used by a": r"(?P<detail>'[\w.-]+' is already used by a Transformers "
                r"config)",
            "for argument tokenizer": r"(?P<detail>Received a \w+ for argument tokenizer, but a "
                r"[^\n]{1,80} was expected)",
            "the backend tokenizer": r"(?P<detail>Couldn't instantiate the backend tokenizer)",
            "variant of untagged enum": r"(?P<detail>data did not match any variant of untagged "
                r"enum \w+)",
        }, "the installed transformers does not fit this model or this vLLM: {detail}",
        "install the version of transformers (and tokenizers) that this vLLM asks for",
        "or name the tokenizer yourself: --tokenizer, --tokenizer-mode",
        strength=GENERIC, usual="config", fatal=False, **_ONE_WAY),
    # --- the process and its host ----------------------------------------------------------------
    *spellings("cuda_in_fork", "environment", {
            "CUDA in forked subprocess": r"(?P<detail>Cannot re-initialize CUDA in forked "
                r"subprocess)",
        }, "{detail}: a process that had used the GPU was forked",
        "set VLLM_WORKER_MULTIPROC_METHOD=spawn",
        "in a script of your own, do not touch CUDA before vLLM starts", usual="load", **_ONE_WAY),
    *spellings("no_main_guard", "environment", {
            "finished its bootstrapping phase": "",
            "current process has finished its": "",
        }, "the script starts vLLM while it is imported, and a child process imports it again",
        'put the start of vLLM under `if __name__ == "__main__":`', usual="load", **_ONE_WAY),
    *spellings("shared_memory_too_small", "environment", {
            "Insufficient space in":
                r"(?P<detail>Insufficient space in \S+ for [^:]+: \d+ MiB required, \d+ MiB free)",
            "shared memory segment /dev/shm":
                r"(?P<detail>Error while creating shared memory segment /dev/shm/\S+)",
            "o space left on device": r"(?P<detail>No space left on device\b.{0,80}?"
                r"(?:/dev/shm|/psm_|/torch_|/nccl-|sem\.)|"
                r"(?:/dev/shm|/psm_|/torch_|/nccl-)\S*.{0,80}?No space left on device)",
            "insufficient shared memory (shm)":
                r"(?P<detail>insufficient shared memory \(shm\))",
        }, "shared memory is too small: {detail}", _SHARED_MEMORY, usual="load", serving=True,
        **_ONE_WAY),
    *spellings("disk_full", "environment", {
            "o space left on device": r"(?P<detail>[Nn]o space left on device(?: \(os error 28\)|"
                r": '[^']*')?)",
            "Not enough free disk space": r"(?:Error|Exception): .{0,80}?(?P<detail>Not enough "
                r"free disk space to download)",
            "quota exceeded": r"(?i:(?P<detail>disk quota exceeded))",
        }, "the disk is full: {detail}", *_FREE_DISK, strength=GENERIC, fatal=False, usual="load",
        serving=True),
    *spellings("permission_denied", "environment", {
            "Permission denied": r"PermissionError: \[Errno 13\] (?P<detail>Permission denied"
                r"(?:: '[^']*')?)",
            "Read-only file system": r"OSError: \[Errno 30\] (?P<detail>Read-only file system"
                r"(?:: '[^']*')?)",
        }, "vLLM may not write or read a file: {detail}",
        "run as a user who may, or move the caches: HF_HOME, VLLM_CACHE_ROOT, TMPDIR",
        strength=GENERIC, fatal=False, **_ONE_WAY),
    *spellings("process_limit", "environment", {
            "start new thread": r"Error: (?P<detail>can't start new thread)",
            "oo many open files": r"(?P<detail>[Tt]oo many open files)",
            "pthread_create failed": r"(?P<detail>pthread_create failed)",
        }, "a limit of this user or container is reached: {detail}",
        "raise `ulimit -u` and `ulimit -n`, or the container's --pids-limit",
        fatal=False, strength=GENERIC, serving=True),
    signature("port_in_use", "environment", "ddress already in use",
        r"Error: \[Errno 98\] .*[Aa]ddress already in use|EADDRINUSE|"
        r"\[Errno 98\] error while attempting to bind",
        "another process uses that port", "choose another port", strength=GENERIC),
    signature("port_forbidden", "environment", "[Errno 13] ",
        r"\[Errno 13\] (?:error while attempting to bind|Permission denied$)",
        "this user may not open that port", "choose a --port above 1023", strength=GENERIC,
        usual="config", **_ONE_WAY),
    # --- several GPUs and several nodes ----------------------------------------------------------
    *spellings("ray_without_gpu", "environment", {
            "GPUs on the driver node":
                r"(?P<detail>Ray does not allocate any GPUs on the driver node)",
            "urrent node has no GPU":
                r"(?P<detail>Current node has no GPU available)",
        }, "{detail}",
        "start vLLM on a node of the Ray cluster that has GPUs; start Ray there with --num-gpus",
        "inside a Ray actor or job, ask for the placement group on that node", usual="config",
        **_ONE_WAY),
    *spellings("ray_lacks_gpus", "environment", {
            "provide a placement group": r"(?P<detail>Cannot provide a placement group)",
        }, "{detail}: the Ray cluster has fewer free GPUs than the configuration needs",
        "check `ray status`: every node must have joined, with its GPUs free", usual="config"),
    signature("ray_lacks_gpus", "environment", "creating a placement group",
        r"(?P<detail>Waiting for creating a placement group of specs for \d+ seconds)",
        "{detail}: the Ray cluster has fewer free GPUs than the configuration needs",
        strength=WAIT, usual="config", fatal=False, serving=True, survivable=True,
        at_any_level=True),
    signature("kv_connector_failed", "environment", "NIXL_ERR_",
        r"(?P<detail>NIXL_ERR_\w+)",
        "the KV connector could not use the network between the servers: {detail}",
        "read UCX's line above it: it names the device; give the container the RDMA devices",
        "or choose what UCX may use: UCX_NET_DEVICES, UCX_TLS", phase="kv_cache", **_ONE_WAY),
    *spellings("p2p_check_failed", "environment", {
            "peer-to-peer access from":
                r"(?P<detail>Error happened when batch testing peer-to-peer access)",
        }, "the test of direct copies between GPUs (p2p) failed or did not end",
        "add --disable-custom-all-reduce, and set NCCL_P2P_DISABLE=1",
        "disable the IOMMU (ACS) on the host, then delete vLLM's gpu_p2p_access_cache files",
        usual="load"),
    *spellings("node_missing", "environment", {
            "waiting for clients": r"DistStoreError: (?P<detail>Timed out after \d+ seconds "
                r"waiting for clients\. \S+ clients joined)",
            "socket has timed out": r"DistNetworkError: (?P<detail>[^\n]{0,80}client socket has "
                r"timed out[^\n]{0,80})",
            "client socket has failed to connect": r"DistNetworkError: (?P<detail>[^\n]{0,60}"
                r"client socket has failed to connect)",
            "connectFullMesh failed": r"(?P<detail>Gloo connectFullMesh failed)",
        }, "the processes of this server did not find each other: {detail}",
        "check that every node was started, with the same --master-addr and a port that is open",
        "name the network: NCCL_SOCKET_IFNAME, GLOO_SOCKET_IFNAME, VLLM_HOST_IP",
        strength=GENERIC, usual="load", fatal=False),
    signature("nccl_unsupported", "environment", "NCCL WARN",
        r"NCCL WARN Cuda failure (?:\d+ )?(?P<detail>'[^']*not supported')",
        "the GPUs cannot do what NCCL asks of them: {detail}",
        "on virtual GPUs, enable unified memory (UVM) in the vGPU's profile",
        "or do without: NCCL_CUMEM_ENABLE=0, NCCL_P2P_DISABLE=1, or one GPU",
        strength=CONSEQUENCE, usual="load", fatal=False, **_ONE_WAY),
    *spellings("nccl", "environment", {
            "NCCL WARN": r"NCCL WARN Cuda failure (?:\d+ )?"
                r"(?P<detail>'(?!(?:an )?illegal|device-side|unspecified|misaligned)[^']+')",
            "NCCL ": r"Error: NCCL [Ee]rror|NCCL error in: ",
            "torch.distributed.Dist": r"Dist\w*Error: ",
        }, "the GPUs could not communicate", "start vLLM again with the same configuration",
        "add --disable-custom-all-reduce", _SHARED_MEMORY,
        "NCCL_DEBUG=INFO says more in the next log",
        strength=CONSEQUENCE, usual="load", fatal=False, serving=True),
    # --- the Hub ---------------------------------------------------------------------------------
    signature("hub_refused", "environment", "Too Many Requests",
        r"(?:Error|Exception).{0,200}?429 Client Error: Too Many Requests",
        "the Hub answers no more requests from here for now",
        "set HF_TOKEN, or download the model first and start with HF_HUB_OFFLINE=1",
        strength=CONSEQUENCE, usual="config", fatal=False),
)
# fmt: on
