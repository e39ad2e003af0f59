"""One tuning per device at a time: a lock per device, and a note that names its holder."""

import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..errors import DeviceBusy
from ..files import cannot_write, safe_name
from ..machine.device import Device
from ..owner import Owner, owned, read_owned

Say = Callable[[str], None]
POLL_SECONDS = 0.5
# Where every program of the machine looks, whatever its TMPDIR. Not /dev/shm first: systemd's
# RemoveIPC deletes a user's files there, locks among them, when the user logs out.
FOLDERS = (Path("/tmp"), Path("/dev/shm"))  # noqa: S108  the folder of the locks is everyone's
FOLDER_VARIABLE = "AUTOTUNE_LOCK_DIR"


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
        with self._acquired(deadline, say):
            note = self._write_note(model)
            try:
                yield
            finally:
                note.unlink(missing_ok=True)

    def _acquired(self, deadline: float, say: Say) -> AbstractContextManager[object]:
        lock = FileLock(self.folder / f"{safe_name(self.device.uuid)}.lock", mode=0o666)
        with suppress(Timeout):
            return lock.acquire(timeout=0)
        seconds = deadline - time.monotonic()
        if seconds > 0:
            say(f"waiting: {self._holder()}")
            with suppress(Timeout):
                return lock.acquire(timeout=seconds, poll_interval=POLL_SECONDS)
        hint = "wait for it to end (--wait): concurrent runs distort each other's measurements"
        raise DeviceBusy(self._holder(), hint)

    def _write_note(self, model: str) -> Path:
        """Note that we hold the lock, and remove the notes of dead holders."""
        for path, owner, _ in self._notes():
            if owner.is_dead:
                with suppress(OSError):  # another user's
                    path.unlink()
        path = self.folder / f"{safe_name(self.device.uuid)}.{os.getpid()}.json"
        since = datetime.now(UTC).isoformat(timespec="seconds")
        with suppress(OSError):  # the lock is what counts
            path.write_text(owned(model=model, since=since), encoding="utf-8")
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
            owner, document = read_owned(path)
            if owner:
                yield path, owner, document


def _folder() -> Path:
    given = os.environ.get(FOLDER_VARIABLE)
    usable = (folder for folder in FOLDERS if os.access(folder, os.W_OK | os.X_OK))
    parent = Path(given) if given else next(usable, Path(tempfile.gettempdir()))
    folder = parent / "vllm-autotune.locks"
    try:
        folder.mkdir(exist_ok=True)
        with suppress(PermissionError):  # another user made it, and did this
            folder.chmod(0o1777)
    except OSError as error:
        raise cannot_write(folder, error) from error
    return folder
