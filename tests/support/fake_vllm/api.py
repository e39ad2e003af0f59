"""The API server: everything the request handlers share."""

import contextlib
import http.server
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

from .card import Card, Raised
from .engine import EngineProcess
from .handler import Handler
from .scheduler import Scheduler
from .script import Script, number, parse, read_script
from .words import (
    BANNER,
    GOODBYE,
    NO_MODULE,
    STOPPED,
    STOPPING,
    raw,
    say,
    say_engine_dead,
    say_lines,
    traceback,
)
from .worker import die, perish


class Api:
    """The API server: everything the request handlers share."""

    def __init__(self, script: Script, card: Card, args: dict[str, list[str]]) -> None:
        self.script = script
        self.card = card
        self.names = args.get("served-model-name") or args.get("model") or ["fake"]
        self.models = ["somebody/else"] if script.is_on("stranger") else self.names
        self.adapters = [word.partition("=")[0] for word in args.get("lora-modules", [])]
        self.api_key = card.text("api-key")
        self.address = (card.text("host") or "127.0.0.1", card.integer("port", 8000))
        self.stop = threading.Event()
        self.stopping = False
        self.creep: list[bytes] = []
        self.prompts: dict[tuple[int, ...], int] = {}  # the longest of each beginning
        self.context = script.context
        self.vocab_size = script.vocab_size
        self.read_model(Path(card.text("model") or "."))

    def read_model(self, folder: Path) -> None:
        """Take the context and the vocabulary from the model, where there is one."""
        with contextlib.suppress(OSError, ValueError):
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            config = config.get("text_config", config)
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
        if script.is_on("prints_environment"):
            raw(f"non-default args: {sys.argv[1:]} {dict(os.environ)}")
        if script.is_on("stray_child"):
            leave_a_child()
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
            time.sleep(1)  # requests that run are answered with an error first
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
            time.sleep(self.script.linger)
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


def leave_a_child() -> None:
    """Fork twice, so that nobody knows the child, and let it keep everything open."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            threading.Event().wait()
        os._exit(0)
    os.wait()


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


def main() -> NoReturn:
    code = run()
    # Requests that hang must not hold up the end.
    os._exit(code)


def run() -> int:
    script = read_script(sys.argv[1:])
    args = parse(sys.argv[1:])
    minor = int(script.version.split(".")[1])
    if "swap-space" in args and minor >= 18:  # a flag that this version does not have
        words = " ".join(["--swap-space", *args["swap-space"]])
        raw("usage: api_server.py [-h] [--model MODEL]")
        raw(f"api_server.py: error: unrecognized arguments: {words}")
        return 2
    return Api(script, Card(script, args), args).run()
