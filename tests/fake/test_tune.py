"""The whole of `autotune` as a child process, on a fake vLLM: from the command to the report."""

import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.command import AUTOTUNE
from tests.support.pace import LATEST, SOON
from tests.support.reports import with_settings
from tests.support.tuning import EAGER, LARGE, SMALL, STANDARD, Place
from vllm_autotune.machine.device import detect
from vllm_autotune.probe.listing import is_healthy
from vllm_autotune.report.codec import dump
from vllm_autotune.report.read import read_report
from vllm_autotune.server.server import free_port


@pytest.fixture
def place(tmp_path: Path, tiny_model: Path) -> Iterator[Place]:
    """A place to tune in; no temporary file may be left there."""
    made = Place.make(tmp_path, tiny_model)
    yield made
    left = {path.name for path in made.temporary.iterdir()}
    assert left <= {"vllm-autotune.locks"}  # a lock file is never removed


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A folder with the results and the cache of a tuning for `SMALL`."""
    made = Place.make(tmp_path_factory.mktemp("answered"), tiny_model)
    done = made.run(*SMALL)
    assert done.returncode == 0, done.stderr
    return made.folder


@pytest.fixture
def tuned(place: Place, answered: Path) -> Place:
    """A place where `SMALL` has its answer."""
    for name in ("results", "cache"):
        shutil.copytree(answered / name, place.folder / name)
    return place


def test_a_refused_context_is_shortened_proven_reported_and_recalled(place: Place) -> None:
    done = place.run(*SMALL, *STANDARD)
    assert done.returncode == 0, done.stderr
    report = place.report()
    assert report["status"] == "stable"
    assert report["launches"] == len(report["trials"]) == 2
    refused, stable = report["trials"]
    assert refused["outcome"]["kind"] == "out_of_memory"
    assert refused["outcome"]["phase"] == "kv_cache"
    assert "estimated maximum model length" in refused["outcome"]["evidence"][0]
    assert stable["outcome"]["kind"] == "stable"

    winner = report["winner"]
    assert winner["argv"] == stable["argv"]
    assert not {"--host", "--port", "--served-model-name"} & set(winner["argv"])
    assert 1024 <= winner["max_model_len"] <= refused["outcome"]["limit"]
    assert winner["args"]["max-model-len"] == winner["max_model_len"]
    assert winner["rungs"] == ["utilization", "shorter-context"]
    assert winner["kv_cache_tokens"] > winner["max_model_len"]
    names = [check["name"] for check in winner["certificate"]["checks"]]
    assert (names[1], names[-1]) == ("full context", "ordinary request")
    assert winner["startup_seconds"] > 0
    assert winner["valid_for"]["needed_bytes"] <= 536 * 2**20
    assert winner["valid_for"]["headroom_bytes"] == 2**30
    assert report["fixed"] == {"enforce-eager": True}

    (folder,) = {path.parent for path in place.results.rglob("report.json")}
    journal = (folder / "journal.jsonl").read_text().splitlines()
    assert [json.loads(line)["number"] for line in journal] == [1, 2]
    for trial in report["trials"]:
        assert "Resolved architecture" in (folder / trial["log"]).read_text()
    assert winner["argv"][-1] in done.stdout

    again = place.run(*SMALL, *STANDARD, "--json")
    assert again.returncode == 0, again.stderr
    recalled = json.loads(again.stdout)
    assert recalled["launches"] == 0
    assert recalled["cache"]["hit"]
    assert recalled["elapsed_seconds"] < SOON
    assert recalled["winner"] == winner
    assert len(list(place.results.rglob("trial-*.log"))) == 2
    assert len(list(place.results.rglob("report.json"))) == 1


def test_a_recalled_answer_is_written_to_the_results_folder_too(tuned: Place) -> None:
    """As in CI: the cache is kept, the checkout is fresh."""
    winner = tuned.report()["winner"]
    shutil.rmtree(tuned.results)
    again = tuned.run(*SMALL)
    assert again.returncode == 0, again.stderr
    assert "recalled from the cache" in again.stdout
    assert tuned.report()["winner"] == winner
    assert tuned.check().returncode == 0

    shutil.rmtree(tuned.results)
    (device,) = detect("cpu")
    tuned.results.mkdir()
    (tuned.results / f"{device.slug}-x1").write_text("no folder")
    again = tuned.run(*SMALL)
    assert again.returncode == 0, again.stderr
    assert f"cannot write {tuned.results}" in again.stderr


def test_a_cache_that_cannot_be_written_does_not_spoil_an_answer(place: Place) -> None:
    (device,) = detect("cpu")
    cache = place.folder / "cache"
    cache.mkdir()
    (cache / f"{device.slug}-x1").write_text("no folder")
    done = place.run(*SMALL)
    assert done.returncode == 0, done.stderr
    assert "cannot write" in done.stderr
    assert place.report()["status"] == "stable"


def test_a_flag_that_vllm_always_rejects_is_not_called_too_little_memory(place: Place) -> None:
    done = place.run(*SMALL, fixed=(*EAGER, "--swap-space", "4"))
    assert done.returncode == 3, done.stderr
    report = place.report()
    assert report["status"] == "environment"
    assert "--swap-space" in report["reason"]
    assert "remove it" in report["hint"]


def test_serve_becomes_the_server_of_the_winner(place: Place) -> None:
    port = free_port()
    serving = ("--hos", "127.0.0.1", "--port", str(port), "--api-k", "s3cret")
    words = place.command(*LARGE, fixed=(*EAGER, *serving))
    words.insert(len(AUTOTUNE), "serve")
    with subprocess.Popen(words, env=place.environment({}), text=True) as process:
        try:
            deadline = time.monotonic() + 4 * LATEST
            while not is_healthy(f"http://127.0.0.1:{port}"):
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.3)
            served = psutil.Process(process.pid).cmdline()
            process.terminate()
            process.wait(LATEST)
        finally:
            process.kill()
    winner = place.report()["winner"]
    assert served[-len(winner["argv"]) - 6 :][1:-6] == winner["argv"][1:]
    assert served[-6:] == ["--api-key", "s3cret", "--host", "127.0.0.1", "--port", str(port)]
    assert "s3cret" not in json.dumps(place.report())
    assert winner["left_out"] == ["api-key", "host", "port"]


def test_check_proves_a_winner_again_or_fails(tuned: Place) -> None:
    good = tuned.check()
    assert good.returncode == 0, good.stderr
    assert "requests answered correctly" in good.stdout
    assert "tokens/s read" in good.stdout
    bad = tuned.check(mode="too_few_tokens")
    assert bad.returncode == 1
    assert "expected 8 completion tokens, got 4" in bad.stdout


def test_check_refuses_a_winner_whose_model_is_gone(tuned: Place) -> None:
    (path,) = tuned.results.rglob("report.json")
    path.write_text(dump(with_settings(read_report(path), model="/models/gone-AWQ")))
    refused = tuned.check()
    assert refused.returncode == 2, refused.stderr
    assert "/models/gone-AWQ was not found here" in refused.stderr


def test_check_refuses_a_report_that_loads_code_unless_it_is_trusted(tuned: Place) -> None:
    (path,) = tuned.results.rglob("report.json")
    path.write_text(dump(with_settings(read_report(path), {"trust-remote-code": True})))
    refused = tuned.check()
    assert refused.returncode == 2, refused.stderr
    assert "the report sets trust-remote-code" in refused.stderr
    assert "--trust-report" in refused.stderr


def test_json_is_all_of_stdout_and_fixed_arguments_stay(place: Place) -> None:
    """What does not fit ends with 1, and with a document all the same."""
    fixed = ("--enforce-eager", "--max-model-len", "8192", "--kv-cache-dtype=auto")
    done = place.run(*SMALL[:2], "--json", fixed=fixed)
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)
    assert report["status"] == "exhausted"
    assert report["winner"] is None
    assert report["trials"]
    for trial in report["trials"]:
        words = " ".join(trial["argv"])
        assert "--enforce-eager" in words
        assert "--max-model-len 8192" in words
        assert "--kv-cache-dtype auto" in words
    assert report == place.report()


def test_a_length_that_vllm_chose_itself_is_proven_in_one_launch_and_deployed_as_a_number(
    place: Place,
) -> None:
    done = place.run(*SMALL[:4], "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    (trial,) = report["trials"]
    assert trial["argv"][-2:] == ["--max-model-len", "auto"]
    winner, served = report["winner"], trial["readings"]["max_model_len"]
    assert 0.5 * served < winner["max_model_len"] < served < 8192
    assert winner["argv"][-2:] == ["--max-model-len", str(winner["max_model_len"])]
    assert winner["rungs"] == ["utilization", "shorter-context"]
    checks = {check["name"]: check for check in winner["certificate"]["checks"]}
    full = checks["full context"]
    assert full["prompt_tokens"] + full["output_tokens"] == winner["max_model_len"]


def test_a_length_that_vllm_chose_is_shared_by_all_that_run_at_once(place: Place) -> None:
    done = place.run(*SMALL[:4], "--concurrency", "3", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    (trial,) = report["trials"]
    winner, readings = report["winner"], trial["readings"]
    assert winner["argv"][-2:] == ["--max-model-len", str(winner["max_model_len"])]
    assert 0.5 < 3 * winner["max_model_len"] / readings["kv_tokens"] <= 1
    checks = {check["name"]: check for check in winner["certificate"]["checks"]}
    together = checks["long prompts at once"]
    assert together["requests"] >= 3
    assert together["prompt_tokens"] + together["output_tokens"] >= 3 * winner["max_model_len"]


def test_a_length_that_vllm_chose_too_short_is_no_answer(place: Place) -> None:
    done = place.run("--memory-limit", "536MiB", "--min-context", "7000", "--json")
    assert done.returncode == 0, done.stderr
    first, second = json.loads(done.stdout)["trials"]
    assert [rung["name"] for rung in second["rungs"]] == ["utilization", "kv-cache-8bit"]
    assert first["outcome"]["cause"] == "auto_fit_too_short"
    assert first["outcome"]["limit"] < 7000


def test_a_run_ends_at_max_launches(place: Place) -> None:
    done = place.run(*SMALL, "--max-launches", "1")
    assert done.returncode == 4, done.stderr
    report = place.report()
    assert report["status"] == "budget"
    assert len(report["trials"]) == 1
    assert "--max-launches 1" in report["reason"]
    assert "--resume" in report["hint"]


def test_a_spent_time_budget_ends_the_run(place: Place) -> None:
    done = place.run(*LARGE, "--time-budget", "1.5", die_at="load", how="hang")
    assert done.returncode == 4, done.stderr
    assert place.report()["status"] == "budget"
    assert "s of the time budget are left, the quickest start on one device" in done.stderr


# How to bring a run into a phase, the words in the server's log that it is there, and how often.
PHASES: dict[str, tuple[dict[str, object], str, int]] = {
    "starting": ({"die_at": "spawn", "how": "hang"}, "", 0),
    "loading": ({"die_at": "load", "how": "hang"}, "Starting to load model", 1),
    "probing": ({"mode": "hang"}, "GET /v1/models", 1),
    "stopping": ({"mode": "ignores_sigterm"}, "GET /v1/models", 2),
}


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
@pytest.mark.parametrize("phase", PHASES)
def test_an_interruption_is_reported_and_leaves_nothing(
    place: Place, phase: str, name: str, code: int
) -> None:
    script, words, count = PHASES[phase]
    with place.running(*LARGE, **script) as process:
        place.wait_for(words, process, count)
        time.sleep(0.3)
        process.send_signal(signal.Signals[name])
        _, said = process.communicate(timeout=LATEST)
    assert process.returncode == code, said
    assert "Traceback" not in said
    report = place.report()
    assert report["status"] == "interrupted"
    assert name in report["reason"]


@pytest.mark.parametrize("phase", PHASES)
def test_even_sigkill_leaves_nothing_behind(place: Place, phase: str) -> None:
    script, words, count = PHASES[phase]
    with place.running(*LARGE, **script) as process:
        place.wait_for(words, process, count)
        time.sleep(0.3)
        process.kill()
        process.communicate(timeout=LATEST)
    deadline = time.monotonic() + SOON  # the fixtures look for processes and files
    while any(place.temporary.glob("autotune-*")) and time.monotonic() < deadline:
        time.sleep(0.05)


def test_a_second_ctrl_c_leaves_at_once(place: Place) -> None:
    with place.running(*LARGE, mode="hang ignores_sigterm") as process:
        place.wait_for("GET /v1/models", process)
        process.send_signal(signal.SIGINT)
        time.sleep(1)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        _, said = process.communicate(timeout=LATEST)
        assert time.monotonic() - began < 10  # of the 15 it would be given
    assert process.returncode == 130, said
    assert place.report()["status"] == "interrupted"


def test_of_two_tunings_on_one_device_one_is_refused(place: Place) -> None:
    with place.running(*LARGE, die_at="load", how="hang") as first:
        place.wait_for("Starting to load model", first)
        second = place.run(*SMALL, "--json")
        assert second.returncode == 3, second.stderr
        assert f"another autotune (pid {first.pid}, {place.model}, since 20" in second.stderr
        assert json.loads(second.stdout)["status"] == "refused"
        first.send_signal(signal.SIGINT)
        first.communicate(timeout=LATEST)
    assert first.returncode == 130


def test_measurements_save_the_next_run_a_launch(place: Place, tmp_path: Path) -> None:
    """A model of 128 KiB a token, of whose 512 MiB about half fit."""
    shape = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": 1024,
        "intermediate_size": 2048,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "max_position_embeddings": 4096,
        "vocab_size": 2048,
    }
    model = tmp_path / "larger"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(shape))
    place = replace(place, model=model)
    sizes = ("--memory-limit", "1440MiB", "--min-context", "512", "--concurrency", "2")
    card: dict[str, object] = {"weights_gib": 0.63, "kv_bytes_per_token": 2**17}
    fixed = ("--enforce-eager", "--load-format", "dummy")
    first, again = (
        place.run(*sizes, "--exact", "--json", *more, fixed=fixed, **card)
        for more in ((), ("--refresh",))
    )
    assert first.returncode == again.returncode == 0, first.stderr + again.stderr
    before, after = json.loads(first.stdout), json.loads(again.stdout)
    assert [before["launches"], after["launches"]] == [2, 1]
    assert after["cache"]["hit"] is False
    against = after["trials"][0]["accuracy"]["kv_available"]
    low, high = against["predicted"]["low"], against["predicted"]["high"]
    assert low <= against["measured"] <= high
    assert high - low < 128 * 2**20
    given = [report["winner"]["max_model_len"] for report in (before, after)]
    assert 0.9 * given[0] <= given[1] <= given[0]


def test_measurements_that_cannot_be_read_are_ignored_with_a_note(tuned: Place) -> None:
    (pool,) = (tuned.folder / "cache" / "measured").glob("*.json")
    pool.write_text('[{"model": 1}]')
    done = tuned.run(*SMALL, "--refresh")
    assert done.returncode == 0, done.stderr
    assert f"the measurements in {pool} are ignored" in " ".join(done.stderr.split())
    assert json.loads(pool.read_text())[0]["overhead"]


def test_the_second_of_two_tunings_waits_and_takes_over_the_answer(place: Place) -> None:
    with place.running(*SMALL, delay={"load": 1.0}) as first:
        place.wait_for("Starting to load model", first)
        second = place.run(*SMALL, "--json", "--wait", "600")
        assert second.returncode == 0, second.stderr
        assert f"waiting: another autotune (pid {first.pid}" in second.stderr
        assert json.loads(second.stdout)["launches"] == 0
        first.communicate(timeout=LATEST)
    assert first.returncode == 0


def test_waiting_can_be_interrupted(place: Place) -> None:
    with place.running(*LARGE, die_at="load", how="hang") as first:
        place.wait_for("Starting to load model", first)
        with place.running(*LARGE, "--wait") as second:
            assert second.stderr
            while "waiting: " not in (line := second.stderr.readline()):
                assert line
            second.terminate()
            _, said = second.communicate(timeout=LATEST)
            assert second.returncode == 143, said
            assert "Traceback" not in said
        first.terminate()
        first.communicate(timeout=LATEST)


def fingerprints(report: dict[str, Any]) -> list[str]:
    return [trial["fingerprint"] for trial in report["trials"]]


@pytest.mark.parametrize(("end", "torn"), [("SIGINT", False), ("SIGKILL", True), ("budget", False)])
def test_resume_continues_a_run_that_was_cut_short(place: Place, end: str, torn: bool) -> None:
    """The first launch is refused; in the second one the run ends, and then does not repeat."""
    if end == "budget":
        assert place.run(*SMALL, "--max-launches", "1").returncode == 4
    else:
        script = {"die_at": "load", "how": "hang", "only_with": ["--max-model-len"]}
        with place.running(*SMALL, **script) as process:
            place.wait_for("Starting to load model", process, 2)
            process.send_signal(signal.Signals[end])
            process.communicate(timeout=LATEST)
    (journal,) = place.results.rglob("journal.jsonl")
    if torn:
        with journal.open("a") as file:
            file.write('{"number": 2, "fingerprint": "0')
    done = place.run(*SMALL, "--resume", "--json")
    assert done.returncode == 0, done.stderr
    assert "1 launch saved" in done.stderr
    assert ("launch 2 is lost" in done.stderr) is torn
    report = json.loads(done.stdout)
    assert report == place.report()
    assert [trial["number"] for trial in report["trials"]] == [1, 2]
    assert [trial["outcome"]["kind"] for trial in report["trials"]] == ["out_of_memory", "stable"]
    assert len(set(fingerprints(report))) == report["launches"] == 2
    assert [json.loads(line)["number"] for line in journal.read_text().splitlines()] == [1, 2]
    assert report["winner"]["rungs"] == ["utilization", "shorter-context"]


def test_resume_launches_nothing_where_only_the_report_is_missing(tuned: Place) -> None:
    (path,) = tuned.results.rglob("report.json")
    before = json.loads(path.read_text())
    path.unlink()
    again = tuned.run(*SMALL, "--json", "--resume", "--refresh", die_at="spawn")
    assert again.returncode == 0, again.stderr
    after = json.loads(again.stdout)
    assert "2 launches saved" in again.stderr
    for name in ("winner", "trials", "skipped", "launches", "created_at", "status"):
        assert after[name] == before[name]


def test_an_unfinished_run_is_pointed_out_and_another_search_does_not_resume_it(
    place: Place,
) -> None:
    assert place.run(*SMALL, "--max-launches", "1").returncode == 4
    (journal,) = place.results.rglob("journal.jsonl")
    document = json.loads(journal.read_text())
    journal.write_text(json.dumps({**document, "fingerprint": "0"}) + "\n")
    done = place.run(*SMALL, "--resume")
    assert done.returncode == 0, done.stderr
    assert "conditions changed, the saved launches no longer apply" in done.stderr
    assert len(list(place.results.rglob("journal.jsonl"))) == 2
    assert (
        "is unfinished; --resume continues it"
        in place.run(*SMALL, "--refresh", "--max-launches", "1").stderr
    )


def test_resume_repeats_launches_that_failed_for_outside_reasons(place: Place) -> None:
    spoiled = place.run(*SMALL, mode="stranger", only_with=["--max-model-len"])
    assert spoiled.returncode == 3, spoiled.stderr
    assert len(place.report()["trials"]) == 3
    for _ in range(2):
        done = place.run(*SMALL, "--resume", "--json", "--refresh")
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        kinds = [trial["outcome"]["kind"] for trial in report["trials"]]
        assert kinds == ["out_of_memory", "environment", "environment", "stable"]
        for path in place.results.rglob("report.json"):
            path.unlink()


def test_a_closed_stderr_does_not_end_a_run(place: Place) -> None:
    with place.running(*SMALL, "--json") as process:
        assert process.stderr
        assert process.stdout
        process.stderr.readline()
        process.stderr.close()
        report = json.loads(process.stdout.read())
        assert process.wait(timeout=LATEST) == 0
    assert report["status"] == "stable"
    assert report == place.report()


def test_closing_the_terminal_ends_a_run_with_a_report(place: Place) -> None:
    ours, theirs = os.openpty()
    take_over = "import fcntl, termios; fcntl.ioctl(2, termios.TIOCSCTTY, 0); "
    command = place.command(*LARGE)
    command[2] = take_over + command[2]
    script: dict[str, object] = {"die_at": "load", "how": "hang"}
    process = subprocess.Popen(
        command,
        env=place.environment(script),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    try:
        deadline = time.monotonic() + LATEST
        while "Starting to load model" not in place.log():
            assert time.monotonic() < deadline
            if select.select([ours], [], [], 0.1)[0]:
                os.read(ours, 4096)
        os.close(ours)
        assert process.wait(timeout=LATEST) == 129
    finally:
        process.kill()
        process.wait()
    report = place.report()
    assert (report["status"], report["reason"]) == ("interrupted", "stopped by SIGHUP")


def test_nohup_outlives_the_terminal(place: Place) -> None:
    command = place.command(*SMALL)
    command[2] = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN); " + command[2]
    script: dict[str, object] = {"delay": {"load": 1}}
    with subprocess.Popen(
        command,
        env=place.environment(script),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        place.wait_for("Starting to load model", process)
        process.send_signal(signal.SIGHUP)
        assert process.wait(timeout=LATEST) == 0
    assert place.report()["status"] == "stable"


def test_no_secret_is_written_down_or_shown(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {
        "HF_TOKEN": "hf_0123456789",
        "AWS_SECRET_ACCESS_KEY": "aws-0123456789",
        "OPENAI_API_KEY": "sk-0123456789",
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    fixed = (*EAGER, "--hf-token", "hf_argument", "--api-key", "key-argument")
    done = place.run(*SMALL, fixed=fixed, mode="prints_environment")
    assert done.returncode == 0, done.stderr
    assert "'--hf-token', '[hidden]'" in place.log()
    written = [path.read_text() for path in place.folder.rglob("*.json*") if path.is_file()]
    for text in (place.log(), done.stdout, done.stderr, *written):
        for secret in (*secrets.values(), "hf_argument", "key-argument"):
            assert secret not in text
    for path in (*place.results.rglob("*"), *(place.folder / "cache").rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path
