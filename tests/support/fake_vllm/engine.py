"""The process below the API server, with the workers below it."""

import contextlib
import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import NoReturn

from .card import Card, Raised
from .words import GIB, LEAVING, gib, raw, say, say_lines, traceback
from .worker import Crew, Worker, close_all_but, die, perish, set_up_process


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
        if script.beyond_gib is not None:
            held = Path(os.environ["FAKE_NVML"], f"0-{os.getpid()}")
            held.write_text(str(card.requested + int(script.beyond_gib * GIB)))
        die(card, "warmup")
        took = "init engine (profile, create kv cache, warmup model) took 2.21 s"
        compiled = "" if card.eager or script.device == "cpu" else " (compilation: 17.04 s)"
        say("EngineCore", "core.py:402", took + compiled)
        return crew

    def capture(self) -> None:
        card = self.card
        if card.script.device == "cuda" and not card.eager:
            raw("\nCapturing CUDA graphs (PIECEWISE):   0%|          | 0/51 [00:00<?, ?it/s]")
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
