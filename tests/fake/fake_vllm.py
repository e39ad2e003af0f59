"""A fake vLLM server: real processes, real HTTP, vLLM 0.32's own words, and scripted misfortune.

    FAKE_VLLM='{"mode": "stream_cut"}' python fake_vllm.py --model M --port 8000

It takes the arguments of `python -m vllm.entrypoints.openai.api_server` and starts an API server,
an engine below it and a worker below that. `FAKE_VLLM` holds one JSON document, or the path of a
file with it; `Script` lists its entries. Memory follows a simple model of the card: flags that save
memory save it here too, and what does not fit is refused as vLLM refuses it.

`die_at` names the phase to die in (spawn config load profile kv_cache graphs warmup serving), `how`
the way: oom, crash, sigkill (the worker), sigkill_engine, segv, exit0, hang, or text, which raises
the script's `text`. In the phase serving it happens at request number `after`.

Modes while serving:

    error_500_long       500 for prompts longer than `long_tokens` (half the context)
    zero_tokens          200 without a token
    too_few_tokens       half the tokens asked for
    empty_text           the right usage, but no text
    wrong_usage          usage that counts wrong
    garbage              200 with a body that is no JSON
    stream_cut           the connection ends in the middle of a stream
    stream_no_usage      a stream without the usage chunk
    stream_no_done       a stream without [DONE]
    hang_full_length     a request of the full length waits for ever
    hang                 every generation waits for ever
    hang_all             every endpoint does
    slow                 a generation takes `seconds`, but moves
    collapse             decoding slows with the square of the running requests
    oom_line             an out-of-memory line in the log, but 200
    engine_restart       after `after` requests a new engine takes over, its counters at zero
    preemption_storm     every request adds 50 preemptions
    stranger             somebody else's server answers on the port
    wrong_model_len      /v1/models promises half the context
    metrics_renamed      `rename` maps old names to new ones
    metrics_missing      404 for /metrics
    metrics_frozen       counters that never move
    health_lies          after `after` requests the engine is dead, and /health still 200
    memory_creep         every request keeps `creep_mib` MiB more
    leak_blocks          the blocks of a client that left in a stream stay taken
    rate_limit           429 when more than `limit` requests run
    reset                every `every`-th connection is reset
    accepts_over_long    200 for a prompt longer than the context
    rejects_full_length  400 for a request of exactly the context

Modes of the process:

    never_ready          the engine is up, but the server never listens
    ignores_sigterm      the whole tree does
    setsid_grandchild    the worker leaves the session and outlives everyone
    flood                `flood_mib` MiB of log before it is ready
"""

import contextlib
import dataclasses
import http
import http.server
import json
import os
import re
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

GIB = 2**30
NO_MODULE = (
    f"{sys.executable}: Error while finding module specification for "
    "'vllm.entrypoints.openai.api_server' (ModuleNotFoundError: No module named 'vllm')"
)
ENGINE_DEAD = "EngineCore encountered an issue. See stack trace (above) for the root cause."
CONSERVING = "See https://docs.vllm.ai/en/latest/configuration/conserving_memory/ for more details."
SHORT = {
    "-tp": "tensor-parallel-size",
    "-pp": "pipeline-parallel-size",
    "-q": "quantization",
}


@dataclasses.dataclass
class Script:
    """Everything that can be scripted; sizes are per device."""

    mode: str | list[str] = ""
    die_at: str = ""
    how: str = "oom"
    text: str = "ValueError: scripted"
    unless: list[str] = dataclasses.field(default_factory=list)  # arguments that prevent all that
    # The card and the model.
    device: str = "cpu"
    total_gib: float | None = None
    free_gib: float | None = None
    budget_gib: float | None = None  # instead of utilization x total
    context: int = 32768
    weights_gib: float = 0.5
    other_gib: float = 0.25
    activation_gib: float = 0.1
    graph_gib: float = 0.1
    hidden_gib: float = 0.0  # taken by the graphs, though vLLM did not foresee it
    kv_bytes_per_token: int = 32768
    vocab_size: int = 152064
    # The flags this version lacks, and those that it takes and ignores.
    unknown_flags: list[str] = dataclasses.field(default_factory=lambda: ["swap-space"])
    ignored_flags: list[str] = dataclasses.field(default_factory=list)
    version: str = "0.32.0"
    # Speed, and seconds to spend in a phase.
    prefill_tokens_per_second: float = 2e6
    decode_tokens_per_second: float = 5000
    delay: dict[str, float] = dataclasses.field(default_factory=dict)
    lifetime: int = 300  # seconds after which every process ends itself
    # What the modes need.
    after: int = 1
    long_tokens: int | None = None
    seconds: float = 0.5
    limit: int = 2
    every: int = 3
    creep_mib: int = 32
    flood_mib: int = 32
    rename: dict[str, str] = dataclasses.field(
        default_factory=lambda: {"vllm:kv_cache_usage_perc": "vllm:gpu_cache_usage_perc"}
    )

    def is_on(self, mode: str) -> bool:
        return mode in (self.mode.split() if isinstance(self.mode, str) else self.mode)


class Raised(Exception):
    """An exception of vLLM's own, as its text would stand in a traceback."""


class EngineDead(Exception):
    pass


def read_script(argv: list[str]) -> Script:
    text = os.environ.get("FAKE_VLLM", "{}")
    if not text.lstrip().startswith("{"):
        text = Path(text).read_text(encoding="utf-8")
    script = Script(**json.loads(text))
    if any(word in argv for word in script.unless):
        script.mode = script.die_at = ""
    return script


def parse(argv: list[str]) -> dict[str, list[str]]:
    """Return every flag with its values; a positional model counts as `--model`."""
    args: dict[str, list[str]] = {}
    name = "model"
    for word in argv[1:] if argv[:1] == ["serve"] else argv:
        if re.match(r"--?[A-Za-z]", word):
            flag, equals, value = word.partition("=")
            name = SHORT.get(flag, flag.lstrip("-").replace("_", "-"))
            args[name] = [value] if equals else []
        else:
            args.setdefault(name, []).append(word)
    return args


def number(text: str) -> int:
    """Read `20M` and `8k` as vLLM does."""
    suffix = text[-1]
    if suffix.isdigit():
        return int(text)
    power = "KMGT".index(suffix.upper()) + 1
    return int(float(text[:-1]) * (1024 if suffix.isupper() else 1000) ** power)


def gib(size: float) -> str:
    return str(round(size / GIB, 2))


# --- What vLLM prints ---------------------------------------------------------------------------


def raw(text: str) -> None:
    """Print lines without a prefix, in one write."""
    # A reader that went away must not change what happens next.
    with contextlib.suppress(OSError):
        os.write(1, (text + "\n").encode())


def say(role: str, source: str, text: str, level: str = "INFO") -> None:
    """Print a log message, every line of it with the prefix."""
    stamp = time.strftime("%m-%d %H:%M:%S")
    prefix = f"({role} pid={os.getpid()}) {level} {stamp} [{source}] "
    raw("\n".join(prefix + line for line in text.split("\n")))


def traceback(error: str, file: str, function: str) -> str:
    return (
        "Traceback (most recent call last):\n"
        f'  File "/site-packages/vllm/{file}", line 1482, in {function}\n'
        "    raise e\n"
        f"{error}"
    )


def out_of_memory(card: "Card", phase: str) -> str:
    """Return the exception that ends a phase when memory runs out."""
    if card.script.device == "cpu":
        return (
            "RuntimeError: [enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't"
            " allocate memory: you tried to allocate 312475648 bytes. Error code 12 (Cannot "
            "allocate memory)"
        )
    cause = (
        "CUDA out of memory. Tried to allocate 298.00 MiB. GPU 0 has a total capacity of "
        f"{gib(card.total)} GiB of which 51.00 MiB is free. Including non-PyTorch memory, this "
        f"process has {gib(card.total - 51 * 2**20)} GiB memory in use."
    )
    if phase == "profile":
        seqs = card.integer("max-num-seqs", 256)
        return (
            f"RuntimeError: CUDA out of memory occurred when warming up sampler with {seqs} dummy "
            "requests. Please try lowering `max_num_seqs` or `gpu_memory_utilization` when "
            "initializing the engine."
        )
    return f"torch.OutOfMemoryError: {cause}"


BANNER = """
       █     █     █▄   ▄█
 ▄▄ ▄█ █     █     █ ▀▄▀ █  version {version}
  █▄█▀ █     █     █     █  model   {model}
   ▀▀  ▀▀▀▀▀ ▀▀▀▀▀ ▀     ▀
"""

STOPPING = """\
launcher.py:254 [shutdown] API server: shutdown triggered
launcher.py:270 [shutdown] API server: stopping engine client mode=abort timeout=0s
core_client.py:770 [shutdown] MPClient: start timeout=0s
core_client.py:772 [shutdown] MPClient: stopping engine manager
utils.py:628 [shutdown] Process manager: send sigterm to process EngineCore
utils.py:648 [shutdown] Process manager: force killing remaining processes count=1"""

STOPPED = """\
core_client.py:774 [shutdown] MPClient: engine manager stopped
core_client.py:775 [shutdown] MPClient: cleaning up background resources
core_client.py:777 [shutdown] MPClient: complete
launcher.py:279 [shutdown] API server: engine client stopped
launcher.py:282 [shutdown] API server: signalling HTTP server shutdown
launcher.py:304 [shutdown] API server: shutting down FastAPI HTTP server"""

LEAVING = """\
core.py:1454 [shutdown] EngineCore: trigger received signal=SIGTERM
core.py:1635 [shutdown] EngineCore: start mode=abort timeout=0s
core.py:1666 [shutdown] EngineCore: request processing complete; starting resource teardown
core.py:1499 [shutdown] EngineCore: exiting busy loop
multiproc_executor.py:479 [shutdown] Executor: waiting for worker exit count=1"""

GOODBYE = """\
INFO:     Shutting down
INFO:     Waiting for application shutdown.
INFO:     Application shutdown complete."""


def say_engine_dead() -> None:
    error = f"vllm.v1.engine.exceptions.EngineDeadError: {ENGINE_DEAD}"
    text = traceback(error, "v1/engine/async_llm.py", "output_handler")
    text = f"AsyncLLM output_handler failed.\n{text}"
    say("APIServer", "async_llm.py:906", text, "ERROR")


def say_lines(role: str, lines: str) -> None:
    for line in lines.split("\n"):
        source, _, text = line.partition(" ")
        say(role, source, text, "WARNING" if "force killing" in text else "INFO")


# --- The memory of one device -------------------------------------------------------------------


class Card:
    """The device as the arguments make vLLM use it; sizes in bytes."""

    def __init__(self, script: Script, args: dict[str, list[str]]) -> None:
        self.script = script
        self.args = {
            name: values for name, values in args.items() if name not in script.ignored_flags
        }
        cpu = script.device == "cpu"
        self.block = self.integer("block-size", 128 if cpu else 16)
        self.workers = self.integer("tensor-parallel-size", 1)
        share = self.workers * self.integer("pipeline-parallel-size", 1)
        self.total = int((script.total_gib or (8.21 if cpu else 139.8)) * GIB)
        self.free = int(script.free_gib * GIB) if script.free_gib is not None else self.total
        self.utilization = float(self.text("gpu-memory-utilization") or 0.92)
        self.requested = int(
            script.budget_gib * GIB if script.budget_gib else self.total * self.utilization
        )
        weights = script.weights_gib * GIB * self.weight_factor() / share
        self.offloaded = 0 if cpu else int(min(weights, self.integer("cpu-offload-gb", 0) * GIB))
        self.weights = int(weights - self.offloaded)
        self.eager = "enforce-eager" in self.args
        # On the CPU nothing is profiled without a compilation.
        self.activation = 0 if cpu and self.eager else int(script.activation_gib * GIB)
        self.graphs = 0 if cpu or self.eager else int(script.graph_gib * GIB)
        self.hidden = 0 if cpu or self.eager else int(script.hidden_gib * GIB)
        self.consumed = self.weights + self.activation + int(script.other_gib * GIB)
        halved = (self.text("kv-cache-dtype") or "auto").startswith("fp8")
        self.kv_per_token = script.kv_bytes_per_token / share / (2 if halved else 1)
        self.explicit_kv = self.text("kv-cache-memory-bytes")
        self.kv = (
            number(self.explicit_kv)
            if self.explicit_kv
            else self.requested - self.consumed - self.graphs
        )

    def text(self, flag: str) -> str | None:
        values = self.args.get(flag)
        return values[-1] if values else None

    def integer(self, flag: str, default: int) -> int:
        value = self.text(flag)
        return default if value is None else int(float(value))

    def weight_factor(self) -> float:
        method = self.text("quantization")
        if method is None:
            return 1.0
        return 0.57 if "8" in method else 0.35

    @property
    def page(self) -> float:
        return self.block * self.kv_per_token

    @property
    def kv_tokens(self) -> int:
        """What vLLM says the cache holds."""
        return max(int(self.kv // self.page), 0) * self.block

    @property
    def longest(self) -> int:
        """The longest context that fits: one block stays empty."""
        return max(self.kv_tokens - self.block, 0)

    def needed(self, tokens: int) -> float:
        return -(-tokens // self.block) * self.page

    def max_model_len(self, context: int) -> int:
        """Return the length served, raising what vLLM raises where it does not fit."""
        asked = self.text("max-model-len")
        if asked in ("auto", "-1"):
            if not self.longest:
                raise Raised(
                    "ValueError: Cannot auto-fit max_model_len: not enough GPU memory available to "
                    "serve even a single token."
                )
            return min(context, self.longest)
        length = number(asked) if asked else context
        if self.kv <= 0:
            raise Raised(
                "ValueError: No available memory for the cache blocks. Try increasing "
                "`gpu_memory_utilization` when initializing the engine (this flag also controls "
                "CPU memory reservation on the CPU backend, despite its name). " + CONSERVING
            )
        if length > self.longest:
            raise Raised(
                "ValueError: To serve at least one request with the model's max seq len "
                f"({length}), ({gib(self.needed(length))} GiB KV cache is needed, which is larger "
                f"than the available KV cache memory ({gib(self.kv)} GiB). Based on the available "
                f"memory, the estimated maximum model length is {self.longest}. Try increasing "
                "`gpu_memory_utilization` (which also controls CPU memory on the CPU backend) or "
                "decreasing `max_model_len` when initializing the engine. " + CONSERVING
            )
        return length

    def check_free(self) -> None:
        """Raise what vLLM raises when others hold the memory it wants."""
        if self.script.budget_gib or self.free >= self.requested:
            return
        if self.script.device == "cuda":
            raise Raised(
                f"ValueError: Free memory on device cuda:0 ({gib(self.free)}/{gib(self.total)} GiB)"
                " on startup is less than desired GPU memory utilization "
                f"({self.utilization}, {gib(self.requested)} GiB). Decrease GPU memory utilization "
                "or reduce GPU memory used by other processes."
            )
        if not self.explicit_kv:
            raise Raised(
                f"ValueError: Available memory on node 0 ({gib(self.free)}/{gib(self.total)} GiB) "
                "on startup is less than desired CPU memory utilization "
                f"({self.utilization}, {gib(self.requested)} GiB). On the CPU backend, the "
                "`--gpu-memory-utilization` flag controls the fraction of CPU memory reserved "
                "(despite its name)."
            )

    def check_kv(self) -> None:
        """Raise what the CPU worker raises when the rest leaves no room."""
        if self.script.device == "cuda" or (0 < self.kv <= self.free):
            return
        wanted = gib(self.kv) if self.explicit_kv else f"{gib(self.kv)}/{gib(self.requested)}"
        hint = (
            "Decrease --kv-cache-memory-bytes, VLLM_CPU_KVCACHE_SPACE, or reduce CPU memory used by"
            " other processes."
            if self.explicit_kv
            else "Reduce CPU memory used by other processes."
        )
        raise Raised(
            f"ValueError: Available memory on node 0 ({gib(self.free)}/{gib(self.total)} GiB) on kv"
            f" cache allocation is less than requested memory for kv ({wanted} GiB). {hint}"
        )


# --- The process tree ---------------------------------------------------------------------------


def die(card: Card, phase: str) -> None:
    """Spend the phase's delay, and end as scripted if this is the phase to end in."""
    script = card.script
    time.sleep(script.delay.get(phase, 0))
    if script.die_at == phase:
        perish(card, phase)


def perish(card: Card, phase: str) -> None:
    how = card.script.how
    if how in ("sigkill", "sigkill_engine", "segv"):
        os.kill(os.getpid(), signal.SIGSEGV if how == "segv" else signal.SIGKILL)
    if how == "exit0":
        os._exit(0)
    if how == "hang":
        threading.Event().wait()
    if how == "oom":
        raise Raised(out_of_memory(card, phase))
    raise Raised("RuntimeError: the frobnicator is gone" if how == "crash" else card.script.text)


def set_up_process(script: Script, name: str) -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(name, encoding="utf-8")
    signal.alarm(script.lifetime)
    action = signal.SIG_IGN if script.is_on("ignores_sigterm") else signal.SIG_DFL
    signal.signal(signal.SIGTERM, action)
    signal.signal(signal.SIGINT, action)


def close_all_but(*kept: int) -> None:
    """Close what a forked child inherited: the server's socket, the ends of others' pipes."""
    for fd in {int(fd.name) for fd in Path("/proc/self/fd").iterdir()} - {0, 1, 2, *kept}:
        with contextlib.suppress(OSError):
            os.close(fd)


class Worker:
    """The process that would hold the model."""

    def __init__(self, card: Card, rank: int) -> None:
        self.card = card
        self.name = f"Worker_TP{rank}" if card.workers > 1 else "Worker"

    def load(self, role: str) -> None:
        """Load and profile, printing as `role`, or raise what stops it."""
        card = self.card
        cpu = card.script.device == "cpu"
        card.check_free()
        starting = "cpu_model_runner.py:68" if cpu else "gpu_model_runner.py:5079"
        say(role, starting, f"Starting to load model {card.text('model')}...")
        if not cpu and card.weights > card.free:
            raise Raised(out_of_memory(card, "load"))
        die(card, "load")
        raw("\nLoading safetensors checkpoint shards:   0% Completed | 0/1 [00:00<?, ?it/s]\n")
        raw("\nLoading safetensors checkpoint shards: 100% Completed | 1/1 [00:00<00:00, 51.8it/s]")
        say(role, "default_loader.py:501", "Loading weights took 0.02 seconds")
        if card.offloaded:
            offloaded = gib(card.offloaded)
            say(role, "uva.py:68", f"Total CPU offloaded parameters: {offloaded}")
        if not cpu:
            took = f"{gib(card.weights)} GiB memory and 1.533688 seconds"
            say(role, "model_runner.py:424", f"Model loading took {took}")

    def profile(self, role: str) -> None:
        card = self.card
        cpu = card.script.device == "cpu"
        if cpu and not card.eager:
            say(role, "cpu_model_runner.py:87", "Warming up model for the compilation...")
        die(card, "profile")
        if cpu and not card.eager:
            say(role, "monitor.py:91", "[backbone] Initial profiling/warmup run took 0.82 s")
            say(role, "cpu_model_runner.py:91", "Warming up done.")
        elif not card.eager:
            say(role, "monitor.py:53", "[backbone] torch.compile took 17.04 s in total")
        card.check_kv()
        if not cpu:
            text = f"Available KV cache memory: {gib(card.kv)} GiB"
            say(role, "gpu_worker.py:759", text)
            return
        sizes = f"({gib(card.kv)}/{gib(card.total)}) GiB for KV cache on node 0"
        if card.explicit_kv:
            say(role, "cpu_worker.py:260", f"Explicitly set {sizes}.")
        else:
            say(
                role,
                "cpu_worker.py:260",
                f"Auto set {sizes}, with {gib(card.requested)} GiB requested memory for the "
                f"worker. {gib(card.consumed)} GiB memory was consumed by non-kv usages.",
            )

    def run(self, orders: int, answers: int) -> NoReturn:
        """Live as a process of its own until the engine is gone."""
        script = self.card.script
        set_up_process(script, f"VLLM::{self.name}")
        if script.is_on("setsid_grandchild"):
            os.setsid()
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with os.fdopen(orders) as inbox:
            for order in inbox:
                try:
                    self.obey(order.strip())
                    answer = "done"
                except Raised as error:
                    starting = order.strip() == "load"
                    headline = "WorkerProc failed to start." if starting else "hit"
                    self.complain(str(error), headline)
                    answer = str(error)
                os.write(answers, (json.dumps(answer) + "\n").encode())
        if script.is_on("setsid_grandchild"):
            threading.Event().wait()
        os._exit(0)

    def obey(self, order: str) -> None:
        if order == "load":
            self.load(self.name)
        elif order == "profile":
            self.profile(self.name)
            # From now on the worker waits for the engine to end.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        elif order == "perish":
            perish(self.card, "serving")

    def complain(self, error: str, headline: str) -> None:
        source = "multiproc_executor.py:953"
        if headline == "hit":
            headline, source = "WorkerProc hit an exception.", "multiproc_executor.py:1063"
        text = traceback(error, "v1/executor/multiproc_executor.py", "worker_main")
        say(self.name, source, f"{headline}\n{text}", "ERROR")


class Crew:
    """The engine's workers: processes reached through pipes."""

    def __init__(self, card: Card) -> None:
        self.pipes: list[tuple[int, Any]] = []
        self.pids: list[int] = []
        for rank in range(card.workers):
            order_read, order_write = os.pipe()
            answer_read, answer_write = os.pipe()
            pid = os.fork()
            if pid == 0:
                close_all_but(order_read, answer_write)
                Worker(card, rank).run(order_read, answer_write)
            os.close(order_read)
            os.close(answer_write)
            self.pids.append(pid)
            self.pipes.append((order_write, os.fdopen(answer_read)))

    def order(self, order: str) -> None:
        """Have every worker do it; raise what the first to fail raised."""
        for orders, _ in self.pipes:
            os.write(orders, (order + "\n").encode())
        for _, answers in self.pipes:
            line = answers.readline()
            if not line:
                raise Raised(
                    "Exception: WorkerProc initialization failed due to an exception in a "
                    "background process. See stack trace for root cause."
                )
            answer = json.loads(line)
            if answer == "done":
                continue
            if order == "load":
                raise Raised(
                    "Exception: WorkerProc initialization failed due to an exception in a "
                    "background process. See stack trace for root cause."
                )
            _, _, message = answer.partition(": ")
            raise Raised(
                f"RuntimeError: Worker failed with error '{message}', please check the stack trace "
                "above for the root cause"
            )

    def dead(self) -> str | None:
        """Return the exit code of a worker that died."""
        for pid in self.pids:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                return str(os.waitstatus_to_exitcode(status))
        return None


class Engine:
    """The process below the API server, which tells it through a pipe when it is ready."""

    def __init__(self, card: Card, context: int) -> None:
        self.card = card
        self.context = context
        # With one GPU the engine is its own worker; the process below only stands there.
        self.alone = card.script.device == "cuda" and card.workers == 1

    def run(self, orders: int, ready: int) -> NoReturn:
        set_up_process(self.card.script, "VLLM::EngineCor")
        try:
            crew = self.start()
        except Raised as error:
            text = traceback(str(error), "v1/engine/core.py", "run_engine_core")
            say("EngineCore", "core.py:1510", f"EngineCore failed to start.\n{text}", "ERROR")
            if not self.alone:
                # Printed after any failure, whether or not the worker had a part in it.
                self.say_worker_died(self.crew.dead() or "None")
            raw(f"Process EngineCore:\n{text}")
            os._exit(1)
        os.write(ready, (json.dumps([self.max_model_len, self.card.kv_tokens]) + "\n").encode())
        self.work(crew, orders)

    def start(self) -> Crew:
        card, script = self.card, self.card.script
        say(
            "EngineCore",
            "core.py:133",
            f"Initializing a V1 LLM engine (v{script.version}) with config: "
            f"model='{card.text('model')}', dtype=torch.bfloat16, max_seq_len={self.context}, "
            f"tensor_parallel_size={card.workers}, quantization={card.text('quantization')}, "
            f"enforce_eager={card.eager}, kv_cache_dtype={card.text('kv-cache-dtype') or 'auto'}, "
            f"device_config={script.device}",
        )
        self.crew = crew = Crew(card)
        if self.alone:
            worker = Worker(card, 0)
            worker.load("EngineCore")
            worker.profile("EngineCore")
        else:
            crew.order("load")
            crew.order("profile")
        die(card, "kv_cache")
        kind = "CPU" if script.device == "cpu" else "GPU"
        self.max_model_len = card.max_model_len(self.context)
        if card.text("max-model-len") in ("auto", "-1") and self.max_model_len < self.context:
            say(
                "EngineCore",
                "kv_cache_utils.py:2477",
                f"Auto-fit max_model_len: reduced from {self.context} to {self.max_model_len} to "
                f"fit in available KV cache memory ({gib(card.kv)} GiB {kind})",
            )
        say(
            "EngineCore",
            "kv_cache_utils.py:2327",
            f"{kind} KV cache size: {card.kv_tokens:,} tokens, Maximum concurrency for "
            f"{self.max_model_len:,} tokens per request: "
            f"{card.kv_tokens / self.max_model_len:.2f}x",
        )
        self.capture()
        die(card, "warmup")
        took = "init engine (profile, create kv cache, warmup model) took 2.21 s"
        compiled = "" if card.eager or script.device == "cpu" else " (compilation: 17.04 s)"
        say("EngineCore", "core.py:402", took + compiled)
        return crew

    def capture(self) -> None:
        """Capture the graphs, which may take more than vLLM foresaw."""
        card = self.card
        if card.script.device == "cuda" and not card.eager:
            raw("\nCapturing CUDA graphs (PIECEWISE):   0%|          | 0/51 [00:00<?, ?it/s]")
            if card.consumed + card.kv + card.graphs + card.hidden > card.free:
                raise Raised(out_of_memory(card, "graphs"))
            raw("\rCapturing CUDA graphs (PIECEWISE): 100%|██████████| 51/51 [00:02<00:00, 25it/s]")
        die(card, "graphs")
        if card.graphs:
            text = f"Graph capturing finished in 4 secs, took {card.graphs / GIB:.2f} GiB"
            say("EngineCore", "model_runner.py:1127", text)

    def work(self, crew: Crew, orders: int) -> NoReturn:
        """Wait for orders and watch the workers; the API server's death goes unnoticed."""
        os.set_blocking(orders, False)
        told = threading.Event()
        if not self.card.script.is_on("ignores_sigterm"):
            signal.signal(signal.SIGTERM, lambda *_: told.set())
        while True:
            time.sleep(0.02)
            if told.is_set():
                self.leave()
            code = crew.dead()
            if code is not None:
                self.say_worker_died(code)
                self.fail("RuntimeError: cancelled")
            try:
                order = os.read(orders, 100)
            except BlockingIOError:
                continue
            if order:
                self.perish(crew)

    def perish(self, crew: Crew) -> None:
        how = self.card.script.how
        try:
            if self.alone or how in ("sigkill_engine", "exit0"):
                perish(self.card, "serving")
            else:
                crew.order("perish")
        except Raised as error:
            if how not in ("sigkill", "segv") or self.alone:
                self.fail(str(error))

    def leave(self) -> NoReturn:
        """Say what a stopped engine says; the API server does not wait for the end of it."""
        say_lines("EngineCore", LEAVING)
        time.sleep(1)
        os._exit(0)

    def say_worker_died(self, code: str) -> None:
        text = f"Worker proc VllmWorker-0 died unexpectedly (exit code: {code}), "
        source = "multiproc_executor.py:315"
        say("EngineCore", source, text + "shutting down executor.", "ERROR")

    def fail(self, error: str) -> NoReturn:
        say("EngineCore", "dump_input.py:72", "Dumping input data for V1 LLM engine", "ERROR")
        text = traceback(error, "v1/engine/core.py", "run_busy_loop")
        say("EngineCore", "core.py:1512", f"EngineCore encountered a fatal error.\n{text}", "ERROR")
        os._exit(1)


class EngineProcess:
    """The API server's view of its engine."""

    def __init__(self, card: Card, context: int) -> None:
        order_read, self.orders = os.pipe()
        self.ready, ready_write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            close_all_but(order_read, ready_write)
            Engine(card, context).run(order_read, ready_write)
        os.close(order_read)
        os.close(ready_write)
        self.exit_code: int | None = None
        self.lock = threading.Lock()

    def wait_ready(self) -> tuple[int, int] | None:
        """Return the length and the KV tokens it serves, None if it died."""
        with os.fdopen(self.ready) as pipe:
            line = pipe.readline()
        if not line:
            self.wait()
            return None
        max_model_len, kv_tokens = json.loads(line)
        return max_model_len, kv_tokens

    def wait(self) -> int:
        with self.lock:
            if self.exit_code is None:
                _, status = os.waitpid(self.pid, 0)
                self.exit_code = os.waitstatus_to_exitcode(status)
            return self.exit_code

    def perish(self) -> None:
        with contextlib.suppress(OSError):
            os.write(self.orders, b"perish\n")

    def kill(self) -> None:
        """Kill the engine; its workers see the end of their pipes and follow."""
        if self.exit_code is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self.wait()


# --- The API server -----------------------------------------------------------------------------


class Scheduler:
    """Who runs, who waits, what was counted."""

    def __init__(self, script: Script, card: Card, max_model_len: int, kv_tokens: int) -> None:
        self.script = script
        self.max_model_len = max_model_len
        self.kv_tokens = kv_tokens
        self.max_num_seqs = card.integer("max-num-seqs", 128)
        self.changed = threading.Condition()
        self.dead = threading.Event()
        self.used = self.running = self.waiting = self.requests = 0
        self.reset_counters()

    def reset_counters(self) -> None:
        self.prompt_tokens = self.generation_tokens = self.preemptions = self.successes = 0

    @contextlib.contextmanager
    def admitted(self, tokens: int) -> Iterator[None]:
        """Hold a request's place and its share of the cache."""
        tokens = min(tokens, self.kv_tokens)
        with self.changed:
            self.waiting += 1
            try:
                while self.used + tokens > self.kv_tokens or self.running >= self.max_num_seqs:
                    self.changed.wait(0.05)
                    if self.dead.is_set():
                        raise EngineDead
            finally:
                self.waiting -= 1
            self.used += tokens
            self.running += 1
        try:
            yield
        finally:
            with self.changed:
                self.used -= tokens
                self.running -= 1
                self.changed.notify_all()

    def pause(self, seconds: float | None) -> None:
        """Spend time as the engine would, or for ever; raise if it dies meanwhile."""
        if self.dead.wait(seconds):
            raise EngineDead

    def tokens(self, prompt: int, wanted: int) -> Iterator[str]:
        """Yield the tokens of one request as they come."""
        script = self.script
        full = prompt + wanted >= self.max_model_len
        if script.is_on("hang_full_length") and full:
            with self.changed:
                self.waiting += 1
            self.pause(None)
        with self.admitted(prompt + wanted):
            if script.is_on("hang"):
                self.pause(None)
            self.pause(prompt / script.prefill_tokens_per_second)
            self.count(prompt, 0)
            for _ in range(wanted):
                self.pause(self.seconds_per_token(wanted))
                self.count(0, 1)
                yield " tok"
        self.successes += 1

    def seconds_per_token(self, wanted: int) -> float:
        if self.script.is_on("slow"):
            return self.script.seconds / wanted
        factor = self.running**2 if self.script.is_on("collapse") else 1
        return factor / self.script.decode_tokens_per_second

    def count(self, prompt: int, generated: int) -> None:
        if not self.script.is_on("metrics_frozen"):
            with self.changed:
                self.prompt_tokens += prompt
                self.generation_tokens += generated

    def metrics(self, model: str, utilization: float, block: int) -> str:
        label = f'{{engine="0",model_name="{model}"}}'
        config = (
            f'{{block_size="{block}",cache_dtype="auto",enable_prefix_caching="True",engine="0",'
            f'gpu_memory_utilization="{utilization}",'
            f'kv_cache_max_concurrency="{self.kv_tokens / self.max_model_len}",'
            f'kv_cache_size_tokens="{self.kv_tokens}",num_gpu_blocks="{self.kv_tokens // block}"}}'
        )
        rows: list[tuple[str, str, str, float]] = [
            ("vllm:num_requests_running", "gauge", label, self.running),
            ("vllm:num_requests_waiting", "gauge", label, self.waiting),
            ("vllm:kv_cache_usage_perc", "gauge", label, self.used / max(self.kv_tokens, 1)),
            ("vllm:num_preemptions_total", "counter", label, self.preemptions),
            ("vllm:prompt_tokens_total", "counter", label, self.prompt_tokens),
            ("vllm:generation_tokens_total", "counter", label, self.generation_tokens),
            ("vllm:cache_config_info", "gauge", config, 1),
        ]
        lines = [
            f"# HELP {name} As vLLM.\n# TYPE {name} {kind}\n{name}{labels} {float(value)}\n"
            for name, kind, labels, value in rows
        ]
        finished = f'{{engine="0",finished_reason="length",model_name="{model}"}}'
        lines.append(
            "# HELP vllm:request_success_total As vLLM.\n# TYPE vllm:request_success_total counter"
            f"\nvllm:request_success_total{finished} {float(self.successes)}\n"
        )
        text = "".join(lines)
        if self.script.is_on("metrics_renamed"):
            for old, new in self.script.rename.items():
                text = text.replace(old, new)
        return text


def count_tokens(body: dict[str, Any], chat: bool) -> int:
    """Count the prompt: token ids exactly, text by its words."""
    if chat:
        messages = body.get("messages", [])
        return 8 + sum(8 + len(str(message.get("content", "")).split()) for message in messages)
    prompt = body.get("prompt", "")
    return len(prompt) if isinstance(prompt, list) else max(len(prompt.split()), 1)


class Api:
    """The API server: everything the request handlers share."""

    def __init__(self, script: Script, card: Card, args: dict[str, list[str]]) -> None:
        self.script = script
        self.card = card
        self.names = args.get("served-model-name") or args.get("model") or ["fake"]
        self.models = ["somebody/else"] if script.is_on("stranger") else self.names
        self.api_key = card.text("api-key")
        self.address = (card.text("host") or "127.0.0.1", card.integer("port", 8000))
        self.stop = threading.Event()
        self.stopping = False
        self.creep: list[bytes] = []
        self.context = script.context
        self.vocab_size = script.vocab_size
        self.read_model(Path(card.text("model") or "."))

    def read_model(self, folder: Path) -> None:
        """Take the context and the vocabulary from the model, where there is one."""
        with contextlib.suppress(OSError, ValueError):
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            self.context = config.get("max_position_embeddings", self.context)
            self.vocab_size = config.get("vocab_size", self.vocab_size)

    def run(self) -> int:
        """Start everything, serve until told to stop, and return the exit code."""
        script = self.script
        if script.die_at == "spawn":
            if script.how in ("hang", "sigkill", "exit0"):
                perish(self.card, "spawn")
            raw(script.text if script.how == "text" else NO_MODULE)
            return 1
        signal.alarm(script.lifetime)
        stop = signal.SIG_IGN if script.is_on("ignores_sigterm") else lambda *_: self.stop.set()
        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        self.greet()
        try:
            die(self.card, "config")
            self.check_length()
            server = Server(self)
        except Raised as error:
            raw(traceback(str(error), "entrypoints/openai/api_server.py", "main"))
            return 1
        self.engine = EngineProcess(self.card, self.context)
        threading.Thread(target=self.serve, args=(server,), daemon=True).start()
        self.stop.wait()
        return self.end(server)

    def greet(self) -> None:
        banner = BANNER.format(version=self.script.version, model=self.names[0])
        say("APIServer", "api_utils.py:347", banner.rstrip("\n"))
        say("APIServer", "model.py:733", "Resolved architecture: Qwen2ForCausalLM")

    def check_length(self) -> None:
        asked = self.card.text("max-model-len")
        length = self.context if asked in (None, "auto", "-1") else number(str(asked))
        if length > self.context:
            raise Raised(
                "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig\n"
                f"  Value error, User-specified max_model_len ({length}) is greater than the "
                f"derived max_model_len (max_position_embeddings={self.context} or "
                "model_max_length=None in model's config.json). To allow overriding this maximum, "
                "set the env var VLLM_ALLOW_LONG_MAX_MODEL_LEN=1."
            )
        say("APIServer", "model.py:2152", f"Using max model len {length}")

    def serve(self, server: "Server") -> None:
        """Wait for the engine, listen, then watch over the engine."""
        ready = self.engine.wait_ready()
        if ready is None:
            self.stop.set()
            return
        self.scheduler = Scheduler(self.script, self.card, *ready)
        if self.script.is_on("flood"):
            line = "(EngineCore pid=1) WARNING 11-20 09:37:34 [vllm.py:1703] " + 960 * "x"
            for _ in range(self.script.flood_mib):
                raw("\n".join([line] * 1024))
        if self.script.is_on("never_ready"):
            return
        host, port = self.address
        say("APIServer", "entry.py:140", f"Starting vLLM server on http://{host}:{port}")
        server.server_activate()
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        raw(f"INFO:     Started server process [{os.getpid()}]")
        raw("INFO:     Waiting for application startup.\nINFO:     Application startup complete.")
        self.watch()

    def watch(self) -> None:
        """Act on the death of the engine as vLLM does: fail what runs, then leave with 0."""
        while True:
            engine = self.engine
            engine.wait()
            if self.stopping:
                return
            if engine is self.engine:
                break
        source = "core_client.py:817"
        text = "[shutdown] MPClient: engine core exited unexpectedly; starting cleanup"
        say("APIServer", source, text, "WARNING")
        say_engine_dead()
        self.scheduler.dead.set()
        if not self.script.is_on("health_lies"):
            time.sleep(0.2)
            self.stop.set()

    def replace_engine(self) -> None:
        """Let a new engine take over, its counters at zero."""
        old, self.engine = self.engine, EngineProcess(self.card, self.context)
        self.engine.wait_ready()
        old.kill()
        self.scheduler.reset_counters()

    def end(self, server: "Server") -> int:
        """Stop what still runs and say so; return the exit code."""
        failed = self.engine.exit_code is not None
        if failed and not hasattr(self, "scheduler"):
            text = (
                "RuntimeError: Engine core initialization failed. See root cause above. Failed core"
                f" proc(s): {{'EngineCore': {self.engine.exit_code}}}"
            )
            raw(traceback(text, "v1/engine/utils.py", "wait_for_engine_startup"))
            return 1
        self.stopping = True
        if not failed:
            say_lines("APIServer", STOPPING)
            self.engine.kill()
            # vLLM 0.32 says so at the most ordinary stop.
            say_engine_dead()
            say_lines("APIServer", STOPPED)
        server.server_close()
        raw(GOODBYE)
        return 0


class Server(http.server.ThreadingHTTPServer):
    """Bound before the engine starts and listening only after, like vLLM's."""

    daemon_threads = True
    request_queue_size = 512
    block_on_close = False

    def __init__(self, api: Api) -> None:
        self.api = api
        super().__init__(api.address, Handler, bind_and_activate=False)
        try:
            self.server_bind()
        except OSError as error:
            raise Raised(f"OSError: [Errno {error.errno}] {error.strerror}") from error

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Stay silent: clients that leave are no news."""


class Refusal(Exception):
    """An HTTP error in the shape of vLLM's."""

    def __init__(self, status: int, kind: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": status}}


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: Server
    disable_nagle_algorithm = True

    @property
    def api(self) -> Api:
        return self.server.api

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        if "disable-uvicorn-access-log" in self.api.card.args:
            return
        phrase = http.HTTPStatus(int(code)).phrase
        host, port = self.client_address
        raw(f'INFO:     {host}:{port} - "{self.requestline}" {int(code)} {phrase}')

    def reply(self, status: int, body: object = None, kind: str = "application/json") -> None:
        content = b"" if body is None else str(body).encode()
        if isinstance(body, dict | list):
            content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        script = self.api.script
        path = self.path.partition("?")[0]
        if script.is_on("hang_all"):
            self.api.stop.wait()
        if path == "/health":
            lies = script.is_on("health_lies")
            self.reply(503 if self.api.scheduler.dead.is_set() and not lies else 200)
        elif path == "/v1/models":
            self.answer(self.models)
        elif path == "/metrics" and not script.is_on("metrics_missing"):
            card = self.api.card
            names = self.api.models
            text = self.api.scheduler.metrics(names[0], card.utilization, card.block)
            self.reply(200, text, "text/plain; version=1.0.0; charset=utf-8")
        elif path == "/version":
            self.reply(200, {"version": script.version})
        else:
            self.reply(404, {"detail": "Not Found"})

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.partition("?")[0]
        if path not in ("/v1/completions", "/v1/chat/completions"):
            self.reply(404, {"detail": "Not Found"})
            return
        chat = path.endswith("chat/completions")
        self.answer(lambda: self.complete(json.loads(content), chat))

    def answer(self, work: Any) -> None:
        try:
            if self.api.api_key and self.headers.get("Authorization") != (
                f"Bearer {self.api.api_key}"
            ):
                self.reply(401, {"error": "Unauthorized"})
                return
            work()
        except Refusal as refusal:
            self.reply(refusal.status, refusal.body)
        except EngineDead:
            self.reply(500, Refusal(500, "InternalServerError", ENGINE_DEAD).body)

    def models(self) -> None:
        length = self.api.scheduler.max_model_len
        if self.api.script.is_on("wrong_model_len"):
            length //= 2
        cards = [
            {
                "id": name,
                "object": "model",
                "created": int(time.time()),
                "owned_by": "vllm",
                "root": self.api.card.text("model"),
                "parent": None,
                "max_model_len": length,
            }
            for name in self.api.models
        ]
        self.reply(200, {"object": "list", "data": cards})

    def complete(self, body: dict[str, Any], chat: bool) -> None:
        script, scheduler = self.api.script, self.api.scheduler
        if script.is_on("hang_all"):
            self.api.stop.wait()
        prompt = self.accepted_prompt(body, chat)
        with scheduler.changed:
            scheduler.requests += 1
            request = scheduler.requests
        self.misbehave(request, prompt)
        room = max(scheduler.max_model_len - prompt, 1)
        asked = body.get("max_completion_tokens") or body.get("max_tokens")
        wanted = min(asked or (32 if chat else 16), room)
        tokens = scheduler.tokens(prompt, self.delivered(wanted))
        if body.get("stream"):
            self.stream(body, chat, prompt, tokens)
            return
        texts = list(tokens)
        if script.is_on("garbage"):
            self.reply(200, "<html>gateway</html>")
            return
        text = "" if script.is_on("empty_text") else "".join(texts)
        choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": "length"}
        choice |= {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        document = self.envelope(body, chat, chunk=False)
        usage = self.usage(prompt, len(texts))
        self.reply(200, {**document, "choices": [choice], "usage": usage})

    def accepted_prompt(self, body: dict[str, Any], chat: bool) -> int:
        """Return the length of the prompt, or refuse the request as vLLM would."""
        script, length = self.api.script, self.api.scheduler.max_model_len
        model = body.get("model")
        if model is not None and model not in self.api.models:
            aliases = ", ".join(self.api.models)
            message = f"The model `{model}` does not exist. Valid aliases: {aliases}."
            raise Refusal(404, "NotFoundError", message, "model")
        ids = body.get("prompt")
        if isinstance(ids, list):
            too_high = [n for n in ids if isinstance(n, int) and n >= self.api.vocab_size]
            if too_high:
                message = f"Token id {too_high[0]} is out of vocabulary"
                raise Refusal(400, "BadRequestError", message)
        prompt = count_tokens(body, chat)
        full = prompt + (body.get("max_tokens") or 16) >= length
        over = prompt >= length and not script.is_on("accepts_over_long")
        if over or (script.is_on("rejects_full_length") and full):
            message = (
                f"This model's maximum context length is {length} tokens. However, your prompt "
                f"contains {prompt} input tokens, which exceeds this limit even without any output "
                "tokens. Please reduce the length of the input prompt. "
                f"(parameter=input_tokens, value={prompt})"
            )
            raise Refusal(400, "BadRequestError", message, "input_tokens")
        return prompt

    def misbehave(self, request: int, prompt: int) -> None:
        """Do what the script wants done before a request runs."""
        api, script, scheduler = self.api, self.api.script, self.api.scheduler
        dying = script.die_at == "serving" or script.is_on("health_lies")
        if dying and request >= script.after:
            api.engine.perish()
            scheduler.pause(10)
        if script.is_on("reset") and request % script.every == 0:
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.close()
            raise ConnectionResetError
        if script.is_on("rate_limit") and scheduler.running >= script.limit:
            raise Refusal(429, "TooManyRequestsError", "Too many requests in the queue")
        long_tokens = script.long_tokens or scheduler.max_model_len // 2
        if script.is_on("error_500_long") and prompt > long_tokens:
            raise Refusal(500, "InternalServerError", "Internal server error")
        if script.is_on("oom_line"):
            say("EngineCore", "core.py:700", out_of_memory(api.card, "serving"), "ERROR")
        if script.is_on("preemption_storm"):
            scheduler.preemptions += 50
        if script.is_on("memory_creep"):
            api.creep.append(b"\1" * (script.creep_mib * 2**20))
        if script.is_on("engine_restart") and request == script.after:
            api.replace_engine()

    def delivered(self, wanted: int) -> int:
        script = self.api.script
        if script.is_on("zero_tokens"):
            return 0
        return wanted // 2 if script.is_on("too_few_tokens") else wanted

    def usage(self, prompt: int, generated: int) -> dict[str, int]:
        if self.api.script.is_on("wrong_usage"):
            prompt += 7
        return {
            "prompt_tokens": prompt,
            "total_tokens": prompt + generated,
            "completion_tokens": generated,
        }

    def envelope(self, body: dict[str, Any], chat: bool, chunk: bool) -> dict[str, Any]:
        kind = "chat.completion" if chat else "text_completion"
        return {
            "id": ("chatcmpl-" if chat else "cmpl-") + os.urandom(8).hex(),
            "object": kind + (".chunk" if chat and chunk else ""),
            "created": int(time.time()),
            "model": body.get("model") or self.api.models[0],
        }

    def stream(self, body: dict[str, Any], chat: bool, prompt: int, tokens: Iterator[str]) -> None:
        script = self.api.script
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        document = self.envelope(body, chat, chunk=True)
        if chat:
            delta = {"role": "assistant", "content": ""}
            first = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
            self.event({**document, "choices": [first]})
        asked = body.get("max_completion_tokens") or body.get("max_tokens") or 16
        count = 0
        try:
            for text in tokens:
                count += 1
                if script.is_on("stream_cut") and count > asked // 2:
                    self.close_connection = True
                    return
                last = count == asked
                shown = "" if script.is_on("empty_text") else text
                piece = {"delta": {"content": shown}} if chat else {"text": shown}
                end = {"index": 0, "logprobs": None, "finish_reason": "length" if last else None}
                self.event({**document, "choices": [{**end, **piece}]})
        except OSError:
            if script.is_on("leak_blocks"):
                self.api.scheduler.used += prompt
            raise
        except EngineDead:
            self.event(Refusal(500, "InternalServerError", ENGINE_DEAD).body)
        else:
            wants_usage = (body.get("stream_options") or {}).get("include_usage")
            if wants_usage and not script.is_on("stream_no_usage"):
                self.event({**document, "choices": [], "usage": self.usage(prompt, count)})
        if not script.is_on("stream_no_done"):
            self.chunk("data: [DONE]\n\n")
        self.chunk("")

    def event(self, document: dict[str, Any]) -> None:
        self.chunk(f"data: {json.dumps(document)}\n\n")

    def chunk(self, text: str) -> None:
        content = text.encode()
        self.wfile.write(f"{len(content):x}\r\n".encode() + content + b"\r\n")


def main() -> int:
    script = read_script(sys.argv[1:])
    args = parse(sys.argv[1:])
    for flag in script.unknown_flags:
        if flag in args:
            words = " ".join([f"--{flag}", *args[flag]])
            raw(f"usage: api_server.py [-h] [--model MODEL]\napi_server.py: error: unrecognized "
                f"arguments: {words}")  # fmt: skip
            return 2
    return Api(script, Card(script, args), args).run()


if __name__ == "__main__":
    code = main()
    # Requests that hang must not hold up the end.
    os._exit(code)
