"""How processes of a running or starting server die or stop: faults, signals and waits.

Strings are from CUDA, HIP, NCCL, Ray, shells and init systems, and from vLLM 0.5.5 to 0.33.
"""

from collections.abc import Mapping

from .signature import (
    ANNOUNCEMENT,
    CONSEQUENCE,
    GENERIC,
    NO_LINE,
    PROCESS_DIED,
    WAIT,
    Signature,
    signature,
    spellings,
)

_KERNEL_LOG = "check `dmesg`, and oom_kill in the cgroup's memory.events"
_LESS_HOST_MEMORY = "use less host memory: a smaller KV cache on a CPU, less --cpu-offload-gb"
_ENGINE_DIED = (
    "read the log above the first of these lines",
    f"if nothing there explains it: {_KERNEL_LOG}",
)
_DEVICE_FAULT = (
    "start again with CUDA_LAUNCH_BLOCKING=1: the traceback then names the kernel",
    "leave out what is new: --enforce-eager, another --attention-backend, no speculative decoding",
    "check `dmesg` for Xid errors (a faulty GPU), and try a newer vLLM",
)
_WORKER_HUNG = (
    "find the worker that waits: `py-spy dump --pid` of each worker process",
    "between GPUs: NCCL_DEBUG=INFO, then --disable-custom-all-reduce or NCCL_P2P_DISABLE=1",
    "if it only computes for long, allow more: VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS",
)
_FAULT = (
    r"(?P<detail>(?:an )?illegal memory access(?: was encountered)?|"
    r"device-side assert(?: triggered)?|unspecified launch failure|misaligned address|"
    r"an illegal instruction was encountered|uncorrectable ECC error|invalid program counter|"
    r"hardware stack error)"
)

# fmt: off
FAULTS: tuple[Signature, ...] = (
    # --- the GPU ---------------------------------------------------------------------------------
    *spellings("device_fault", "crashed", {
            "CUDA error": rf"CUDA error: {_FAULT}",
            "CUDA Error": rf"CUDA Error: {_FAULT}",
            "HIP error": rf"HIP error: {_FAULT}",
            "Cuda failure": rf"Cuda failure \d* ?'{_FAULT}",
            "Triton Error": rf"Triton Error \[\w+\]: {_FAULT}",
            "emory access fault by GPU": r"(?P<detail>[Mm]emory access fault by GPU)",
            "CUDA_ERROR_ILLEGAL": r"(?P<detail>CUDA_ERROR_ILLEGAL_(?:ADDRESS|INSTRUCTION))",
        }, "a kernel failed on the GPU: {detail}", *_DEVICE_FAULT,
        strength=GENERIC, usual="serving", serving=True),
    signature("hpu_fault", "crashed", "FATAL ERROR :: MODULE:",
        r"(?P<detail>FATAL ERROR :: MODULE:PT_\w+ [^\n]{1,120})",
        "the Gaudi runtime failed: {detail}",
        "use the release of vLLM for Gaudi that fits the installed SynapseAI; the first Gaudi is "
        "not supported", "$HABANA_LOGS has more; PT_HPU_LAZY_MODE=0 or 1 takes another path",
        strength=GENERIC, usual="warmup", serving=True),
    # --- signals ---------------------------------------------------------------------------------
    *spellings("segmentation_fault", "crashed", {
            "Segmentation fault": r"(?P<detail>Segmentation fault)",
            "SIGSEGV": r"(?P<detail>SIGSEGV)",
        }, "a process crashed in native code: {detail}",
        "read the frames below that line: they name the library",
        "try a newer vLLM; between GPUs, NCCL_DEBUG=INFO and --disable-custom-all-reduce",
        strength=CONSEQUENCE, usual="graphs", fatal=False, serving=True),
    *spellings("illegal_instruction", "environment", {
            "llegal instruction":
                r"(?<!an )(?P<detail>[Ii]llegal instruction(?: \(core dumped\))?)",
            "SIGILL": r"(?P<detail>SIGILL)",
        }, "this build uses instructions that the processor does not have: {detail}",
        "build vLLM from source on this machine, or use a build for this processor (a CPU without "
        "AVX-512 needs an AVX2 build)",
        strength=CONSEQUENCE, fatal=False, serving=True, lasting=True),
    *spellings("bus_error", "environment", {
            "Bus error": r"(?P<detail>Bus error)", "SIGBUS": r"(?P<detail>SIGBUS)",
        }, "a process was ended by a bus error ({detail}): shared memory is full",
        "give the container more shared memory: --shm-size or --ipc=host",
        strength=CONSEQUENCE, fatal=False, serving=True, lasting=True),
    signature("aborted", "crashed", *NO_LINE,
        "a process aborted itself ({detail})", *_ENGINE_DIED, strength=PROCESS_DIED),
    # --- what waits for ever ---------------------------------------------------------------------
    *spellings("worker_hung", "hung", {
            "RPC call to": r"(?P<detail>RPC call to \w+ timed out)",
            "RayChannelTimeoutError": r"(?P<detail>RayChannelTimeoutError)",
            "Engine iteration timed out": r"(?P<detail>Engine iteration timed out)",
            "send initial message on input": r"(?P<detail>Timed out waiting for engines to send "
                r"initial message)",
            "engine core processes to": r"(?P<detail>Timed out waiting for engine core processes)",
        }, "a worker did not answer: {detail}", *_WORKER_HUNG,
        strength=CONSEQUENCE, usual="serving", serving=True, fatal=False),
    signature("worker_hung", "hung", "collective operation timeout",
        r"(?P<detail>Watchdog caught collective operation timeout).{0,400}?ran for "
        r"(?P<milliseconds>\d+) milliseconds",
        "the GPUs waited for each other: {detail}", strength=CONSEQUENCE, usual="serving",
        serving=True, fatal=False),
    signature("worker_hung", "hung", "memory broadcast block",
        r"(?P<detail>No available shared memory broadcast block found in (?P<waited>\d+) second)",
        "the workers stopped moving: {detail}s, and nothing after it",
        strength=WAIT, usual="load", serving=True, fatal=False, survivable=True,
        at_any_level=True),
    signature("interrupted", "hung", *NO_LINE,
        "somebody ended the start with Ctrl-C after a wait; it had not failed",
        *_WORKER_HUNG[:2], "or wait longer: compiling and loading can take many minutes",
        strength=ANNOUNCEMENT),
    # --- processes that died without naming the cause --------------------------------------------
    *spellings("engine_died", "crashed", {
            "engine core exited unexpectedly": "",
            "EngineDeadError": r"EngineDeadError(?:: |$)",
            ", terminating server": r"Engine (?:is already dead|has failed), terminating server",
            "atal signal from worker": r"Got fatal signal from worker processes",
            "loop has died": "",
            "loop has errored": "",
        }, "the engine process died", *_ENGINE_DIED, strength=PROCESS_DIED, usual="serving",
        serving=True),
    # Printed before the cause is, or by the processes that are left.
    *spellings("engine_died", "crashed", {
            "died unexpectedly":
                r"[Pp]roc(?:ess)? \S+ died unexpectedly(?: \(exit code: (?P<exit>-?\d+)\))?",
            "Failed core proc(s)": r"Failed core proc\(s\): \{(?:\}|'\w+': (?P<exit>-?\d+))",
            "WorkerProc initialization failed": "",
            "EngineCore ": r"EngineCore (?:encountered a fatal error|hit an exception)",
            "worker process has died": r"actor is dead because its worker process has died",
            "ActorDiedError": r"ActorDiedError: ",
            "terminate called after": "",
            "RuntimeError: cancelled": "",
            " died, exit code: ": r"Worker \S+ pid \d+ died, exit code: (?P<exit>-?\d+)",
        }, "the engine process died", strength=PROCESS_DIED, usual="load", serving=True,
        fatal=False),
    # What a shell, an init system or an orchestrator says of the whole server.
    *spellings("engine_died", "crashed", {
            "exited with code ": r"exited with code (?P<exit>(?!0\b|143|130)\d+)",
            "Main process exited, ": r"Main process exited, code=\w+, status=(?P<exit>[1-9]\w*)",
            "with exit code ": r"terminated with exit code (?P<exit>[1-9]\d*)",
            "(core dumped)": "",
            "Killed": r"(?m:^)(?:\S+: line \d+: +\d+ )?(?P<exit>Killed)\b",
            "OOMKilled": r"(?P<exit>OOMKilled)",
        }, "the server ended", strength=PROCESS_DIED, serving=True, fatal=False),
    # Known from the exit code and the cgroup.
    signature("killed_by_host", "out_of_memory", *NO_LINE,
        "the host's OOM killer killed the engine process",
        f"{_LESS_HOST_MEMORY}, a smaller model", "raise the container's memory limit",
        where="host", strength=PROCESS_DIED),
    signature(
        "killed", "crashed", *NO_LINE, "killed by signal 9, perhaps by the host's OOM killer",
        _KERNEL_LOG, strength=PROCESS_DIED),
)
# fmt: on

# Names and signals of an end, as exit codes, shells and init systems write them.
SIGNALS: Mapping[int, tuple[str, str]] = {
    4: ("SIGILL, illegal instruction", "illegal_instruction"),
    6: ("SIGABRT", "aborted"),
    7: ("SIGBUS", "bus_error"),
    9: ("SIGKILL", "killed"),
    11: ("SIGSEGV, segmentation fault", "segmentation_fault"),
}
_WORDS: Mapping[str, int] = {
    "KILL": 9, "Killed": 9, "OOMKilled": 9, "ABRT": 6, "SEGV": 11, "BUS": 7, "ILL": 4,
}  # fmt: skip


def signal_of(end: str | int | None) -> int | None:
    """Return the signal that an exit code (-9, 137) or a word (`Killed`) stands for, if any."""
    if isinstance(end, str):
        word = end.partition("/")[2] or end
        if word in _WORDS:
            return _WORDS[word]
        end = int(word) if word.lstrip("-").isdigit() else None
    if end is None:
        return None
    if end < 0:
        return -end
    return end - 128 if 128 < end < 160 else None
