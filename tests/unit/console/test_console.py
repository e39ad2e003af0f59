"""What a person sees: plain text, nothing that steers the terminal, results alone on stdout."""

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from tests.support.reports import NARROW, STABLE, make_report, prediction, trial
from vllm_autotune.console.outcomes import print_outcome
from vllm_autotune.console.reports import print_report, print_reports
from vllm_autotune.console.screen import Screen
from vllm_autotune.console.wording import clean, duration, sentence
from vllm_autotune.errors import NoPort
from vllm_autotune.launch.progress import Progress, UsualTimes
from vllm_autotune.memory import Interval
from vllm_autotune.outcome import OutOfMemory, Phase, Speed
from vllm_autotune.report.report import Memory
from vllm_autotune.search.trial import Accuracy, Candidate, Compared
from vllm_autotune.vllm.config import LaunchConfig

HOSTILE = "\x1b[2J\x1b]0;owned\x07[bold]x[/bold] [/] \r\n\x00"
FAILED = OutOfMemory(cause="oom", phase="kv_cache", reason=HOSTILE)


def test_text_from_elsewhere_cannot_steer_the_terminal() -> None:
    assert clean(HOSTILE).isprintable()
    assert "[bold]x[/bold]" in clean(HOSTILE)


def test_a_report_is_shown_with_markup_as_it_was_written(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report = replace(make_report(trial(FAILED), trial(STABLE)), reason=HOSTILE)
    print_report(report, "results/report.json")
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "[bold]x[/bold]" in out
    assert out.rstrip().splitlines()[-1].startswith("VLLM_X='a b' vllm serve")


def test_a_path_is_not_read_as_markup(capsys: pytest.CaptureFixture[str]) -> None:
    report = make_report()
    report = replace(report, model=replace(report.model, path="/models/llama[awq]/[/b]"))
    print_report(report, "/results/[bold]/report.json")
    shown = capsys.readouterr().out
    assert "/models/llama[awq]/[/b]" in shown
    assert "/results/[bold]/report.json" in shown


def test_a_long_command_stays_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    report = make_report()
    assert report.winner
    argv = ("vllm", "serve", *(f"--flag-{number}" for number in range(100)))
    print_report(replace(report, winner=replace(report.winner, argv=argv)), None)
    last = capsys.readouterr().out.rstrip().splitlines()[-1]
    assert last.endswith("--flag-99")
    assert last.startswith("VLLM_X=")


def test_the_speed_is_told_in_two_lines(capsys: pytest.CaptureFixture[str]) -> None:
    alone = Speed(
        requests=1,
        prompt_tokens=2032,
        ttft_seconds=0.37,
        worst_ttft_seconds=0.37,
        inter_token_seconds=0.0206,
        prefill_tokens_per_second=5491.9,
        decode_tokens_per_second=48.6,
    )
    four = replace(alone, requests=4, ttft_seconds=1.31, worst_ttft_seconds=1.58)
    report = make_report()
    assert report.winner
    proof = replace(
        STABLE.certificate, speeds=(alone, four, four), kv_usage_peak=0.927, preemptions=3
    )
    print_report(replace(report, winner=replace(report.winner, certificate=proof)), None)
    out = capsys.readouterr().out
    lines = out.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("speed"))
    assert [line.split(":")[0] for line in lines[at : at + 3]] == [
        "speed      1 request of 2,032 tokens",
        "           4 requests of 2,032 tokens at once",
        lines[at + 2],
    ]
    assert "first token after 370 ms, then one every 20.6 ms; 5,492 tokens/s read, 49" in out
    assert "first token after 1.3 s (slowest 1.6 s)" in out
    assert "KV cache up to 93% full, 3 preemptions" in out
    print_outcome(replace(STABLE, certificate=proof))
    assert "\nspeed  1 request of 2,032 tokens: first token" in capsys.readouterr().out


def test_a_report_without_a_winner_is_shown_too(capsys: pytest.CaptureFixture[str]) -> None:
    print_report(replace(make_report(status="exhausted"), hint="accept less"), None)
    out = capsys.readouterr().out
    assert "exhausted" in out
    assert "hint: accept less" in out
    assert "start it with" not in out


def test_a_hit_says_that_it_took_no_launch(capsys: pytest.CaptureFixture[str]) -> None:
    report = make_report()
    print_report(replace(report, cache=replace(report.cache, hit=True), launches=0), None)
    assert "0 (recalled from the cache" in capsys.readouterr().out


def test_several_reports_make_one_table(capsys: pytest.CaptureFixture[str]) -> None:
    print_reports([make_report(), make_report(status="exhausted")])
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split()[:3] == ["device", "memory", "model"]
    stable, exhausted = sorted(lines, key=lambda line: "exhausted" in line)
    assert stable.split()[:3] == ["1", "x", "NVIDIA"]
    assert stable.split()[-5:] == ["shorter-context", "16", "1", "3.0", "s"]  # no KV tokens known
    assert exhausted.split()[-4:] == ["exhausted", "0", "3.0", "s"]
    assert stable.index("16") + 2 == header.index("context") + len("context")


def test_a_launch_is_told_line_by_line_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = LaunchConfig("m", {"max-model-len": 16})
    with Screen() as screen:
        screen.begin(1, Candidate(config=config, rungs=(), predicted=prediction(NARROW)))
        for seconds in (1.0, 2.0, 3.0):
            screen.progress(Progress(phase="load", seconds=seconds, line=HOSTILE, free_bytes=2**30))
        screen.progress(Progress(phase="graphs", seconds=4, line="", free_bytes=None))
        screen.end(trial(FAILED))
        screen.refuse(NoPort(HOSTILE, "try another"))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("loading weights") == 1
    assert captured.err.count("capturing graphs") == 1
    assert "launch 1  as it is  --max-model-len 16" in captured.err
    assert "hint: try another" in captured.err
    assert "\x1b" not in captured.err


@pytest.mark.parametrize("usual", [None, UsualTimes(start=40.0, probe=10.0)])
def test_a_terminal_is_shown_how_far_a_launch_is_of_what_is_usual(usual: UsualTimes | None) -> None:
    config = LaunchConfig("m", {})
    with Screen() as screen:
        screen.console = Console(file=io.StringIO(), force_terminal=True, width=100)
        screen.usual = lambda _: usual
        screen.begin(1, Candidate(config=config, rungs=(), predicted=prediction(NARROW)))
        bars = []
        for seconds, item in ((10.0, None), (99.0, None), (50.0, "chat"), (55.0, "chat")):
            phase: Phase = "serving" if item else "load"
            now = Progress(phase=phase, seconds=seconds, line="", free_bytes=2**30, item=item)
            screen.progress(now)
            assert screen.live
            console = Console(file=io.StringIO(), width=100)
            console.print(screen.live.renderable)
            bars.append(console.file.getvalue())  # type: ignore[attr-defined]
    assert all("1.0 GiB free" in bar for bar in bars)
    assert ["usually" in bar for bar in bars] == [usual is not None] * 4
    if usual:
        assert [bar.count("━") for bar in bars[:2]] == [4, 16], "of 16 cells; longer than usual"
        assert "usually 40 s" in bars[0]
        assert "usually 10 s" in bars[3]
        assert [bar.count("━") for bar in bars[2:]] == [0, 8]


def test_an_outcome_is_a_sentence() -> None:
    assert sentence(STABLE) == "stable: 0 requests answered correctly in 1.5 s"
    plain = replace(FAILED, reason="5 GiB are lacking")
    assert sentence(plain) == "out of memory while sizing the KV cache: 5 GiB are lacking"


def test_a_report_says_how_right_the_prediction_was(capsys: pytest.CaptureFixture[str]) -> None:
    gib = 2**30
    found = Accuracy(
        weights=Compared(predicted=Interval(14 * gib, 14.5 * gib), measured=14.25 * gib),
        kv_available=Compared(predicted=Interval(-gib, 2 * gib), measured=gib),
    )
    report = make_report(trial(FAILED), replace(trial(STABLE), accuracy=found))
    print_report(report, None)
    out = capsys.readouterr().out
    assert "predicted  weights 14.00 to 14.50 GiB, measured 14.25 GiB" in out
    assert "           KV cache -1.00 to 2.00 GiB, measured 1.00 GiB" in out
    assert "other" not in out
    assert "graphs" not in out


def test_a_report_says_where_the_memory_went(capsys: pytest.CaptureFixture[str]) -> None:
    gib = 2**30
    memory = Memory(
        reserved=11 * gib,
        weights=8 * gib,
        kv_cache=2 * gib,
        activations=gib,
        graphs=0,
        least_free=3 * gib,
    )
    report = make_report()
    assert report.winner
    winner = replace(report.winner, memory=memory, kv_cache_tokens=9000)
    print_report(replace(report, winner=winner), None)
    out = capsys.readouterr().out
    parts = "weights 8.0 GiB, KV cache 2.0 GiB, activations 1.0 GiB"
    assert [line.rstrip() for line in out.splitlines() if "GiB" in line] == [
        f"memory     11.0 GiB reserved: {parts}",
        "           at least 3.0 GiB stayed free under load",
    ]
    assert "context    16 of the model's 32 tokens, 9,000 fit in the KV cache" in out
    print_report(replace(report, winner=replace(winner, memory=Memory(reserved=gib))), None)
    assert "memory     1.0 GiB reserved\n" in re.sub(" +\n", "\n", capsys.readouterr().out)


def test_what_is_skipped_and_given_up_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    print_report(make_report(trial(FAILED), trial(STABLE)), None)
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert "skipped r: so" in lines
    assert "gives up   context" in lines
    assert lines[-2] == "start it with:"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0206, "20.6 ms"),
        (1.234, "1.2 s"),
        (59.4, "59 s"),
        (249, "4 min 9 s"),
        (7199.6, "2 h 0 min"),
        (7500, "2 h 5 min"),
    ],
)
def test_a_time_has_a_unit_a_person_reads(seconds: float, text: str) -> None:
    assert duration(seconds) == text
