"""One tuning per device at a time: a lock per device, and a note that names its holder."""

import errno
import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import CannotWrite, DeviceBusy
from ..files import cannot_write, safe_name, write_whole
from ..machine.device import Device
from ..owner import Owner, owned, read_owned

Say = Callable[[str], None]
POLL_SECONDS = 0.5
# Where every program of the machine looks, whatever its TMPDIR. Not /dev/shm first: systemd's
# RemoveIPC deletes a user's files there, locks among them, when the user logs out.
FOLDERS = (Path("/tmp"), Path("/dev/shm"))  # noqa: S108  the folder of the locks is everyone's
FOLDER_VARIABLE = "AUTOTUNE_LOCK_DIR"
HINT = f"name another folder for locks in {FOLDER_VARIABLE}; all who share the GPU must name it"
# What flock says where another process holds the lock, and where there are no locks at all.
HELD = (errno.EWOULDBLOCK, errno.EACCES)
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


@contextmanager
def locked(
    devices: Iterable[Device], model: str, wait: float = 0.0, say: Say = lambda _: None
) -> Iterator[None]:
    """Hold every device for the length of the block.

    `wait` is how many seconds to wait for another tuning, `say` is told which one that is. The
    locks hold for all users of the machine. They are taken in one order, so that two tunings
    never wait for each other. Raises DeviceBusy when a device is not released in time.
    """
    folder, deadline = _folder(), time.monotonic() + wait
    with ExitStack() as held:
        for device in sorted(devices, key=lambda d: d.uuid):
            held.enter_context(DeviceLock(folder, device).held(model, deadline, say))
        yield


@dataclass(frozen=True, slots=True)
class DeviceLock:
    """The files of one device: a lock, and next to it a note by the process that holds it."""

    folder: Path
    device: Device

    @contextmanager
    def held(self, model: str, deadline: float, say: Say) -> Iterator[None]:
        """Hold the lock for the length of the block; raise DeviceBusy at `deadline` (monotonic)."""
        path = self.folder / f"{safe_name(self.device.uuid)}.lock"
        descriptor = _opened(path)
        try:
            self._acquire(path, descriptor, deadline, say)
            note = self._write_note(model)
            try:
                yield
            finally:
                with suppress(OSError):
                    note.unlink()
        finally:
            os.close(descriptor)  # which releases the lock

    def _acquire(self, path: Path, descriptor: int, deadline: float, say: Say) -> None:
        said = False
        while not _taken(path, descriptor):
            if time.monotonic() >= deadline:
                hint = (
                    "wait for it to end (--wait): concurrent runs distort each other's measurements"
                )
                raise DeviceBusy(self._holder(), hint)
            if not said:
                say(f"waiting: {self._holder()}")
                said = True
            time.sleep(min(POLL_SECONDS, max(0.0, deadline - time.monotonic())))

    def _write_note(self, model: str) -> Path:
        """Note that we hold the lock, and remove the notes of dead holders."""
        for path, owner, _ in self._notes():
            if owner.is_dead:
                with suppress(OSError):  # another user's
                    path.unlink()
        path = self.folder / f"{safe_name(self.device.uuid)}.{os.getpid()}.json"
        since = datetime.now(UTC).isoformat(timespec="seconds")
        with suppress(CannotWrite):  # the lock is what counts
            write_whole(path, owned(model=model, since=since), mode=0o644)
        return path

    def _holder(self) -> str:
        """Return who is tuning on the device, as a sentence."""
        details = (
            f" (pid {owner.pid}, {note.get('model')}, since {note.get('since')})"
            for _, owner, note in self._notes()
            if not owner.is_dead
        )
        who = f"another autotune{next(details, '')}"
        return f"{who} is tuning on {self.device.name} ({self.device.uuid})"

    def _notes(self) -> Iterator[tuple[Path, Owner, dict[str, Any]]]:
        for path in sorted(self.folder.glob(f"{safe_name(self.device.uuid)}.*.json")):
            owner, document = (None, {}) if path.is_symlink() else read_owned(path)
            if owner:
                yield path, owner, document


def _opened(path: Path) -> int:
    """Return the descriptor of a lock file, made for all users if it is missing.

    Nothing is followed, truncated or changed that another user may have put there.
    """
    flags = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        with suppress(FileExistsError):
            descriptor = os.open(path, flags | os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            os.fchmod(descriptor, 0o666)  # whatever the umask
            return descriptor
        try:
            descriptor = os.open(path, flags | os.O_RDWR)
        except PermissionError:
            descriptor = os.open(path, flags)  # enough to lock it, but on NFS
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _not_ours(path, "a link") from error
        raise cannot_write(path, error, HINT) from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        os.close(descriptor)
        raise _not_ours(path, "no lock file")
    return descriptor


def _taken(path: Path, descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in HELD:
            return False
        if error.errno in NO_LOCKS:
            reason = f"the file system of {path.parent} has no file locks ({error.strerror})"
            raise CannotWrite(reason, HINT) from error
        raise cannot_write(path, error, HINT) from error
    return True


def _folder() -> Path:
    """Return the folder of the locks, made for all users if it is missing.

    Its owner can only make others wait. Raises CannotWrite for one that is a link, or in which
    one user can replace another's files.
    """
    given = os.environ.get(FOLDER_VARIABLE)
    usable = (folder for folder in FOLDERS if os.access(folder, os.W_OK | os.X_OK))
    parent = Path(given) if given else next(usable, Path(tempfile.gettempdir()))
    folder = parent / "vllm-autotune.locks"
    try:
        with suppress(FileExistsError):
            _make_for_all(folder)
        status = folder.lstat()
    except OSError as error:
        raise cannot_write(folder, error, HINT) from error
    if not stat.S_ISDIR(status.st_mode):
        raise _not_ours(folder, "a link" if stat.S_ISLNK(status.st_mode) else "not a folder")
    mine = status.st_uid in (0, os.geteuid())
    shared = bool(status.st_mode & (stat.S_IWGRP | stat.S_IWOTH))
    if not (status.st_mode & stat.S_ISVTX or (mine and not shared)):
        raise _not_ours(folder, "a folder in which other users can replace locks")
    return folder


def _make_for_all(folder: Path) -> None:
    before = os.umask(0)
    try:
        folder.mkdir(mode=0o1777)
    finally:
        os.umask(before)


def _not_ours(path: Path, what: str) -> CannotWrite:
    return CannotWrite(f"{path} is {what}: it is not used", f"remove it, or {HINT}")
