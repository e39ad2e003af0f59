"""One tuning per device at a time: a lock per device, and who holds it."""

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import DeviceBusy
from ..files import cannot_write, safe_name
from ..machine.device import Device
from ..owner import Owner

POLL_SECONDS = 0.5
# Where every program of the machine looks, whatever its TMPDIR. Not /dev/shm first: what is there
# of a user is removed when the user logs out (RemoveIPC of systemd), and a lock with it.
PLACES = (Path("/tmp"), Path("/dev/shm"))  # noqa: S108  the folder of the locks is everyone's
PLACE_VARIABLE = "AUTOTUNE_LOCK_DIR"


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """How long to wait for another tuning, in seconds, and who is told for whom."""

    seconds: float = 0.0
    say: Callable[[str], None] = lambda _: None


@contextmanager
def locked(devices: Iterable[Device], model: str, waiting: Waiting | None = None) -> Iterator[None]:
    """Hold every device for the length of the block.

    The locks are the machine's, not the user's: whoever tunes on a GPU falsifies the others.
    They are taken in one order, so that two tunings never wait for each other.

    Raises DeviceBusy when another tuning holds one and goes on holding it.
    """
    folder = _folder()
    deadline = time.monotonic() + (waiting.seconds if waiting else 0.0)
    held: list[tuple[FileLock, Path]] = []
    try:
        for device in sorted(devices, key=lambda d: d.uuid):
            place = _Place(folder, device)
            lock = place.acquire(deadline, waiting.say if waiting else None)
            held.append((lock, place.sign(model)))
        yield
    finally:
        for lock, sign in held:
            sign.unlink(missing_ok=True)
            lock.release()


@dataclass(frozen=True, slots=True)
class _Place:
    """The files of one device: a lock, and beside it a sign that says whose it is."""

    folder: Path
    device: Device

    def acquire(self, deadline: float, say: Callable[[str], None] | None) -> FileLock:
        lock = FileLock(self.folder / f"{self.name}.lock", timeout=0, mode=0o666)
        told = ""
        while True:
            try:
                lock.acquire()
            except Timeout as error:
                holder = self.holder()
                what = f"{holder} is tuning on {self.device.name} ({self.device.uuid})"
                if time.monotonic() >= deadline:
                    raise DeviceBusy(
                        what,
                        "wait for it to end (--wait): two tunings on one device falsify each other",
                    ) from error
                if say and holder != told:
                    say(f"waiting: {what}")
                    told = holder
                time.sleep(min(POLL_SECONDS, max(0.0, deadline - time.monotonic())))
            else:
                return lock

    @property
    def name(self) -> str:
        return safe_name(self.device.uuid)

    def sign(self, model: str) -> Path:
        """Say that we hold the lock, and take away what dead holders said."""
        for path, owner, _ in self.signs():
            if owner.is_dead:
                with suppress(OSError):  # another user's
                    path.unlink()
        path = self.folder / f"{self.name}.{os.getpid()}.json"
        since = datetime.now(UTC).isoformat(timespec="seconds")
        document = {**Owner.this().document(), "model": model, "since": since}
        with suppress(OSError):  # the lock is what counts
            path.write_text(json.dumps(document), encoding="utf-8")
        return path

    def holder(self) -> str:
        """Return in words who holds the lock."""
        for _, owner, document in self.signs():
            if not owner.is_dead:
                model, since = document.get("model"), document.get("since")
                return f"another autotune (pid {owner.pid}, {model}, since {since})"
        return "another autotune"

    def signs(self) -> Iterator[tuple[Path, Owner, dict[str, object]]]:
        for path in sorted(self.folder.glob(f"{self.name}.*.json")):
            with suppress(OSError, ValueError):
                document = json.loads(path.read_text(encoding="utf-8"))
                owner = Owner.read(document)
                if owner:
                    yield path, owner, document


def _folder() -> Path:
    given = os.environ.get(PLACE_VARIABLE)
    usable = (place for place in PLACES if os.access(place, os.W_OK | os.X_OK))
    place = Path(given) if given else next(usable, Path(tempfile.gettempdir()))
    folder = place / "vllm-autotune.locks"
    try:
        folder.mkdir(exist_ok=True)
        with suppress(PermissionError):  # another user made it, and did this
            folder.chmod(0o1777)
    except OSError as error:
        raise cannot_write(folder, error) from error
    return folder
