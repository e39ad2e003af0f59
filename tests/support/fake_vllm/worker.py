"""The processes that would hold the model."""

import contextlib
import json
import mmap
import os
import secrets
import signal
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

from .card import Card, Raised, out_of_memory
from .script import Script
from .words import gib, raw, say, traceback

# Its last frames, by the sources of vLLM 0.32.
OVER_IMAGES = """\
  File "/site-packages/vllm/v1/worker/gpu_model_runner.py", line 6181, in profile_run
    dummy_encoder_outputs = self.model.embed_multimodal(
  File "/site-packages/vllm/model_executor/models/idefics3.py", line 625, in _process_image_input
    image_features = self._process_image_pixels(image_input)
torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 9.00 GiB. GPU 0 has a total capacity \
of 23.50 GiB of which 5.21 GiB is free."""


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


def make_segment() -> mmap.mmap:
    """Make shared memory as Python's multiprocessing does, without its tracker."""
    path = Path(f"/dev/shm/psm_{os.environ.get('FAULT_CELL', '')}{secrets.token_hex(4)}")
    with path.open("w+b") as file:
        file.truncate(4096)
        return mmap.mmap(file.fileno(), 4096)


class Worker:
    """The process that would hold the model."""

    def __init__(self, card: Card, rank: int) -> None:
        self.card = card
        self.name = f"Worker_TP{rank}" if card.workers > 1 else "Worker"

    def load(self, role: str) -> None:
        """Load and profile, printing as `role`, or raise what stops it."""
        card = self.card
        cpu = card.script.device == "cpu"
        starting = "cpu_model_runner.py:68" if cpu else "gpu_model_runner.py:5079"
        say(role, starting, f"Starting to load model {card.text('model')}...")
        if not cpu and card.weights > card.total:
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
        self.try_media(role)
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

    def try_media(self, role: str) -> None:
        """Look at the largest image or video, as far as the scripted memory allows."""
        script, args = self.card.script, self.card.args
        if script.media_limit is None or "language-model-only" in args:
            return
        limits = json.loads(self.card.text("limit-mm-per-prompt") or "{}")
        told = json.loads(self.card.text("mm-processor-kwargs") or "{}")
        # Of Idefics 3: the edge of its largest image, of which a tile has 112.
        tiles = (told.get("size", {"longest_edge": 448})["longest_edge"] // 112) ** 2
        media = {"image": script.image_tokens * tiles // 16, "video": script.video_tokens}
        modality = max(media, key=lambda name: media[name] * bool(limits.get(name, 999)))
        batch = self.card.integer("max-num-batched-tokens", 2048)
        budget = max(batch, media[modality])
        say(
            role,
            "gpu_model_runner.py:6165",
            f"Encoder cache will be initialized with a budget of {budget} tokens, and profiled "
            f"with {budget // media[modality]} {modality} items of the maximum feature size.",
        )
        if budget > script.media_limit:
            raise Raised(OVER_IMAGES)

    def run(self, orders: int, answers: int) -> NoReturn:
        """Live as a process of its own until the engine is gone."""
        script = self.card.script
        set_up_process(script, f"VLLM::{self.name}")
        if script.is_on("setsid_grandchild"):
            os.setsid()
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if script.is_on("shared_memory"):
            self.segment = make_segment()
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
