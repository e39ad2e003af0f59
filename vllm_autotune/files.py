"""Files and folders: names, permissions, writes that are whole or absent and follow no link."""

import errno
import itertools
import os
import re
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from .errors import BadUsage, CannotWrite

# No document that is read whole is larger.
MOST_BYTES = 2**28
WRITE_HINT = "check permissions and free disk space, or use another --results-dir or --cache-dir"


def safe_name(text: str) -> str:
    """Return the text as one harmless path component."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip(".-")[:100] or "model"


def user_path(text: str) -> Path:
    """Return a path in which `~` is the home folder; raise BadUsage where nobody knows that."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        hint = "write the whole path, or set HOME"
        raise BadUsage(f"{text}: this user has no home folder", hint) from error


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file to read. Raises OSError, also for a pipe, which may never end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    what = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device, not a file"
    raise OSError(errno.EINVAL, what, str(path))


def read_bytes(path: Path) -> bytes:
    """Return a regular file's content. Raises OSError, as `open_regular` does."""
    with open_regular(path) as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise OSError(errno.EFBIG, f"larger than {MOST_BYTES >> 20} MiB", str(path))
    return content


def read_text(path: Path) -> str:
    """Return a regular file's text. Raises OSError as `read_bytes`, ValueError if not UTF-8."""
    return read_bytes(path).decode()


def text_of(path: Path) -> str:
    """Return a regular file's text, empty if it cannot be read."""
    try:
        return read_bytes(path).decode(errors="replace")
    except OSError:
        return ""


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, private to the user, or raise CannotWrite.

    A link on the way is followed only if this user or root made it.
    """
    try:
        _make(folder)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise cannot_write(folder, error) from error


def _make(folder: Path) -> None:
    for each in (*reversed(folder.parents), folder):
        each.mkdir(exist_ok=True, mode=0o700)
        status = each.lstat()
        if stat.S_ISLNK(status.st_mode) and status.st_uid not in (0, os.geteuid()):
            raise OSError(errno.EPERM, f"{each} is a link that another user made")


def create(path: Path) -> int:
    """Return the descriptor of a new empty file, private to the user, to read and write.

    What was there is replaced: a link is not followed, a pipe not waited for. Raises OSError.
    """
    with suppress(FileNotFoundError):
        path.unlink()
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def append_line(path: Path, line: str) -> None:
    """Add a line to a file of ours, safe on disk before this returns; or raise CannotWrite.

    Anything else that is there in its place, such as a link, is replaced by a copy of its text.
    """
    try:
        if os.path.lexists(path) and not is_ours(path):
            write_whole(path, text_of(path))
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
        with os.fdopen(os.open(path, flags | os.O_CLOEXEC, 0o600), "w", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise cannot_write(path, error) from error


def is_ours(path: Path) -> bool:
    """Tell whether there is a file of this user's, and not a link of whatever kind to one."""
    try:
        status = path.lstat()
    except OSError:
        return False
    mine = status.st_uid == os.geteuid() and status.st_nlink == 1
    return mine and stat.S_ISREG(status.st_mode)


def write_whole(path: Path, text: str, mode: int = 0o600) -> None:
    """Write a file or raise CannotWrite; a crash leaves the old file or the new one, never half.

    A link in the way is replaced, not followed.
    """
    temporary = None
    try:
        _make(path.parent)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(descriptor, mode)
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        Path(temporary).replace(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        if temporary:
            with suppress(OSError):
                Path(temporary).unlink(missing_ok=True)


def cannot_write(path: Path, error: OSError, hint: str = WRITE_HINT) -> CannotWrite:
    return CannotWrite(f"cannot write {path}: {error.strerror or error}", hint)


def replaceable_at(path: Path) -> Path | None:
    """Return the folder in which anybody could put another program at this path, None if nobody.

    Such a folder is open to all users, and what the path names in it belongs to one of them, or
    is not there.
    """
    for folder, child in itertools.pairwise((*reversed(path.parents), path)):
        with suppress(OSError):
            if folder.stat().st_mode & stat.S_IWOTH:
                owner = child.lstat().st_uid if os.path.lexists(child) else None
                if owner not in (0, os.geteuid()):
                    return folder
    return None
