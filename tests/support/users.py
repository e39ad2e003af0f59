"""Other users of the machine, whom only root can play."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

NOBODY = 65534

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can play another user")


@contextmanager
def open_folder() -> Iterator[Path]:
    """Make a folder that every user can read; those of pytest are private."""
    folder = Path(tempfile.mkdtemp(prefix="p-", dir="/tmp"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def as_nobody(call: Callable[[], object]) -> str:
    """Call a function as another user, in a process of its own; return what it raised, or ""."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        raised = ""
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            call()
        except BaseException as error:  # noqa: BLE001  the parent is told
            raised = f"{type(error).__name__}: {error} {getattr(error, 'hint', '')}"
        os.write(writing, raised.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        raised = pipe.read()
    os.waitpid(pid, 0)
    return raised
