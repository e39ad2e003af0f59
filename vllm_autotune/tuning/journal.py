"""The folder of one run: what it was begun with, a line per trial, logs, and the report."""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .. import __version__
from ..files import cannot_write, make_folder, write_whole
from ..owner import owned, read_owned
from ..report.report import Report, from_json, to_json, trial_from_line, trial_line
from ..search.trial import Trial

HEAD = "run.json"
JOURNAL = "journal.jsonl"
REPORT = "report.json"
# A run that ended so has nothing more to find.
FINISHED = ("stable", "exhausted")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run. `key` is the cache key of its answer, `began` an ISO time.

    `host_free_bytes` is what the search was told of the host's memory, `measured` how many
    measurements of earlier walks it was given.
    """

    folder: Path
    key: str
    began: str
    host_free_bytes: int
    measured: int = 0

    @classmethod
    def begin(
        cls, results: Path, key: str, began: str, host_free_bytes: int = 0, measured: int = 0
    ) -> "Run":
        """Make `results/<gpu>/<model>/<run>`.

        Raises CannotWrite.
        """
        run = cls(
            folder=_vacant(_folder(results, key, began)),
            key=key,
            began=began,
            host_free_bytes=host_free_bytes,
            measured=measured,
        )
        make_folder(run.folder)
        run.claim()
        return run

    def claim(self) -> None:
        """Say what this run was begun with, and that it is ours.

        Raises CannotWrite.
        """
        head = owned(
            key=self.key,
            began=self.began,
            host_free_bytes=self.host_free_bytes,
            measured=self.measured,
            autotune=__version__,
        )
        write_whole(self.folder / HEAD, head)

    def log(self, number: int) -> Path:
        """Return where a trial's server logs to."""
        return self.folder / f"trial-{number:02}.log"

    def append(self, trial: Trial) -> None:
        """Add a trial to the journal, safe on disk before this returns.

        Raises CannotWrite.
        """
        path = self.folder / JOURNAL
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as journal:
                journal.write(trial_line(trial) + "\n")
                journal.flush()
                os.fsync(journal.fileno())
        except OSError as error:
            raise cannot_write(path, error) from error

    def trials(self) -> tuple[list[Trial], str]:
        """Return the trials in the journal, and what had to be dropped, in words.

        Only the last line can be torn: what comes after a broken one counts for nothing.

        Raises CannotWrite.
        """
        path = self.folder / JOURNAL
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return [], ""
        except OSError as error:
            raise cannot_write(path, error) from error
        lines = [line for line in text.split("\n") if line]
        trials: list[Trial] = []
        with suppress(ValueError):
            for line in lines:
                trials.append(trial_from_line(line))
        whole = "".join(line + "\n" for line in lines[: len(trials)])
        if whole != text:
            write_whole(path, whole)
        if len(trials) == len(lines):
            return trials, ""
        return trials, f"the end of {path} was torn: launch {len(trials) + 1} is not in it"

    def finish(self, report: Report) -> Path:
        """Write the report; return its path.

        Raises CannotWrite.
        """
        path = self.folder / REPORT
        write_whole(path, to_json(report))
        return path


def keep(results: Path, report: Report) -> Path:
    """Make a recalled report the newest of the results, where its run wrote it; return its path.

    Raises CannotWrite.
    """
    path = _folder(results, report.cache.key, report.created_at) / REPORT
    if not path.exists():
        write_whole(path, to_json(report))
    with suppress(OSError):
        path.touch()
    return path


def unfinished(results: Path, key: str) -> Run | None:
    """Return the newest run for a key that nobody goes on with, None if there is none."""
    found = [run for run in _runs(_parent(results, key)) if run.key == key]
    return max(found, key=lambda run: (run.began, run.folder.name), default=None)


def _runs(parent: Path) -> Iterator[Run]:
    for path in parent.glob(f"*/{HEAD}"):
        owner, head = read_owned(path)
        with suppress(KeyError):
            ours = head["autotune"] == __version__
            if ours and not (owner and owner.is_alive) and not _finished(path.parent):
                yield Run(
                    folder=path.parent,
                    key=head["key"],
                    began=head["began"],
                    host_free_bytes=head["host_free_bytes"],
                    measured=head["measured"],
                )


def _finished(folder: Path) -> bool:
    try:
        report = from_json((folder / REPORT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return report.status in FINISHED


def _parent(results: Path, key: str) -> Path:
    gpu, model, _ = key.split("/")
    return results / gpu / model.split("@")[0]


def _folder(results: Path, key: str, began: str) -> Path:
    stamp = began[:19].translate({ord("-"): "", ord(":"): "", ord("T"): "-"})
    return _parent(results, key) / f"{stamp}-{key.rpartition('/')[2][:6]}"


def _vacant(wanted: Path) -> Path:
    number, folder = 1, wanted
    while folder.exists():
        number += 1
        folder = wanted.with_name(f"{wanted.name}-{number}")
    return folder
