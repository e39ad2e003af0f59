"""The ways to start vLLM, and to end it, whose logs are recorded."""

import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread

READY = "Application startup complete"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One way to start vLLM; `act` is what to do once `when` is in the log.

    With `occupied`, somebody else has the server's port; `{taken}` in `args` is a port that
    somebody has. `hub` is what a stand-in for the Hugging Face Hub answers: status and error code.
    """

    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    model: str = "tiny"
    small: bool = True
    eager: bool = True
    wrap: tuple[str, ...] = ()
    when: str = READY
    act: "Callable[[Server], None] | None" = None
    occupied: bool = False
    hub: tuple[int, str] | None = None


@dataclass(frozen=True)
class Server:
    """A running vLLM: its process, which leads its own group, and its port."""

    process: subprocess.Popen[bytes]
    port: int

    def stop(self) -> None:
        """Ask the whole group to stop, as a terminal or a supervisor does."""
        os.killpg(self.process.pid, signal.SIGTERM)

    def kill_child(self, name: str) -> None:
        """Kill the child process with that name, as the host's OOM killer does."""
        self._signal_child(name, signal.SIGKILL)

    def freeze_child(self, name: str) -> None:
        """Stop the child process with that name, as a hung driver does."""
        self._signal_child(name, signal.SIGSTOP)

    def _signal_child(self, name: str, number: signal.Signals) -> None:
        for proc in Path("/proc").glob("[0-9]*"):
            try:
                command = (proc / "cmdline").read_bytes().decode()
                group = os.getpgid(int(proc.name))
            except (OSError, ProcessLookupError):
                continue
            if group == self.process.pid and name in command:
                os.kill(int(proc.name), number)

    def ask(self, tokens: int = 8, patience: float = 60) -> None:
        """Send one completion, and do not mind if it fails."""
        body = b'{"model": "m", "prompt": [1, 2, 3], "ignore_eos": true, "max_tokens": %d}' % tokens
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/v1/completions",
            body,
            {"Content-Type": "application/json"},
        )
        with suppress(OSError):
            urllib.request.urlopen(request, timeout=patience).read()

    def ask_meanwhile(self) -> None:
        """Send a long completion in the background, and wait until it runs."""
        Thread(target=self.ask, args=(30000,), daemon=True).start()
        time.sleep(3)


def serve_and_stop(server: Server) -> None:
    server.ask()
    server.stop()


def stop_under_load(server: Server) -> None:
    server.ask_meanwhile()
    server.stop()


def ask_and_give_up(server: Server) -> None:
    server.ask(30000, patience=5)
    server.stop()


def ask_a_frozen_worker(server: Server) -> None:
    server.freeze_child("Worker")
    server.ask_meanwhile()


def take_memory(server: Server) -> None:
    """Hold 5 GiB until the server ends, as another program may."""
    held = b"x" * (5 << 30)
    with suppress(subprocess.TimeoutExpired):
        server.process.wait(timeout=120)
    del held


def kill_engine_under_load(server: Server) -> None:
    server.ask_meanwhile()
    server.kill_child("EngineCore")


def kill_worker_under_load(server: Server) -> None:
    server.ask_meanwhile()
    server.kill_child("Worker")


WITHOUT_VLLM = 'shift; exec python3 -I "$@"'
IN_LITTLE_ADDRESS_SPACE = 'ulimit -v 9000000; exec "$@"'
CGROUP = Path("/sys/fs/cgroup/memory/autotune-golden")
IN_A_SMALL_CGROUP = (
    f"d={CGROUP}; mkdir -p $d && "
    'echo 1100000000 > $d/memory.limit_in_bytes && echo $$ > $d/cgroup.procs && exec "$@"'
)
ENGINE = "Initializing a V1 LLM engine"
WORKER = "Starting to load model"
CASES = {
    "ready-eager": Case(act=serve_and_stop),
    "ready-compiled": Case(act=serve_and_stop, eager=False),
    "ready-auto-fit": Case(
        args=("--max-model-len", "auto", "--kv-cache-memory-bytes", "20M"),
        small=False,
        act=serve_and_stop,
    ),
    "ready-utilization": Case(
        args=("--gpu-memory-utilization", "0.4"), small=False, act=serve_and_stop
    ),
    "stop-under-load": Case(act=stop_under_load),
    "stop-while-loading": Case(when=WORKER, act=Server.stop),
    "stop-engine-starting": Case(when=ENGINE, act=Server.stop),
    "kv-too-small": Case(
        args=("--max-model-len", "32768", "--kv-cache-memory-bytes", "20M"), small=False
    ),
    # Before 0.20 a CPU's KV cache is as large as this says, in whole GiB.
    "kv-space-too-small": Case(
        env={"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1"},
        args=("--max-model-len", "1000000"),
        small=False,
    ),
    "ready-default-kv": Case(small=False),
    "no-kv-memory": Case(args=("--kv-cache-memory-bytes", "1000"), small=False),
    "auto-fit-impossible": Case(
        args=("--max-model-len", "auto", "--kv-cache-memory-bytes", "1000"), small=False
    ),
    "kv-too-large": Case(args=("--kv-cache-memory-bytes", "900G"), small=False),
    "memory-busy": Case(args=("--gpu-memory-utilization", "1.0"), small=False),
    # Compiling leaves the time for it; the limit is for when it is too late after all.
    "memory-taken-meanwhile": Case(
        args=("--gpu-memory-utilization", "0.85"),
        small=False,
        eager=False,
        wrap=("sh", "-c", IN_LITTLE_ADDRESS_SPACE, "sh"),
        when="Loading weights took",
        act=take_memory,
    ),
    "model-exceeds-reservation": Case(args=("--gpu-memory-utilization", "0.01"), small=False),
    "context-too-long": Case(args=("--max-model-len", "1000000")),
    "unknown-flag": Case(args=("--swap-space", "8")),
    "flag-of-a-newer-version": Case(args=("--quantization-config", "{}")),
    "invalid-choice": Case(args=("--kv-cache-dtype", "fp7")),
    "invalid-number": Case(args=("--max-num-seqs", "many")),
    "invalid-utilization": Case(args=("--gpu-memory-utilization", "1.5")),
    "invalid-json": Case(args=("--compilation-config", "{")),
    "few-batched-tokens": Case(args=("--max-num-batched-tokens", "16", "--max-num-seqs", "64")),
    "unknown-quantization": Case(args=("--quantization", "bitsandbytes")),
    "quantization-not-in-checkpoint": Case(args=("--quantization", "awq")),
    "quantization-mismatch": Case(args=("--quantization", "gptq"), model="awq"),
    "quantization-deprecated": Case(args=("--quantization", "fbgemm_fp8")),
    "quantization-fbgemm-online": Case(
        args=("--quantization", "fbgemm_fp8", "--allow-deprecated-quantization")
    ),
    "quantization-fp8": Case(args=("--quantization", "fp8"), act=serve_and_stop),
    "ready-int4-kv": Case(args=("--kv-cache-dtype", "int4_per_token_head"), act=serve_and_stop),
    "ready-float16": Case(args=("--dtype", "float16"), act=Server.stop),
    "missing-weights": Case(model="no-weights"),
    "missing-config": Case(model="no-config"),
    "missing-path": Case(model="/models/does-not-exist"),
    "missing-directory": Case(model="does/not/exist"),
    "missing-name": Case(model="nobody/nothing", env={"HF_HUB_OFFLINE": "1"}),
    "hub-unreachable": Case(model="nobody/nothing", env={"HF_ENDPOINT": "https://127.0.0.1:9"}),
    "unknown-architecture": Case(model="unknown-architecture"),
    "unknown-model-type": Case(model="unknown-type"),
    "remote-code": Case(model="remote-code"),
    "crash-in-first-request": Case(
        model="small-heads", args=("--load-format", "dummy"), act=serve_and_stop
    ),
    "removed-architecture": Case(model="removed-architecture"),
    "plugin-architecture": Case(model="plugin-architecture", args=("--model-impl", "vllm")),
    "broken-architecture": Case(model="broken-architecture"),
    "pipeline-unsupported": Case(model="looped", args=("--pipeline-parallel-size", "2")),
    "quantization-dtype": Case(model="awq", args=("--dtype", "float32")),
    "ray-missing": Case(args=("--distributed-executor-backend", "ray")),
    "gated-model": Case(model="nobody/gated", hub=(403, "GatedRepo")),
    "unknown-name": Case(model="nobody/nothing", hub=(404, "RepoNotFound")),
    "no-vllm": Case(wrap=("sh", "-c", WITHOUT_VLLM, "sh")),
    "tp-heads": Case(args=("--tensor-parallel-size", "3")),
    "port-in-use": Case(occupied=True, act=Server.stop),
    "rendezvous-port-in-use": Case(
        args=(
            *("--tensor-parallel-size", "2", "--nnodes", "2", "--node-rank", "0"),
            *("--master-addr", "127.0.0.1", "--master-port", "{taken}"),
        ),
    ),
    "host-out-of-memory": Case(
        args=("--kv-cache-memory-bytes", "10G"),
        small=False,
        wrap=("sh", "-c", IN_LITTLE_ADDRESS_SPACE, "sh"),
    ),
    "request-given-up": Case(act=ask_and_give_up),
    "worker-hangs": Case(env={"VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS": "5"}, act=ask_a_frozen_worker),
    "shared-memory-too-small": Case(
        wrap=(
            "unshare",
            "-m",
            "sh",
            "-c",
            'mount -t tmpfs -o size=64k t /dev/shm && exec "$@"',
            "sh",
        )
    ),
    "cgroup-out-of-memory": Case(wrap=("sh", "-c", IN_A_SMALL_CGROUP, "sh")),
    "killed-while-loading": Case(when=ENGINE, act=lambda server: server.kill_child("EngineCore")),
    "worker-killed-while-loading": Case(
        when=WORKER, act=lambda server: server.kill_child("Worker")
    ),
    "killed-while-serving": Case(act=kill_engine_under_load),
    "worker-killed-while-serving": Case(act=kill_worker_under_load),
}
