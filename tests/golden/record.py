"""Record what a real vLLM on a CPU prints when it starts, and when it fails.

    python -m tests.golden.record PYTHON [CASE ...]

PYTHON is an interpreter with vLLM in it. Makes a tiny model with random weights, provokes every
case and writes `tests/golden/<version>-cpu/<case>.log`, without paths and names of this machine.
The verdicts beside the logs are written by hand.
"""

import argparse
import os
import re
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from tests.golden.cases import CASES, CGROUP, Case, Server
from tests.support.paths import GOLDEN

PATIENCE = 200.0  # seconds until the line to act on, or the end
TO_END = 60.0  # seconds from the act to the end

MAKE_MODEL = """
import json, sys, pathlib
from tokenizers import Tokenizer, models, pre_tokenizers, decoders, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
import torch
path = pathlib.Path(sys.argv[1])
tokenizer = Tokenizer(models.BPE(unk_token=None))
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer.decoder = decoders.ByteLevel()
tokenizer.train_from_iterator(["the quick brown fox jumps over the lazy dog " * 9],
    trainers.BpeTrainer(vocab_size=400, special_tokens=["<|endoftext|>"],
                        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>",
                               pad_token="<|endoftext|>")
fast.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\\n{% endfor %}"
fast.save_pretrained(path)
torch.manual_seed(0)
config = Qwen2Config(vocab_size=512, hidden_size=256, intermediate_size=256, num_hidden_layers=4,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=32768,
    bos_token_id=0, eos_token_id=0, tie_word_embeddings=False)
Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(path)
"""


@contextmanager
def hub_that_answers(status: int, code: str) -> Iterator[str]:
    """Serve a Hub that answers everything with one error; yield its address."""

    def answer(self: BaseHTTPRequestHandler) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    say_nothing: dict[str, Any] = {"log_message": lambda *_: None}
    methods = dict.fromkeys(("do_GET", "do_HEAD", "do_POST"), answer)
    refusal = type("Refusal", (BaseHTTPRequestHandler,), methods | say_nothing)
    with ThreadingHTTPServer(("127.0.0.1", 0), refusal) as hub:
        Thread(target=hub.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{hub.server_port}"
        hub.shutdown()


def make_models(python: str, root: Path) -> None:
    """Make the tiny model and its broken siblings."""
    tiny = root / "tiny"
    subprocess.run([python, "-c", MAKE_MODEL, str(tiny)], check=True, capture_output=True)
    config = (tiny / "config.json").read_text()
    architecture = '"Qwen2ForCausalLM"'
    variants = {
        "no-weights": config,
        "awq": config.replace(
            "{", '{"quantization_config": {"quant_method": "awq", "bits": 4, '
            '"group_size": 32, "zero_point": true},', 1,
        ),
        "small-heads": config.replace('"hidden_size": 256', '"hidden_size": 64'),
        "unknown-architecture": config.replace(architecture, '"NobodyForCausalLM"'),
        "removed-architecture": config.replace(architecture, '"MotifForCausalLM"'),
        "plugin-architecture": config.replace(architecture, '"BartForConditionalGeneration"'),
        "broken-architecture": config.replace(architecture, '"Terratorch"'),
        "looped": config.replace(architecture, '"IQuestLoopCoderForCausalLM"'),
        "unknown-type": config.replace('"qwen2"', '"nobody"'),
        "remote-code": config.replace('"qwen2"', '"nobody"').replace(
            "{", '{"auto_map": {"AutoConfig": "configuration_nobody.NobodyConfig"},', 1
        ),
    }  # fmt: skip
    for name, text in variants.items():
        sibling = root / name
        sibling.mkdir()
        for file in tiny.iterdir():
            if file.name != "config.json" and not (
                name == "no-weights" and file.suffix == ".safetensors"
            ):
                (sibling / file.name).symlink_to(file)
        (sibling / "config.json").write_text(text)
    (root / "no-config").mkdir()
    (root / "remote-code" / "configuration_nobody.py").write_text("class NobodyConfig: pass\n")


def record(python: str, models: Path, case: Case) -> tuple[str, int | None]:
    """Run one case; return its log and the API server's exit code, None if it stayed."""
    with ExitStack() as stack:
        port_holder = stack.enter_context(socket.socket())
        port_holder.bind(("127.0.0.1", 0))
        port = port_holder.getsockname()[1]
        if case.occupied:
            port_holder.listen()
        else:
            port_holder.close()
        somebody = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        taken = somebody.getsockname()[1]
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        log = scratch / "log"
        model = case.model if "/" in case.model else str(models / case.model)
        words = [
            *("nice", "-n", "19", *case.wrap, python, "-m", "vllm.entrypoints.openai.api_server"),
            *("--model", model, "--served-model-name", "m"),
            *("--host", "127.0.0.1", "--port", str(port)),
            *(str(taken) if arg == "{taken}" else arg for arg in case.args),
        ]
        if case.small:
            words += ["--kv-cache-memory-bytes", "64M"]
            if "--max-model-len" not in case.args:
                words += ["--max-model-len", "30016"]
        if case.eager:
            words.append("--enforce-eager")
        environment = {**os.environ, "VLLM_DO_NOT_TRACK": "1", "TMPDIR": str(scratch), **case.env}
        if case.hub:
            environment["HF_ENDPOINT"] = stack.enter_context(hub_that_answers(*case.hub))
            environment["HF_HOME"] = str(scratch / "hub")
        with log.open("wb") as out:
            process = subprocess.Popen(
                words, stdout=out, stderr=subprocess.STDOUT, env=environment, start_new_session=True
            )
        try:
            code = _watch(Server(process, port), log, case)
        finally:
            _kill_group(process)
        return scrubbed(log.read_text(errors="replace"), python, models, scratch), code


def _watch(server: Server, log: Path, case: Case) -> int | None:
    deadline, acted = time.monotonic() + PATIENCE, False
    while time.monotonic() < deadline:
        code = server.process.poll()
        if code is not None:
            return code
        if not acted and case.when in log.read_text(errors="replace"):
            acted, deadline = True, time.monotonic() + TO_END
            (case.act or Server.stop)(server)
        time.sleep(0.5)
    return None


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    time.sleep(1)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def scrubbed(text: str, python: str, models: Path, scratch: Path) -> str:
    """Return the log without paths, names and addresses of the machine it was recorded on."""
    venv = Path(python).parent.parent
    text = text.replace(str(models), "/models").replace(str(scratch), "/tmp")
    text = re.sub(
        rf"{re.escape(str(venv))}/lib\w*/python[\d.]+/site-packages", "/site-packages", text
    )
    text = re.sub(r"/[\w./-]+/lib/(python3\.\d+)/(?!site-packages)", r"/usr/lib/\1/", text)
    text = re.sub(r"/[\w./-]+/bin/python3", "/usr/bin/python3", text)
    text = text.replace(str(venv), "/venv").replace(str(Path.home()), "/home/user")
    text = re.sub(rf"\b{re.escape(socket.gethostname())}\b", "host", text)
    return re.sub(r"\b(?!127\.0\.0\.1\b|0\.0\.0\.0\b)(?:\d{1,3}\.){3}\d{1,3}\b", "10.0.0.1", text)


def version_of(python: str) -> str:
    """Ask the interpreter for its vLLM's version, without importing vLLM."""
    code = (
        "import importlib.util, pathlib, runpy;"
        "p = pathlib.Path(importlib.util.find_spec('vllm').origin).with_name('_version.py');"
        "print(runpy.run_path(str(p))['__version__'].partition('+')[0])"
    )
    done = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def main() -> None:
    """Record the cases named on the command line, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("python")
    parser.add_argument("case", nargs="*", choices=[[], *CASES])
    asked = parser.parse_args()
    folder = GOLDEN / f"{version_of(asked.python)}-cpu"
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as root:
        make_models(asked.python, Path(root))
        for name in asked.case or CASES:
            text, code = record(asked.python, Path(root), CASES[name])
            (folder / f"{name}.log").write_text(text)
            print(f"{name}: exit code {code}, {len(text.splitlines())} lines", flush=True)
    with suppress(OSError):
        CGROUP.rmdir()


if __name__ == "__main__":
    main()
