"""Owners: a process is known by its number and its start, where both mean something."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from vllm_autotune.owner import Owner


def test_we_are_alive() -> None:
    us = Owner.this()
    assert us.is_alive
    assert not us.is_dead
    assert Owner.read(json.loads(json.dumps(us.document()))) == us


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


@pytest.mark.parametrize("document", [None, [], {}, "x", {"pid": "a"}, {"pid": 1, "started": None}])
def test_what_names_no_owner_is_none(document: object) -> None:
    assert Owner.read(document) is None
