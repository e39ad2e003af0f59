"""`autotune check` of an address."""

import socket
from pathlib import Path

from tests.support.command import Autotune
from tests.support.reports import answer_for
from vllm_autotune.machine.device import detect
from vllm_autotune.report.codec import dump
from vllm_autotune.search.ladder_file import find_ladder, read_ladder
from vllm_autotune.tuning.gather import Request, gather_facts
from vllm_autotune.tuning.lock import locked


def test_a_server_that_is_not_there_is_no_server(autotune: Autotune) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        ended = autotune("check", "--url", f"http://127.0.0.1:{port}", "--api-key", "sk-secret")
    ended.refused(3, f"no server at http://127.0.0.1:{port}")
    assert "sk-secret" not in ended.out + ended.err


def test_an_address_that_is_empty(autotune: Autotune) -> None:
    autotune("check", "--url", "").refused(2, "--url is empty")


def test_a_check_waits_for_another_run_on_the_device(
    autotune: Autotune, model: Path, tmp_path: Path
) -> None:
    request = Request(model=str(model), ladder=read_ladder(find_ladder("default")))
    report = tmp_path / "report.json"
    report.write_text(dump(answer_for(gather_facts(request))))
    with locked(detect("cpu"), "the model of another"):
        autotune("check", report).refused(3, "the model of another")
        waited = autotune("check", report, "--wait", "0.1")
    waited.refused(3, "waiting: another autotune", "the model of another")
