"""Files: writes that are whole or absent, and that end up nowhere else."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.users import NOBODY, only_root
from vllm_autotune.errors import BadUsage, CannotWrite
from vllm_autotune.files import (
    append_line,
    create,
    make_folder,
    read_text,
    replaceable_at,
    text_of,
    user_path,
    write_whole,
)

ROOT = Path(__file__).parents[2]


def created(path: Path) -> None:
    descriptor = create(path)
    os.write(descriptor, b"new\n")
    os.close(descriptor)


WRITES: dict[str, Callable[[Path], None]] = {
    "write_whole": lambda path: write_whole(path, "new\n"),
    "create": created,
    "append_line": lambda path: append_line(path, "new"),
}
every_write = pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    """A folder that is in the way makes the last step fail, even for root."""
    target = tmp_path / "report.json"
    target.mkdir()
    (target / "old").write_text("old")
    with pytest.raises(CannotWrite, match="cannot write"):
        write_whole(target, "new")
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    assert (target / "old").read_text() == "old"


KILLED = """
import os, sys
from pathlib import Path
from vllm_autotune import files
os.fsync = lambda _: os._exit(9)
files.write_whole(Path(sys.argv[1]), "new" * 1000)
"""


def test_a_process_killed_while_it_writes_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "report.json"
    target.write_text("old")
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", KILLED, str(target)], env=env, check=False)
    assert done.returncode == 9
    assert target.read_text() == "old"


@every_write
def test_a_link_in_the_way_is_replaced_and_what_it_led_to_is_not_touched(
    write: Callable[[Path], None], tmp_path: Path
) -> None:
    victim, path = tmp_path / "victim", tmp_path / "file"
    victim.write_text("precious\n")
    for link in (path.symlink_to, path.hardlink_to):
        link(victim)
        write(path)
        assert path.read_text().endswith("new\n")
        assert not path.is_symlink()
        assert victim.read_text() == "precious\n"
        assert victim.stat().st_nlink == 1
        path.unlink()


@every_write
def test_a_pipe_in_the_way_is_replaced_and_not_waited_for(
    write: Callable[[Path], None], tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "file")
    write(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "new\n"


@every_write
def test_a_folder_in_the_way_is_refused(write: Callable[[Path], None], tmp_path: Path) -> None:
    with pytest.raises((CannotWrite, OSError)):
        write(tmp_path)


@every_write
def test_a_file_is_private_whatever_was_there(
    write: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / "file"
    write(path)
    assert path.stat().st_mode & 0o777 == 0o600


@only_root
@every_write
def test_another_users_file_is_not_written_into(
    write: Callable[[Path], None], tmp_path: Path
) -> None:
    """Who owns a file can read it, and can take away what was written."""
    path = tmp_path / "file"
    path.write_text("theirs\n")
    os.chown(path, NOBODY, NOBODY)
    write(path)
    assert path.stat().st_uid == 0


def test_lines_are_added_behind_the_others(tmp_path: Path) -> None:
    for line in ("a", "b"):
        append_line(tmp_path / "journal", line)
    assert (tmp_path / "journal").read_text() == "a\nb\n"


@only_root
def test_a_link_that_another_user_made_is_not_followed_to_a_folder(tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    link = tmp_path / "results"
    link.symlink_to(tmp_path / "victim")
    make_folder(link / "mine")  # our own link
    os.lchown(link, NOBODY, NOBODY)
    for write in (make_folder, lambda path: write_whole(path / "file", "x")):
        with pytest.raises(CannotWrite, match="is a link that another user made"):
            write(link / "theirs")
    assert [path.name for path in (tmp_path / "victim").iterdir()] == ["mine"]


def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(OSError, match=r"a pipe or a device|a folder"):
            read_text(path)
        assert text_of(path) == ""


def test_who_has_no_home_folder_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    assert user_path("~/models") == Path("/somewhere/models")
    with pytest.raises(BadUsage, match="has no home folder"):
        user_path("~no-such-user/models")


@only_root
def test_a_program_in_a_folder_for_all_is_trusted_only_if_it_is_ours(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    program = shared / "venv" / "bin" / "python"
    assert replaceable_at(program) == shared
    program.parent.mkdir(parents=True)
    assert replaceable_at(program) is None
    os.chown(shared / "venv", NOBODY, NOBODY)
    assert replaceable_at(program) == shared
    assert replaceable_at(Path(sys.executable)) is None
