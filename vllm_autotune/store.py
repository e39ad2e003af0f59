"""Files: the cache and its keys, the journal of a run, locks, writes that are whole or absent."""

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from . import __version__
from .device import Device
from .errors import CannotWrite, DeviceBusy
from .facts import Facts
from .memory import Measurement
from .report import Report, Trial, from_json, to_json, trial_line

CACHE_TAG = "CACHEDIR.TAG"
# https://bford.info/cachedir/
CACHE_TAG_TEXT = "Signature: 8a477f597d28d172789f06886806bc55\n# Answers of vllm-autotune.\n"

# Measurements of one kind of device and vLLM; the oldest are forgotten first.
POOL = "measured"
POOLED = 200

# A winner that gave something up is looked for again once this much more memory is free.
MORE_MEMORY = 1.1


def default_cache() -> Path:
    """Return the cache folder of this user."""
    from platformdirs import user_cache_path  # noqa: PLC0415

    return user_cache_path("autotune", appauthor=False)


def cache_key(facts: Facts) -> str:
    """Return `<gpu>-<GiB>g-x<count>/<model>@<revision>/<digest>`.

    The digest covers everything that could change the answer.
    """
    checkpoint, devices, engine = facts.checkpoint, facts.devices, facts.engine
    content = {
        "weights": {name: c.digest for name, c in facts.checkpoints.items()},
        "workload": asdict(facts.workload),
        "fixed": dict(facts.fixed),
        "ladder": [facts.ladder.text, [rung.name for rung in facts.ladder.rungs]],
        "headroom": facts.headroom_bytes,
        "engine": [engine.version, engine.torch],
        "devices": [
            [d.name, d.memory_bytes, d.limit_bytes, (d.driver or "").split(".")[0], d.mig]
            for d in devices
        ],
    }
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
    model = safe_name(Path(facts.model).name or facts.model)
    revision = safe_name((checkpoint.revision or "local")[:12])
    return f"{devices[0].slug}-x{len(devices)}/{model}@{revision}/{digest}"


def safe_name(text: str) -> str:
    """Return text as one harmless path component."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip(".-")[:100] or "model"


@dataclass(frozen=True, slots=True)
class Cache:
    """Answers by key: an index that may be deleted at any time."""

    folder: Path

    def recall(self, key: str) -> Report | str | None:
        """Return the answer for a key, None if there is none, or why it cannot be used."""
        path = self.folder / f"{key}.json"
        try:
            return from_json(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            return f"the cache entry {path} is ignored: {error}"

    def remember(self, key: str, report: Report) -> None:
        """Keep an answer.

        Raises CannotWrite.
        """
        self.prepare()
        write_whole(self.folder / f"{key}.json", to_json(report))

    def pooled(self, facts: Facts, note: Callable[[str], None]) -> Facts:
        """Return the facts with what earlier walks measured on such devices."""
        measured = self._measured(facts)
        if isinstance(measured, str):
            note(measured)
            return facts
        return replace(facts, measured=measured)

    def _measured(self, facts: Facts) -> tuple[Measurement, ...] | str:
        path = self._pool(facts)
        try:
            return _measurements().validate_json(path.read_bytes())
        except FileNotFoundError:
            return ()
        except ValidationError as error:
            return f"the measurements in {path} are ignored: {error.errors()[0]['msg']}"
        except OSError as error:
            return f"the measurements in {path} are ignored: {error}"

    def measure(self, facts: Facts, measurement: Measurement) -> None:
        """Keep what a launch measured.

        Raises CannotWrite.
        """
        before = self._measured(facts)
        kept = () if isinstance(before, str) else before[-POOLED + 1 :]
        text = _measurements().dump_json((*kept, measurement), indent=1).decode()
        write_whole(self._pool(facts), text)

    def _pool(self, facts: Facts) -> Path:
        # Ratios to an estimate hold for the autotune that made it.
        versions = safe_name(f"vllm-{facts.engine.version}-autotune-{__version__}")
        return self.folder / POOL / f"{facts.devices[0].slug}-{versions}.json"

    def prepare(self) -> None:
        """Make the folder, private to the user.

        Raises CannotWrite.
        """
        make_folder(self.folder)
        if not (self.folder / CACHE_TAG).exists():
            write_whole(self.folder / CACHE_TAG, CACHE_TAG_TEXT)

    def keys(self) -> list[str]:
        """Return the keys of all answers."""
        files = self.folder.glob("*/*/*.json")
        return sorted(str(f.relative_to(self.folder).with_suffix("")) for f in files)

    def clear(self) -> int:
        """Forget every answer and measurement; return how many answers there were.

        Raises CannotWrite for a folder that is no cache of ours.
        """
        keys, pools = self.keys(), list((self.folder / POOL).glob("*.json"))
        if (keys or pools) and not (self.folder / CACHE_TAG).exists():
            raise CannotWrite(
                f"{self.folder} has no {CACHE_TAG}, so it may not be a cache",
                "remove the folder by hand if it is one",
            )
        for key in keys:
            (self.folder / f"{key}.json").unlink(missing_ok=True)
        for pool in pools:
            pool.unlink(missing_ok=True)
        return len(keys)


@cache
def _measurements() -> TypeAdapter[tuple[Measurement, ...]]:
    return TypeAdapter(tuple[Measurement, ...])


@contextmanager
def locked(devices: Iterable[Device]) -> Iterator[None]:
    """Hold every device for the length of the block: one tuning per device at a time.

    The locks are the machine's, not the user's: whoever tunes on a GPU falsifies the others.

    Raises DeviceBusy when another tuning holds one.
    """
    from filelock import FileLock, Timeout  # noqa: PLC0415

    folder = Path(tempfile.gettempdir()) / "vllm-autotune.locks"
    try:
        folder.mkdir(exist_ok=True)
        with suppress(PermissionError):  # another user made it, and did this
            folder.chmod(0o1777)
    except OSError as error:
        raise _cannot(folder, error) from error
    held: list[FileLock] = []
    try:
        for device in devices:
            lock = FileLock(folder / f"{safe_name(device.uuid)}.lock", timeout=0, mode=0o666)
            try:
                lock.acquire()
            except Timeout as error:
                raise DeviceBusy(
                    f"another autotune is tuning on {device.name} ({device.uuid})",
                    "wait for it to end: two tunings on one device falsify each other",
                ) from error
            held.append(lock)
        yield
    finally:
        for lock in held:
            lock.release()


def still_valid(report: Report, facts: Facts) -> str | None:
    """Return why a recalled answer cannot be used on these devices now, None if it can."""
    winner = report.winner
    if winner is None:
        return "it has no winner"
    needed, was = winner.valid_for.needed_bytes, winner.valid_for.budget_bytes
    budget = min(facts.budget(d) for d in facts.devices[: winner.valid_for.count])
    if budget < needed:
        return f"it needs {needed / 2**30:.1f} GiB, {budget / 2**30:.1f} GiB may be used now"
    if winner.gives_up and budget > was * MORE_MEMORY:
        return "more memory is free now than when it was found: a better one may fit"
    return None


@dataclass(frozen=True, slots=True)
class Run:
    """The folder of one run: a journal of trials, their logs, and the report."""

    folder: Path

    @classmethod
    def begin(cls, results: Path, key: str, stamp: str) -> "Run":
        """Make `results/<gpu>/<model>/<run>`.

        Raises CannotWrite.
        """
        gpu, model, digest = key.split("/")
        parent = results / gpu / model.split("@")[0]
        for suffix in ("", *(f"-{n}" for n in range(2, 100))):
            folder = parent / f"{stamp}-{digest[:6]}{suffix}"
            if not folder.exists():
                make_folder(folder)
                return cls(folder)
        raise CannotWrite(f"{parent} holds too many runs of this second", "try again")

    def log(self, number: int) -> Path:
        """Return where a trial's server logs to."""
        return self.folder / f"trial-{number:02}.log"

    def append(self, trial: Trial) -> None:
        """Add a trial to the journal, safe on disk before this returns.

        Raises CannotWrite.
        """
        path = self.folder / "journal.jsonl"
        try:
            with path.open("a", encoding="utf-8") as journal:
                journal.write(trial_line(trial) + "\n")
                journal.flush()
                os.fsync(journal.fileno())
        except OSError as error:
            raise _cannot(path, error) from error

    def finish(self, report: Report) -> Path:
        """Write the report; return its path.

        Raises CannotWrite.
        """
        path = self.folder / "report.json"
        write_whole(path, to_json(report))
        return path


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, private to the user.

    Raises CannotWrite.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _cannot(folder, error) from error


def write_whole(path: Path, text: str) -> None:
    """Write a file so that a crash at any point leaves the old one or the new one.

    Raises CannotWrite.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with temporary.open("w", encoding="utf-8") as file:
            temporary.chmod(0o600)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise _cannot(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _cannot(path: Path, error: OSError) -> CannotWrite:
    return CannotWrite(
        f"cannot write {path}: {error.strerror or error}",
        "check the folder's rights and the free disk space, or choose another with "
        "--results-dir or --cache-dir",
    )
