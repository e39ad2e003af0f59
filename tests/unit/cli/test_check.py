"""`autotune check` of an address."""

import socket

from tests.support.command import Autotune


def test_a_server_that_is_not_there_is_no_server(autotune: Autotune) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        ended = autotune("check", "--url", f"http://127.0.0.1:{port}", "--api-key", "sk-secret")
    ended.refused(3, f"no server at http://127.0.0.1:{port}")
    assert "sk-secret" not in ended.out + ended.err


def test_an_address_that_is_empty(autotune: Autotune) -> None:
    autotune("check", "--url", "").refused(2, "--url is empty")
