"""What is written for whoever reads it, for as long as somebody does."""

import codecs
import errno
import io
import os
import sys
from typing import TextIO

# What a write to a pipe into `head`, and to a terminal that was closed, fails with.
GONE = (errno.EPIPE, errno.EIO)


class Output:
    """A stream for as long as somebody holds its other end; nothing after that.

    A reader that leaves must not end a run, nor leave a server. `needed` output fails where
    there is a reader and no room, as on a full disk.
    """

    def __init__(self, stream: TextIO, *, needed: bool) -> None:
        self._stream, self._needed = stream, needed

    @property
    def encoding(self) -> str:
        """Return the stream's."""
        return self._stream.encoding

    def isatty(self) -> bool:
        """Tell whether it is a terminal."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """Return its file descriptor."""
        return self._stream.fileno()

    def write(self, text: str) -> int:
        """Write text, and return its length."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._let_go(error)
            return len(text)

    def flush(self) -> None:
        """Hand on what was written."""
        try:
            self._stream.flush()
        except OSError as error:
            self._let_go(error)

    def _let_go(self, error: OSError) -> None:
        """Send what is still to be written nowhere: Python would fail on it again as it ends."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)
        if self._needed and error.errno not in GONE:
            raise error


def prepare_streams() -> None:
    """Make stdout and stderr take any text, whatever they are; a closed one has no reader."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass  # else a file of ours would be opened in the place of a closed one, and written to
    os.close(number)
    codecs.register_error("autotune", _escaped)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            setattr(sys, name, os.fdopen(nowhere, "w", encoding="utf-8", errors="autotune"))
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="autotune")


def _escaped(error: UnicodeError) -> tuple[str, int]:
    """Write what an encoding has no letter for as JSON does, so that a document stays one."""
    assert isinstance(error, UnicodeEncodeError)
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4)), error.end


def shown(text: str) -> str:
    """Return text with the bytes of a path that are not UTF-8 as a document can hold them."""
    return text.encode(errors="backslashreplace").decode()


def say(text: str) -> None:
    """Write a document or a line on stdout, word for word."""
    output = Output(sys.stdout, needed=True)
    output.write(f"{text}\n")
    output.flush()
