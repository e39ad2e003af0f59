"""Logs of others, with whatever is around their lines, and whatever is in one file with them."""

import json
import time
import tracemalloc
from functools import cache
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support.envelopes import ENVELOPES
from tests.support.golden import ALL, PUBLIC, RECORDED, diagnosed, errors, essence, truths
from tests.support.pace import SOON
from vllm_autotune.diagnose import FileReader
from vllm_autotune.diagnose.envelope import Envelope

READY = [log for log in RECORDED if log.stem.startswith("ready")]
NOT_A_FAILURE = {"chat-template-missing", "dp-offline-interrupted"}  # of a server that serves


@cache
def text_of(log: Path) -> str:
    return log.read_text()


@pytest.mark.parametrize("name", sorted(truths()))
def test_what_really_happened_in_a_public_log_is_said(name: str) -> None:
    found = diagnosed(text_of(PUBLIC / f"{name}.log"))
    assert not list(errors(found, truths()[name]))


@given(log=st.sampled_from(ALL), around=st.sampled_from(sorted(ENVELOPES)))
@settings(max_examples=150, deadline=None)
def test_what_is_around_the_lines_changes_nothing(log: Path, around: str) -> None:
    wrapped = ENVELOPES[around](text_of(log))
    assert essence(diagnosed(wrapped)) == essence(diagnosed(text_of(log)))


INNER = ("compose", "journald", "CRI", "docker -t", "a collector's JSON", "kubectl --prefix")
OUTER = ("quoted", "indented", "timestamp and offset", "GitHub Actions", "Windows", "numbered")


@example(log=PUBLIC / "bracket-name-prefix-oom.log", inner="a collector's JSON", outer="Windows")
@given(log=st.sampled_from(ALL), inner=st.sampled_from(INNER), outer=st.sampled_from(OUTER))
@settings(max_examples=60, deadline=None)
def test_one_envelope_may_be_in_another(log: Path, inner: str, outer: str) -> None:
    wrapped = ENVELOPES[outer](ENVELOPES[inner](text_of(log)))
    assert essence(diagnosed(wrapped)) == essence(diagnosed(text_of(log)))


def started(log: Path) -> str:
    """Return a good log up to the line with which the server is ready."""
    text = text_of(log)
    return text[: text.index("\n", text.index("Application startup complete")) + 1]


def end_of(log: Path) -> str:
    """Return a failing log from the first line that its diagnosis rests on."""
    outcome = diagnosed(text_of(log)).outcome
    assert outcome is not None
    bare = "\n".join(inside for _, inside in Envelope().opened(text_of(log)))
    lines = bare.splitlines(keepends=True)
    first = next((n for n, line in enumerate(lines) if outcome.evidence[0][-80:] in line), 0)
    return "".join(lines[first:])


def fails(log: Path) -> bool:
    if log.parent == PUBLIC:
        return log.stem not in NOT_A_FAILURE
    verdict = json.loads(log.with_suffix(".json").read_text())
    # The host killed that one before it could say anything.
    return verdict["outcome"] is not None and verdict.get("host_oom_kills", 0) == 0


FAILING = [log for log in ALL if fails(log)]


@given(ready=st.sampled_from(READY), failing=st.sampled_from(FAILING))
@settings(max_examples=100, deadline=None)
def test_a_log_that_ends_in_a_failure_is_never_called_healthy(ready: Path, failing: Path) -> None:
    found = diagnosed(started(ready) + end_of(failing))
    assert found.outcome is not None


@given(failing=st.sampled_from(FAILING), ready=st.sampled_from(READY))
@settings(max_examples=40, deadline=None)
def test_of_two_services_in_one_file_the_worse_one_counts(failing: Path, ready: Path) -> None:
    alone = essence(diagnosed(text_of(failing)))
    lines = [f"good-1  | {line}" for line in text_of(ready).splitlines()]
    lines += [f"bad-1   | {line}" for line in text_of(failing).splitlines()]
    found = diagnosed("\n".join(lines) + "\n")
    assert essence(found) == alone
    assert found.server.name.startswith("bad-1")
    assert [(other.name, other.start.ready) for other in found.others][:1] == [("good-1", True)]


BANNER = "(APIServer pid=7) INFO 11-20 09:38:30 [utils.py:1] █▄█▀ █     █  version 0.32.0\n"


def test_a_server_that_died_and_was_started_again_is_told_of_twice() -> None:
    failed = text_of(RECORDED[0].parents[1] / "0.32.0-cpu" / "kv-too-small.log")
    served = text_of(RECORDED[0].parents[1] / "0.32.0-cpu" / "ready-eager.log")
    found = diagnosed(failed + served)
    assert found.outcome is not None
    assert found.outcome.cause == "kv_cache_too_small"
    assert [other.start.ready for other in found.others] == [True]
    crash_loop = diagnosed(failed * 5)
    assert crash_loop.outcome == found.outcome


def test_a_service_without_vllm_is_no_server() -> None:
    proxy = "proxy-1  | 2026/01/02 03:04:05 [error] 7#7: connect() failed (111: refused)\n"
    proxy += "proxy-1  | ConnectionError: no upstream\n"
    good = "".join(f"vllm-1   | {line}\n" for line in text_of(READY[0]).splitlines())
    found = diagnosed(proxy + good + proxy)
    assert found.outcome is None
    assert found.ready


@example("x")
@given(st.text(max_size=400))
@settings(max_examples=60, deadline=None)
def test_any_text_is_read(text: str) -> None:
    diagnosed(text)
    diagnosed(f"server-1  | {text}\n" * 3)


def test_a_file_is_read_alike_in_whatever_pieces_it_comes() -> None:
    for around in ("compose", "Docker's JSON", "wrapped at 100"):
        text = ENVELOPES[around](text_of(READY[0]))
        whole, pieces = diagnosed(text), FileReader()
        for start in range(0, len(text), 4099):
            pieces.feed(text[start : start + 4099])
        assert essence(pieces.diagnosis()) == essence(whole)


SERVED = (
    '(APIServer pid=833) INFO:     192.0.2.1:37296 - "POST /v1/completions HTTP/1.1" 200 OK\n'
    "(APIServer pid=833) INFO 11-20 09:50:12 [loggers.py:120] Engine 000: Avg prompt throughput: "
    "1024.0 tokens/s, Running: 3 reqs, Waiting: 0 reqs, GPU KV cache usage: 4.3%\n"
)


@pytest.mark.parametrize(
    "around", ["compose in colours", "Docker's JSON", "CRI", "own format", "wrapped at 132"]
)
def test_a_long_log_is_read_fast_whatever_is_around_it(around: str) -> None:
    text = ENVELOPES[around](started(READY[0]) + SERVED * 8000)
    reader, began = FileReader(), time.process_time()
    for start in range(0, len(text), 1 << 20):
        reader.feed(text[start : start + (1 << 20)])
    took = (time.process_time() - began) * 10_000_000 / len(text)
    assert took < SOON, f"{took:.1f} s for 10 MB, of which half a second is usual"
    assert reader.diagnosis().outcome is None


def test_a_long_file_is_read_in_bounded_memory() -> None:
    text = ENVELOPES["compose"](started(READY[0]) + SERVED * 4000)
    reader = FileReader()
    tracemalloc.start()
    for _ in range(8):
        reader.feed(text)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 12 * len(text)
