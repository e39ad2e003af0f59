"""A server's output: whole to whoever reads along, head and tail of it to disk."""

import codecs
import os
import select
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ..credentials import HIDDEN
from ..errors import CannotWrite

# What a log may take on disk: so much of its beginning, and so much of its end.
HEAD = 16 * 2**20
TAIL = 16 * 2**20

PIECE = 1 << 22
# Who reads slower than a server writes holds it up from here on.
MOST_UNREAD = 32 * 2**20
WAKE_SECONDS = 0.1


class Log:
    """A pipe that a server writes into, emptied by a thread.

    The end of a long log overwrites itself in a ring behind the head; `close` puts it in order.
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
        self._waiting = 0
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        self._pipe, self.writer = os.pipe()
        os.set_blocking(self._pipe, False)
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    @property
    def cut_bytes(self) -> int:
        """Return how much was left out on disk."""
        return max(0, self._size - self.head - self.tail)

    def started(self) -> None:
        """Let go of the end that the server writes into: when all of its are closed, it is over."""
        with suppress(OSError):
            os.close(self.writer)
        self.writer = -1

    def new_text(self) -> str:
        """Return what was written since the last call, 4 MiB at most.

        Raises CannotWrite when the disk did not take it.
        """
        with self._lock:
            self._empty()
            text, size = [], 0
            while self._unread and size + len(self._unread[0]) <= PIECE:
                text.append(self._unread.popleft())
                size += len(text[-1])
            self._waiting -= size
        if self._error is not None:
            raise CannotWrite(
                f"cannot write {self.path}: {self._error.strerror}",
                "free some disk space, then run the same command with --resume",
            )
        return "".join(text)

    def close(self) -> None:
        """Take what is left and put the file in order."""
        self.started()
        self._over.set()
        self._thread.join()
        with self._lock:
            if self._pipe < 0:
                return
            self._waiting = 0
            self._empty()
            self._take(b"", last=True)
            with suppress(OSError):
                self._put_in_order()
            pipe, self._pipe, file, self._file = self._pipe, -1, self._file, -1
            os.close(pipe)
            os.close(file)

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._pipe, select.POLLIN)
        while not self._over.is_set():
            poll.poll(WAKE_SECONDS * 1000)
            with self._lock:
                going_on = self._empty()
                full = self._waiting >= MOST_UNREAD
            if not going_on:
                return
            if full:
                time.sleep(WAKE_SECONDS)

    def _empty(self) -> bool:
        """Take what the pipe holds; return False once nobody can write into it any more."""
        while self._pipe >= 0 and self._waiting < MOST_UNREAD:
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
        held = 0 if last else max((_begun(secret, data) for secret in self._secrets), default=0)
        data, self._held = data[: len(data) - held], data[len(data) - held :]
        text = self._decoder.decode(data, last)
        if text:
            self._unread.append(text)
            self._waiting += len(text)
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

    def _put_in_order(self) -> None:
        if not self.cut_bytes:
            return
        ring = os.pread(self._file, self.tail, self.head)
        start = (self._size - self.head) % self.tail
        note = f"\n[autotune: {self.cut_bytes} bytes of this log are left out here]\n"
        rest = note.encode() + ring[start:] + ring[:start]
        at = self.head
        while rest:
            done = os.pwrite(self._file, rest, at)
            at, rest = at + done, rest[done:]


def _begun(secret: bytes, data: bytes) -> int:
    """Return how many bytes at the end of the data may be the beginning of the secret."""
    longest = min(len(secret) - 1, len(data))
    return next((n for n in range(longest, 0, -1) if data.endswith(secret[:n])), 0)
