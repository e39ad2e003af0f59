"""Owners: a process is known by its number and its start, where both mean something."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from vllm_autotune.owner import Owner, owned, read_owned


def test_we_are_alive() -> None:
    us = Owner.this()
    assert us.is_alive
    assert not us.is_dead


def test_a_file_names_its_owner_beside_what_else_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "owned.json"
    path.write_text(owned(model="m", since=7))
    owner, document = read_owned(path)
    assert owner == Owner.this()
    assert (document["model"], document["since"]) == ("m", 7)


def test_another_process_with_our_number_is_not_us() -> None:
    earlier = replace(Owner.this(), started=1)
    assert earlier.is_dead
    assert not earlier.is_alive


def test_a_process_of_which_only_the_exit_code_is_left_is_dead() -> None:
    code = "from vllm_autotune.owner import Owner; print(Owner.this().started)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout
        started = int(child.stdout.read())
        owner = replace(Owner.this(), pid=child.pid, started=started)
        with open(f"/proc/{child.pid}/stat") as status:  # noqa: PTH123
            assert f"{child.pid} (" in status.read()  # nobody has waited for it yet
        while not owner.is_dead:
            pass


def test_of_another_machine_nobody_can_say() -> None:
    elsewhere = replace(Owner.this(), machine="other boot pid:[1]", pid=1, started=1)
    assert not elsewhere.is_alive
    assert not elsewhere.is_dead


@pytest.mark.parametrize("document", [{}, {"pid": "a"}, {"pid": 1, "started": None, "x": 2}])
def test_a_document_that_names_no_owner_is_still_read(
    tmp_path: Path, document: dict[str, object]
) -> None:
    path = tmp_path / "owned.json"
    path.write_text(json.dumps(document))
    assert read_owned(path) == (None, document)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"null", b"[]", b"[1]", b'"x"', b"7", b"\xff", None]
)
def test_a_file_that_holds_no_document_has_no_owner(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "owned.json"
    if content is not None:
        path.write_bytes(content)
    assert read_owned(path) == (None, {})
