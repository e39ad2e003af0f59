"""What `diagnose` makes of real logs, and of lines no real log of ours has yet."""

import json
import math
import re
import time
import tracemalloc
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from tests.support.golden import PUBLIC, RECORDED, diagnosed, truths
from tests.support.pace import SOON
from tests.support.paths import GOLDEN
from tests.unit.diagnose.from_source import (
    FROM_SOURCE,
    MILESTONES_FROM_SOURCE,
    MORE_FROM_SOURCE,
)
from vllm_autotune.console.outcomes import print_diagnosis
from vllm_autotune.diagnose import LogReader, cures, read_log
from vllm_autotune.diagnose.milestones import MILESTONES, Milestone
from vllm_autotune.diagnose.prefilter import (
    WORTH_READING,
    WORTH_READING_AT_START,
    line_starts,
    shape_of,
    unlike,
)
from vllm_autotune.diagnose.signature import NO_LINE, Signature
from vllm_autotune.diagnose.signatures import SIGNATURES
from vllm_autotune.outcome import (
    PHASES,
    Crashed,
    Environment,
    OutOfMemory,
    Readings,
    Rejected,
)

GIB = 2**30
READINGS = {field.name for field in fields(Readings)}

WORKER = "(EngineCore pid=3135) ERROR 11-20 09:50:12 [core.py:1330] "
LOADING = (
    "(EngineCore pid=3135) INFO 11-20 09:50:10 [model_runner.py:284] Loading model from "
    "scratch...\n"
)
LOADED = (
    "(EngineCore pid=3135) INFO 11-20 09:50:11 [model_runner.py:305] "
    "Model loading took 14.29 GiB and 1.032844 seconds\n"
)
KV_SIZE = (
    "(EngineCore pid=3135) INFO 11-20 09:25:04 [kv_cache_utils.py:2177] "
    "GPU KV cache size: 2,115,440 tokens\n"
)
CAPTURED = (
    "(EngineCore pid=898) INFO 11-20 09:25:08 [model_runner.py:747] "
    "Graph capturing finished in 4 secs, took 0.89 GiB\n"
)
READY = "(APIServer pid=833) INFO:     Application startup complete.\n"
OUT = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 298.00 MiB. GPU 0 has a total "
    "capacity of 139.80 GiB of which 51.00 MiB is free.\n"
)
DEAD = "vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue.\n"


def read(text: str) -> LogReader:
    reader = LogReader()
    reader.feed(text)
    return reader


def alike(a: object, b: object) -> bool:
    if isinstance(a, int | float) and isinstance(b, int | float):
        return math.isclose(a, b, rel_tol=1e-6)
    return a == b


def expected(log: Path) -> dict[str, Any]:
    verdict: dict[str, Any] = json.loads(log.with_suffix(".json").read_text())
    return verdict


def shows(thing: object, wanted: dict[str, Any]) -> None:
    """Check a verdict or readings against what a person read in the log, memory in GiB."""
    for name, value in wanted.items():
        found = getattr(thing, name.replace("_gib", "_bytes"))
        in_bytes = name.endswith("_gib") and value is not None
        assert alike(found, round(value * GIB) if in_bytes else value), name


def test_there_are_real_logs_and_each_has_a_verdict_written_by_hand() -> None:
    assert len(RECORDED) > 40
    public = {log.stem for log in PUBLIC.glob("*.log")}
    assert public == truths().keys()
    assert len(list(GOLDEN.glob("*/*.log"))) == len(RECORDED) + len(public)


@pytest.mark.parametrize("log", RECORDED, ids=lambda log: f"{log.parent.name}/{log.stem}")
def test_a_real_log_gives_its_recorded_verdict(log: Path) -> None:
    wanted = expected(log)
    reader = read(log.read_text())
    verdict = reader.verdict(
        exit_code=wanted["exit_code"], host_oom_kills=wanted.get("host_oom_kills", 0)
    )

    assert reader.ready == wanted["ready"]
    assert reader.phase == wanted["reached"]
    shows(reader.readings, wanted["readings"])
    if wanted["outcome"] is None:
        assert verdict is None
        assert reader.terminal() is None
        return
    assert verdict is not None
    assert 1 <= len(verdict.evidence) <= 5
    assert cures(verdict) or verdict.cause == "unknown"
    assert verdict.kind == wanted["outcome"]
    shows(verdict, wanted["verdict"])


def test_feeding_a_log_in_small_pieces_changes_nothing() -> None:
    for log in RECORDED:
        text, code = log.read_text(), expected(log)["exit_code"]
        whole, pieces = read(text), LogReader()
        for start in range(0, len(text), 997):
            pieces.feed(text[start : start + 997])
        assert pieces.verdict(exit_code=code) == whole.verdict(exit_code=code), log
        for name in ("readings", "phase", "ready", "last_error", "last_line"):
            assert getattr(pieces, name) == getattr(whole, name), log


def test_the_early_verdict_of_a_real_log_is_its_last_one() -> None:
    for log in RECORDED:
        reader, wanted = LogReader(), expected(log)["verdict"]
        for line in log.read_text().splitlines(keepends=True):
            reader.feed(line)
            early = reader.terminal()
            if early is not None:
                assert (early.cause, early.phase) == (wanted["cause"], wanted["phase"]), log


@pytest.mark.parametrize(
    ("before", "phase"),
    [
        (LOADING, "load"),
        (LOADING + LOADED, "profile"),
        (LOADING + LOADED + KV_SIZE, "graphs"),
        (LOADING + LOADED + KV_SIZE + CAPTURED, "warmup"),
        (LOADING + LOADED + KV_SIZE + CAPTURED + READY, "serving"),
    ],
)
def test_a_bare_out_of_memory_error_happened_where_the_last_milestone_was(
    before: str, phase: str
) -> None:
    verdict = read(before + WORKER + OUT).verdict(exit_code=1)
    assert isinstance(verdict, OutOfMemory)
    assert verdict.cause == "cuda_out_of_memory"
    assert verdict.phase == phase
    assert verdict.shortfall_bytes == (298 - 51) * 2**20
    assert cures(verdict)


def test_without_graphs_what_comes_after_the_kv_cache_is_warm_up() -> None:
    eager = "(APIServer pid=1) WARNING 11-20 09:49:56 [vllm.py:1163] Enforce eager set, disabling\n"
    assert read(eager + LOADING + LOADED + KV_SIZE).phase == "warmup"


def test_a_progress_bar_tells_that_graphs_are_captured() -> None:
    bar = "\rCapturing CUDA graphs (PIECEWISE):  50%|#####     | 5/10 [00:01<00:01,  4.5it/s]\n"
    assert read(LOADING + LOADED + bar).phase == "graphs"


@pytest.mark.parametrize(("line", "cause", "numbers"), FROM_SOURCE)
def test_a_line_from_the_sources_is_known(line: str, cause: str, numbers: dict[str, Any]) -> None:
    verdict = read(LOADING + line + "\n").verdict(exit_code=1)
    assert verdict is not None
    assert verdict.cause == cause
    for name, value in numbers.items():
        assert alike(getattr(verdict, name), value), name
    assert cures(verdict)


@pytest.mark.parametrize(("line", "cause"), MORE_FROM_SOURCE)
def test_what_others_print_is_known(line: str, cause: str) -> None:
    for text in (line, f"{WORKER}{line}") if "Error: " in line else (line,):
        found = diagnosed(f"{text}\n").outcome
        assert found is not None
        assert found.cause == cause
        assert cures(found)


@pytest.mark.parametrize(("line", "phase", "numbers"), MILESTONES_FROM_SOURCE)
def test_a_milestone_from_the_sources_is_known(
    line: str, phase: str, numbers: dict[str, Any]
) -> None:
    reader = read(line + "\n")
    assert reader.phase == phase
    shows(reader.readings, numbers)


def test_an_allocation_that_torch_tries_again_ends_no_start() -> None:
    said = "CUDA Error: out of memory at /workspace/csrc/cumem_allocator.cpp:139\n"
    assert read(LOADING + said).terminal() is None
    assert read(LOADING + said + READY).verdict() is None
    assert read(LOADING + READY + said).verdict(exit_code=0) is None
    verdict = read(LOADING + said + WORKER + OUT).terminal()
    assert isinstance(verdict, OutOfMemory)
    assert verdict.shortfall_bytes == (298 - 51) * 2**20


def test_no_cure_for_a_refused_kv_cache_is_one_that_another_backend_refuses() -> None:
    for signature in SIGNATURES:
        if signature.name == "unsupported_kv_cache_dtype":
            assert not re.search(r"fp8|int[48]|per_token_head", " ".join(signature.cures))


ALIGNED = "ValueError: The input size is not aligned with the quantized weight shape.\n"
RANK_1 = "(Worker_TP1 pid=77) INFO 11-20 09:50:10 [x.py:9] Starting to load model org/model...\n"


def test_the_cure_for_blocks_cut_in_two_is_not_about_heads_alone() -> None:
    verdict = read(LOADING + RANK_1 + ALIGNED).terminal()
    assert verdict is not None
    assert verdict.cause == "tensor_parallel_indivisible"
    assert "blocks" in cures(verdict)[0]


def test_one_gpu_has_no_tensor_parallelism_to_blame() -> None:
    verdict = read(LOADING + ALIGNED).terminal()
    assert isinstance(verdict, Rejected)
    assert (verdict.cause, verdict.argument) == ("unsupported_quantization", "quantization")


def test_the_mamba_limit_is_a_reading() -> None:
    line = "ValueError: max_num_seqs (1024) exceeds available Mamba cache blocks (311). Each\n"
    assert read(line).readings.max_num_seqs == 311


def test_the_cause_is_the_sampler_though_torch_spoke_first() -> None:
    sampler = (
        "RuntimeError: CUDA out of memory occurred when warming up sampler with 9 dummy requests."
    )
    verdict = read(LOADED + WORKER + OUT + WORKER + sampler + "\n").verdict()
    assert verdict is not None
    assert verdict.cause == "sampler_out_of_memory"
    assert verdict.phase == "profile"


def test_what_nccl_says_after_a_worker_ran_out_of_memory_is_not_the_cause() -> None:
    nccl = (
        "(Worker_TP0 pid=9) ERROR 11-20 09:50:12 [x.py:1] "
        "torch.distributed.DistBackendError: NCCL\n"
    )
    for text in (WORKER + OUT + nccl, nccl + WORKER + OUT):
        verdict = read(text).verdict()
        assert verdict is not None
        assert verdict.cause == "cuda_out_of_memory"


def test_text_that_a_user_sent_is_nobodys_error() -> None:
    quoted = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"
    for line in (
        f"INFO 11-20 09:50:12 [logger.py:39] Received request cmpl-1: prompt: '{quoted}', params",
        f'INFO:     127.0.0.1:37296 - "GET /?q={quoted} HTTP/1.1" 404 Not Found',
        f'(APIServer pid=9) INFO:     10.0.0.1:1 - "GET /v1/{quoted} HTTP/1.1" 404',
        "INFO 11-20 09:50:12 [x.py:1] No available memory for the cache blocks, said somebody",
        "my program ran out of memory",
    ):
        assert read(READY + line + "\n").verdict() is None
        assert read(READY + line + "\n").verdict(exit_code=0) is None


def test_a_warning_about_memory_was_survived() -> None:
    line = (
        "WARNING 11-20 09:50:12 [tune.py:1] torch.OutOfMemoryError: CUDA out of memory. Skipping\n"
    )
    assert read(LOADED + line + READY).verdict() is None


def test_what_was_said_before_the_server_was_ready_was_survived() -> None:
    assert read("OSError: LocalEntryNotFoundError: offline\n" + READY).verdict() is None


def test_what_vllm_did_without_is_not_the_cause_of_a_later_crash() -> None:
    offline = "ERROR 11-20 09:50:12 [r.py:1] LocalEntryNotFoundError: Cannot find a cached file\n"
    config = "INFO 11-20 09:50:12 [model.py:1] Using max model len 4096\n"
    for start in (offline, config + offline + config):
        assert getattr(read(start).verdict(exit_code=1), "cause", None) == "model_not_found"
    for later, cause in ((OUT, "cuda_out_of_memory"), ("KeyError: 'lm_head'\n", "unknown")):
        verdict = read(offline + LOADING + WORKER + later).verdict(exit_code=1)
        assert verdict is not None
        assert verdict.cause == cause


ANSWER = '(APIServer pid=1) INFO:     10.0.0.1:1 - "POST /v1/completions HTTP/1.1" 200 OK\n'
BUSY = "(APIServer pid=1) INFO 11-20 09:50:12 [x.py:9] Avg generation throughput: 20.5 tokens/s\n"
IDLE = BUSY.replace("20.5", "0.0")


def test_an_exception_after_readiness_counts_until_a_request_is_answered_again() -> None:
    odd = WORKER + "ZeroDivisionError: division by zero\n"
    for after, failed in (("", True), (IDLE, True), (ANSWER, False), (BUSY, False)):
        verdict = read(READY + ANSWER + odd + after).verdict()
        assert (verdict is not None) == failed
        assert (read(READY + odd + after + odd).verdict()) is not None
    refused = "ERROR 11-20 09:50:12 [serving_chat.py:222] ValueError: no chat for you\n"
    assert read(READY + refused).verdict() is None


def test_an_engine_that_died_while_serving_is_a_failure_though_the_server_exits_with_0() -> None:
    verdict = read(READY + WORKER + DEAD).verdict(exit_code=0)
    assert isinstance(verdict, Crashed)
    assert verdict.cause == "engine_died"
    assert verdict.phase == "serving"


def test_an_engine_that_died_after_sigterm_was_stopped() -> None:
    stop = (
        "(APIServer pid=1) INFO 11-20 09:37:35 [launcher.py:254] [shutdown] API server: "
        "shutdown triggered\n"
    )
    force = (
        "(APIServer pid=1) WARNING 11-20 09:37:35 [utils.py:648] force killing remaining "
        "processes\n"
    )
    assert read(READY + stop + force + WORKER + DEAD).verdict(exit_code=0) is None


def test_a_kill_is_the_hosts_only_when_the_cgroup_says_so() -> None:
    log = LOADING + (
        "RuntimeError: Engine core initialization failed. See root cause above. "
        "Failed core proc(s): {'EngineCore': -9}\n"
    )
    perhaps = read(log).verdict(exit_code=1)
    assert isinstance(perhaps, Crashed)
    assert perhaps.cause == "killed"
    assert "perhaps" in perhaps.reason
    surely = read(log).verdict(exit_code=1, host_oom_kills=1)
    assert isinstance(surely, OutOfMemory)
    assert (surely.cause, surely.where) == ("killed_by_host", "host")


def test_the_hosts_oom_killer_is_not_blamed_for_what_has_another_cause() -> None:
    verdict = read(LOADED + WORKER + OUT).verdict(exit_code=-9, host_oom_kills=1)
    assert verdict is not None
    assert verdict.cause == "cuda_out_of_memory"


def test_a_process_killed_before_it_said_anything_was_killed() -> None:
    verdict = read(LOADING).verdict(exit_code=-9)
    assert verdict is not None
    assert verdict.cause == "killed"


def test_an_empty_dictionary_of_failed_processes_is_a_death_without_a_word() -> None:
    end = (
        "RuntimeError: Engine core initialization failed. See root cause above. Failed core "
        "proc(s): {}\n"
    )
    verdict = read(LOADING + end).verdict(exit_code=1)
    assert isinstance(verdict, Crashed)
    assert verdict.cause == "engine_died"
    assert read(LOADING + end).terminal() is not None


@pytest.mark.parametrize("code", [1, 2, 134, -6, -11])
def test_an_error_nobody_knows_is_a_crash_with_its_line(code: int) -> None:
    line = (
        "(EngineCore pid=3) ERROR 11-20 09:50:12 [core.py:1330] ZeroDivisionError: division by zero"
    )
    verdict = read(LOADING + line + "\n").verdict(exit_code=code)
    assert isinstance(verdict, Crashed)
    assert (verdict.cause, verdict.exit_code) == ("unknown", code)
    assert verdict.evidence[0] == line
    assert "division by zero" in verdict.reason


def test_the_first_error_is_the_reason_and_wrappers_are_not() -> None:
    log = (
        "(Worker pid=1) ERROR 11-20 09:50:12 [m.py:1] WorkerProc hit an exception.\n"
        "(Worker pid=1) ERROR 11-20 09:50:12 [m.py:1] KeyError: 'lm_head'\n"
        "(EngineCore pid=2) ERROR 11-20 09:50:13 [m.py:1] RuntimeError: Worker failed with error "
        "''lm_head'', please check the stack trace above for the root cause\n"
        "RuntimeError: Engine core initialization failed. See root cause above. "
        "Failed core proc(s): {'EngineCore': 1}\n"
    )
    verdict = read(log).verdict(exit_code=1)
    assert isinstance(verdict, Crashed)
    assert verdict.reason.startswith("KeyError: 'lm_head'")


def test_nothing_at_all_is_no_failure_unless_the_process_is_gone() -> None:
    assert LogReader().verdict() is None
    assert isinstance(LogReader().verdict(exit_code=1), Crashed)
    assert isinstance(LogReader().verdict(exit_code=0), Crashed)


def test_an_unknown_flag_names_itself_in_vllms_words() -> None:
    verdict = read("api_server.py: error: unrecognized arguments: --swap-space 8\n").terminal()
    assert isinstance(verdict, Rejected)
    assert (verdict.cause, verdict.argument) == ("unknown_flag", "swap-space")


def test_a_field_that_pydantic_refuses_is_the_argument() -> None:
    log = (
        "pydantic_core._pydantic_core.ValidationError: 1 validation error for CacheConfig\n"
        "gpu_memory_utilization\n"
        "  Input should be less than or equal to 1 [type=less_than_equal, input_value=1.5]\n"
        "swap_space\n"
        "  Input should be greater than or equal to 0 [type=greater_than_equal, input_value=-1]\n"
    )
    verdict = read(log).verdict(exit_code=1)
    assert isinstance(verdict, Rejected)
    assert verdict.argument == "gpu-memory-utilization"
    assert "Input should be less than or equal to 1" in verdict.evidence[2]
    assert len(verdict.evidence) == 3
    assert "greater" not in verdict.reason


def test_only_the_first_worker_of_a_group_is_measured() -> None:
    other = LOADED.replace("EngineCore", "Worker_TP1").replace("14.29", "15.00")
    assert read(LOADED + other).readings.weights_bytes == round(14.29 * GIB)
    assert read(other + LOADED).readings.weights_bytes == round(14.29 * GIB)


def test_a_second_start_in_the_same_log_starts_anew() -> None:
    banner = "(APIServer pid=7) INFO 11-20 09:38:30 [utils.py:1] █▄█▀ █     █  version 0.32.0\n"
    reader = read(banner + LOADING + LOADED + WORKER + OUT + banner + LOADING + READY)
    assert reader.ready
    assert reader.verdict() is None
    reader.feed(WORKER + DEAD)
    reader.feed(banner + LOADING + LOADED + KV_SIZE + READY)
    assert reader.verdict() is None
    assert reader.readings.kv_tokens == 2115440
    reader.feed(banner + LOADING + LOADED + WORKER + OUT)  # the one before died without a word
    assert getattr(reader.verdict(), "phase", None) == "profile"


def test_a_banner_that_a_user_sent_is_no_start() -> None:
    line = "INFO 11-20 09:50:12 [logger.py:39] Received request 1: prompt: 'API server version 1'\n"
    assert read(READY + line).verdict(exit_code=0) is None


def test_the_last_line_is_fit_to_show() -> None:
    reader = read("\x1b[32mINFO\x1b[0m first\n\n")
    assert reader.last_line == "INFO first"
    reader.feed("a\nb\n")
    assert reader.last_line == "b"
    reader.feed("\rLoading:  10%|#  | 1/10 [00:01<00:09]\rLoading:  20%|## | 2/10 [00:02<00:08]")
    assert reader.last_line == "Loading:  20%|## | 2/10 [00:02<00:08]"


def test_a_log_is_read_in_whatever_pieces_it_comes() -> None:
    text = LOADING + LOADED + WORKER + OUT
    pieces = LogReader()
    for piece in (text[:99], text[99:]):
        pieces.feed(piece)
    assert isinstance(pieces.verdict(exit_code=1), OutOfMemory)
    assert pieces.verdict(exit_code=1) == read(text).verdict(exit_code=1)


def test_a_reason_quotes_only_what_its_pattern_captures() -> None:
    others = {*("argument", "detail", "exit", "wanted_bytes", "left_bytes")}
    others |= {"waited", "milliseconds"}
    for known in SIGNATURES:
        captured = known.pattern.groupindex.keys()
        quoted = set(re.findall(r"\{(\w+)\}", known.reason))
        assert known.reason
        assert quoted <= {*captured, "below", "share"} or known.needle == NO_LINE[0], known.needle
        assert captured <= {*READINGS, *others}, known.needle


def test_a_milestone_captures_only_readings() -> None:
    for milestone in MILESTONES:
        assert milestone.pattern.groupindex.keys() <= READINGS


def test_every_cause_has_a_cure_in_every_phase() -> None:
    for cause in {known.name for known in SIGNATURES}:
        for phase in PHASES[2:]:
            assert cures(Crashed(cause=cause, phase=phase, reason="")), cause


def test_every_pattern_matches_a_line_and_no_line_that_is_sorted_out_before() -> None:
    """A search of everything, slow and simple, finds nothing that the quick way would miss."""
    tables_of_lines = (FROM_SOURCE, MORE_FROM_SOURCE, MILESTONES_FROM_SOURCE)
    made = [line for table in tables_of_lines for line, *_ in table]
    public = [(PUBLIC / f"{name}.log").read_text() for name in truths()]
    told = "\n".join((*made, *public, *(log.read_text() for log in RECORDED)))
    text = "\n".join({re.sub(r"\d", "0", line): line for line in told.splitlines()}.values())
    tables: tuple[Signature | Milestone, ...] = (*SIGNATURES, *MILESTONES)
    for known in tables:
        found = [*known.pattern.finditer(text)]
        assert bool(found) == (known.needle != NO_LINE[0]), known.needle
        for match in found:
            start, end = text.rfind("\n", 0, match.start()) + 1, text.find("\n", match.end())
            line = text[start : end if end >= 0 else len(text)]
            shape = shape_of(line)
            assert known in (*shape.signatures, *shape.milestones), (known.needle, line)
            serving = isinstance(known, Signature) and known.serving
            needles = WORTH_READING if serving else WORTH_READING_AT_START
            assert line_starts(needles, line, unlike(line)) == {0}, (known.needle, line)


def test_a_log_without_an_end_of_line_stays_in_bounded_memory() -> None:
    reader = LogReader()
    tracemalloc.start()
    for _ in range(30):
        reader.feed("x" * 100_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_500_000
    assert isinstance(reader.verdict(exit_code=1), Crashed)


ACCESS = '(APIServer pid=833) INFO:     127.0.0.1:37296 - "POST /v1/completions HTTP/1.1" 200 OK\n'
STATS = (
    "(APIServer pid=833) INFO 11-20 09:50:12 [loggers.py:120] Engine 000: Avg prompt throughput: "
    "1024.0 tokens/s, Running: 3 reqs, Waiting: 0 reqs, GPU KV cache usage: 4.3%\n"
)
SERVED = READY + (ACCESS + STATS) * 5000
CRASHED = (GOLDEN / "0.26.0-h200" / "graphs-out-of-memory.log").read_text()


@pytest.mark.parametrize(
    ("piece", "cause"),
    [
        (SERVED, None),
        (CRASHED, "cuda_out_of_memory"),
        (CRASHED + SERVED, None),
        ((GOLDEN / "0.32.0-cpu" / "ready-compiled.log").read_text(), None),
        (WORKER + OUT, "cuda_out_of_memory"),
        (READY + "x" * 1_500_000, None),
        ("".join(f"{WORKER}ValueError: odd, {i}\n" for i in range(9999)), "unknown"),
    ],
    ids=["served", "crashing", "recovering", "restarting", "one-line", "no-end", "unknown"],
)
def test_a_long_log_is_read_fast(piece: str, cause: str | None) -> None:
    reader, size = LogReader(), 2_000_000
    text = piece * (size // len(piece) + 1)
    began = time.process_time()
    reader.feed(text)
    took = (time.process_time() - began) * 10_000_000 / len(text)
    assert took < SOON, f"{took:.1f} s for 10 MB, of which half a second is usual"
    verdict = reader.verdict()
    assert (verdict and verdict.cause) == cause


def test_device_busy_is_not_the_candidates_fault() -> None:
    line = FROM_SOURCE[6][0]
    verdict = read(line + "\n").terminal()
    assert isinstance(verdict, Environment)
    readings = read(line + "\n").readings
    assert readings.free_bytes == round(20.1 * GIB)
    assert readings.total_bytes == round(23.65 * GIB)
    assert readings.utilization == 0.9


def test_a_log_that_ends_too_early_is_not_called_a_success(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (GOLDEN / "0.32.0-cpu" / "ready-eager.log").read_text()
    beginning = whole[: whole.index("Loading weights took")]
    for text, understood, said in (
        (whole, True, "nothing went wrong"),
        (beginning, False, "the log ends while loading weights"),
        ("root:x:0:0\n", False, "no vLLM start-up found in this log\n"),
        (
            "docker: Error response from daemon: no such image\nroot:x:0:0\n",
            False,
            "no vLLM start-up found in this log; the last error in it is: docker: Error response "
            "from daemon: no such image\n",
        ),
        ("\0" * 300 + "\n" + whole, True, "nothing went wrong"),
        ("\0" * 300 + "\n" + beginning, False, "the log ends while loading weights"),
    ):
        log = tmp_path / "server.log"
        log.write_text(text)
        found = read_log(str(log))
        assert found.understood is understood
        assert found.outcome is None
        print_diagnosis("server.log", found)
        assert said in capsys.readouterr().out


IMAGE_FRAMES = """\
INFO 11-29 00:00:01 [model_runner.py:424] Model loading took 15.6 GiB memory and 3.2 seconds
INFO 11-29 00:00:02 [gpu_model_runner.py:6165] Encoder cache will be initialized with a budget of \
16384 tokens, and profiled with 1 video items of the maximum feature size.
ERROR 11-29 00:00:03 [core.py:1510] EngineCore failed to start.
ERROR 11-29 00:00:03 [core.py:1510] Traceback (most recent call last):
ERROR 11-29 00:00:03 [core.py:1510]   File "/vllm/v1/worker/gpu_worker.py", line 412, in \
determine_available_memory
ERROR 11-29 00:00:03 [core.py:1510]     self.model_runner.profile_run()
ERROR 11-29 00:00:03 [core.py:1510]   File "/vllm/v1/worker/gpu_model_runner.py", line 6181, in \
{place}
ERROR 11-29 00:00:03 [core.py:1510]     {code}
ERROR 11-29 00:00:03 [core.py:1510] torch.OutOfMemoryError: CUDA out of memory. Tried to allocate \
9.00 GiB. GPU 0 has a total capacity of 23.50 GiB of which 5.21 GiB is free.
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {{}}
"""


@pytest.mark.parametrize(
    ("place", "code", "cause"),
    [
        ("_process_image_input", "x = self.visual(pixels)", "images_out_of_memory"),
        ("get_multimodal_embeddings", "return self.visual(x)", "images_out_of_memory"),
        ("execute_mm_encoder", "return self.model(x)", "images_out_of_memory"),
        ("_dummy_run", "outputs = self.model(", "cuda_out_of_memory"),
    ],
)
def test_memory_that_runs_out_over_images_is_told_from_any_other(
    place: str, code: str, cause: str
) -> None:
    reader = LogReader()
    reader.feed(IMAGE_FRAMES.format(place=place, code=code))
    outcome = reader.verdict(exit_code=1)
    assert isinstance(outcome, OutOfMemory)
    assert (outcome.cause, outcome.phase) == (cause, "profile")
    seen = reader.readings
    assert (seen.modality, seen.media_items, seen.media_tokens) == ("video", 1, 16384)
