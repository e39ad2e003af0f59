"""What is written for a reader, for as long as there is one."""

import codecs
import errno
import io
import os
import sys
from collections.abc import Callable
from typing import TextIO

# What a write to a pipe into `head`, and to a terminal that was closed, fails with.
READER_GONE = (errno.EPIPE, errno.EIO)


class Output:
    """A stream as long as somebody holds its other end; what is written after that is dropped.

    A reader that leaves must not end a run, nor leave a server. `needed` output fails where
    there is a reader but no space, as on a full disk.
    """

    def __init__(self, stream: TextIO, *, needed: bool) -> None:
        self._stream, self._needed = stream, needed
        self.encoding, self.isatty, self.fileno = stream.encoding, stream.isatty, stream.fileno

    def write(self, text: str) -> int:
        self._attempt(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._attempt(self._stream.flush)

    def _attempt(self, write: Callable[[], object]) -> None:
        try:
            write()
        except OSError as error:
            # What is still buffered goes nowhere: Python would fail on it again when it exits.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
            if self._needed and error.errno not in READER_GONE:
                raise


def prepare_streams() -> None:
    """Make stdout and stderr take any text; one that is closed gets no reader."""
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
    """Return the text for a character that the encoding lacks, as JSON writes it."""
    assert isinstance(error, UnicodeEncodeError)
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4)), error.end


def shown(text: str) -> str:
    """Return the text with bytes of a path that are not UTF-8 escaped, so that JSON can hold it."""
    return text.encode(errors="backslashreplace").decode()


def can_say(text: str) -> bool:
    """Tell whether stdout has every character of the text."""
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def say(text: str) -> None:
    output = Output(sys.stdout, needed=True)
    output.write(f"{text}\n")
    output.flush()
