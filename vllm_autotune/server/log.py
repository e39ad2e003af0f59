"""A server's output: all of it to a reader, its beginning and end to disk."""

import codecs
import os
import select
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ..errors import CannotWrite
from ..files import create
from ..vllm.credentials import HIDDEN

# How much of a log is kept on disk: of its beginning, and of its end.
HEAD = 16 * 2**20
TAIL = 16 * 2**20

MAX_PIECE = 1 << 22
# With this much text unread, the server has to wait for the reader.
MAX_UNREAD = 32 * 2**20
WAKE_SECONDS = 0.1


class Log:
    """A pipe that a server writes into, emptied by a thread.

    On disk the end of a long log overwrites itself in a ring behind the head; `close` unrolls it.
    No byte waits in this process to be written: what SIGKILL leaves on disk is all there was.
    """

    def __init__(
        self, path: Path, secrets: Sequence[str] = (), head: int = HEAD, tail: int = TAIL
    ) -> None:
        self.path = path
        self.head, self.tail = head, tail
        self._secrets = [secret.encode() for secret in secrets]
        self._held = b""  # the end of what was read, while it may be the beginning of a secret
        self._size = 0
        self._error: OSError | None = None
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._unread: deque[str] = deque()
        self._unread_size = 0
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._file = create(path)
        self._pipe, self.writer = os.pipe()
        os.set_blocking(self._pipe, False)
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    @property
    def cut_bytes(self) -> int:
        return max(0, self._size - self.head - self.tail)

    def close_writer(self) -> None:
        """Close our copy of the pipe's end that the server writes into."""
        with suppress(OSError):
            os.close(self.writer)
        self.writer = -1

    def new_text(self) -> str:
        """Return the text since the last call, 4 MiB at most; raise CannotWrite for a full disk."""
        with self._lock:
            self._empty_pipe()
            text, size = [], 0
            while self._unread and size + len(self._unread[0]) <= MAX_PIECE:
                text.append(self._unread.popleft())
                size += len(text[-1])
            self._unread_size -= size
        if self._error is not None:
            hint = "free some disk space, then run the same command with --resume"
            raise CannotWrite(f"cannot write {self.path}: {self._error.strerror}", hint)
        return "".join(text)

    def close(self) -> None:
        """Take what is left in the pipe, whoever still holds it open, and finish the file."""
        self.close_writer()
        self._closing.set()
        self._thread.join()
        with self._lock:
            if self._pipe < 0:
                return
            self._unread_size = 0
            self._empty_pipe()
            self._take(b"", last=True)
            with suppress(OSError):
                self._unroll_ring()
            pipe, self._pipe = self._pipe, -1
            os.close(pipe)
            os.close(self._file)

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._pipe, select.POLLIN)
        full = False
        while not self._closing.wait(WAKE_SECONDS if full else 0):
            poll.poll(WAKE_SECONDS * 1000)
            with self._lock:
                if not self._empty_pipe():
                    return
                full = self._unread_size >= MAX_UNREAD

    def _empty_pipe(self) -> bool:
        """Take what the pipe holds; return False once nobody can write into it any more."""
        while self._pipe >= 0 and self._unread_size < MAX_UNREAD:
            try:
                data = os.read(self._pipe, 1 << 16)
            except BlockingIOError:
                return True
            if not data:
                return False
            self._take(data)
        return self._pipe >= 0

    def _take(self, data: bytes, *, last: bool = False) -> None:
        data = self._held + data
        for secret in self._secrets:
            data = data.replace(secret, HIDDEN.encode())
        begun = 0 if last else max((_begun(secret, data) for secret in self._secrets), default=0)
        data, self._held = data[: len(data) - begun], data[len(data) - begun :]
        text = self._decoder.decode(data, last)
        if text:
            self._unread.append(text)
            self._unread_size += len(text)
        if self._error is None:
            try:
                self._write(data)
            except OSError as error:
                self._error = error  # but go on reading: the server must not wait for us

    def _write(self, data: bytes) -> None:
        while data:
            beyond = self._size - self.head
            at = self._size if beyond < 0 else self.head + beyond % self.tail
            room = -beyond if beyond < 0 else self.tail - beyond % self.tail
            done = os.pwrite(self._file, data[:room], at)
            self._size += done
            data = data[done:]

    def _unroll_ring(self) -> None:
        if not self.cut_bytes:
            return
        ring = os.pread(self._file, self.tail, self.head)
        start = (self._size - self.head) % self.tail
        note = f"\n[autotune: {self.cut_bytes} bytes of this log are left out here]\n"
        rest, at = note.encode() + ring[start:] + ring[:start], self.head
        while rest:
            done = os.pwrite(self._file, rest, at)
            at, rest = at + done, rest[done:]


def _begun(secret: bytes, data: bytes) -> int:
    """Return how many bytes at the end of the data may be the beginning of the secret."""
    longest = min(len(secret) - 1, len(data))
    return next((n for n in range(longest, 0, -1) if data.endswith(secret[:n])), 0)
