"""Files and folders: names, permissions, and writes that are whole or absent."""

import os
import re
import tempfile
from contextlib import suppress
from pathlib import Path

from .errors import CannotWrite


def safe_name(text: str) -> str:
    """Return the text as one harmless path component."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip(".-")[:100] or "model"


def text_of(file: Path) -> str:
    """Return a file's text, empty if it cannot be read."""
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, private to the user, or raise CannotWrite."""
    try:
        for each in (*reversed(folder.parents), folder):
            each.mkdir(exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise cannot_write(folder, error) from error


def write_whole(path: Path, text: str) -> None:
    """Write a file or raise CannotWrite; a crash leaves the old file or the new one, never half."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        for each in reversed(path.parents):
            each.mkdir(exist_ok=True, mode=0o700)
        with temporary.open("w", encoding="utf-8") as file:
            temporary.chmod(0o600)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def cannot_write(path: Path, error: OSError) -> CannotWrite:
    hint = "check permissions and free disk space, or use another --results-dir or --cache-dir"
    return CannotWrite(f"cannot write {path}: {error.strerror or error}", hint)
