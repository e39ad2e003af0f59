"""What vLLM prints, in its own words."""

import contextlib
import os
import sys
import time

GIB = 2**30
NO_MODULE = (
    f"{sys.executable}: Error while finding module specification for "
    "'vllm.entrypoints.openai.api_server' (ModuleNotFoundError: No module named 'vllm')"
)
ENGINE_DEAD = "EngineCore encountered an issue. See stack trace (above) for the root cause."
CONSERVING = "See https://docs.vllm.ai/en/latest/configuration/conserving_memory/ for more details."


def gib(size: float) -> str:
    return str(round(size / GIB, 2))


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
