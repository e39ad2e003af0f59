"""The folder of one run: what it was started with, a line per trial, logs, and the report."""

import os
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import median

from .. import __version__
from ..files import (
    append_line,
    cannot_write,
    is_ours,
    make_folder,
    read_bytes,
    read_text,
    write_whole,
)
from ..launch.progress import UsualTimes
from ..owner import owned, read_owned
from ..report.codec import dump, load
from ..report.read import parse_report
from ..report.report import Report
from ..search.trial import Trial

HEAD = "run.json"
JOURNAL = "journal.jsonl"
REPORT = "report.json"
# What the head contains besides the owner and the version.
FIELDS = ("key", "began", "host_free_bytes", "measured")
# A run with one of these statuses has nothing more to find.
ANSWERED = ("stable", "exhausted")


@dataclass(frozen=True, slots=True)
class Run:
    """One run: `key` is the cache key of its answer, `began` an ISO time.

    `host_free_bytes` and the number of `measured` boots of earlier walks are what the search was
    given. Reading or writing the folder raises CannotWrite.
    """

    folder: Path
    key: str
    began: str
    host_free_bytes: int
    measured: int = 0

    @classmethod
    def create(
        cls, results: Path, key: str, began: str, host_free_bytes: int = 0, measured: int = 0
    ) -> "Run":
        """Make the run and its folder, `results/<gpu>/<model>/<run>`."""
        wanted = _folder(results, key, began)
        others = (wanted.with_name(f"{wanted.name}-{number}") for number in count(2))
        folder = wanted if not wanted.exists() else next(f for f in others if not f.exists())
        run = cls(folder, key, began, host_free_bytes, measured)
        make_folder(folder)
        run.write_head()
        return run

    def write_head(self) -> None:
        """Write what the run was started with, and that this process owns it."""
        given = {name: getattr(self, name) for name in FIELDS}
        write_whole(self.folder / HEAD, owned(**given, autotune=__version__))

    def log_file(self, number: int) -> Path:
        return self.folder / f"trial-{number:02}.log"

    def add_trial(self, trial: Trial) -> None:
        """Add a trial to the journal, safe on disk before this returns."""
        append_line(self.folder / JOURNAL, dump(trial))

    def read_trials(self) -> tuple[list[Trial], str]:
        """Return the trials before the first damaged line, and a note for the user if there is one.

        The journal is cut there.
        """
        path = self.folder / JOURNAL
        try:
            text = read_bytes(path).decode(errors="replace")
        except FileNotFoundError:
            return [], ""
        except OSError as error:
            raise cannot_write(path, error) from error
        lines = [line for line in text.split("\n") if line]
        trials: list[Trial] = []
        with suppress(ValueError):
            for line in lines:
                trials.append(load(Trial, line))
        whole = "".join(line + "\n" for line in lines[: len(trials)])
        if whole != text:
            write_whole(path, whole)
        damaged = f"the end of {path} is damaged: launch {len(trials) + 1} is lost"
        return trials, damaged if len(trials) < len(lines) else ""

    def write_report(self, report: Report) -> Path:
        path = self.folder / REPORT
        write_whole(path, dump(report, indent=2))
        return path


def write_recalled(results: Path, report: Report) -> Path:
    """Write a recalled report where its run wrote it, as the newest result; return its path."""
    path = _folder(results, report.cache.key, report.created_at) / REPORT
    if not is_ours(path):
        write_whole(path, dump(report, indent=2))
    with suppress(OSError):
        os.utime(path, follow_symlinks=False)
    return path


def usual_times(results: Path, key: str, devices: int) -> UsualTimes | None:
    """Return what launches of the model took on so many such devices, None where there is none."""
    starts, probes = [], []
    for path in _folder(results, key, "").parent.glob(f"*/{REPORT}"):
        with suppress(OSError, ValueError):
            for trial in parse_report(read_text(path)).trials:
                used = max(1, trial.config.world_size)
                if trial.startup_seconds and trial.probe_seconds and used == devices:
                    starts.append(trial.startup_seconds)
                    probes.append(trial.probe_seconds)
    return UsualTimes(start=median(starts), probe=median(probes)) if starts else None


def find_unfinished(results: Path, key: str) -> Run | None:
    """Return the newest run for a key without an answer or a living owner, None without one."""
    found = []
    for path in _folder(results, key, "").parent.glob(f"*/{HEAD}"):
        owner, head = read_owned(path)
        with suppress(KeyError):
            run = Run(folder=path.parent, **{name: head[name] for name in FIELDS})
            ours = run.key == key and head["autotune"] == __version__
            if ours and not (owner and owner.is_alive) and not _answered(run.folder):
                found.append(run)
    return max(found, key=lambda run: (run.began, run.folder.name), default=None)


def _answered(folder: Path) -> bool:
    with suppress(OSError, ValueError):
        return parse_report(read_text(folder / REPORT)).status in ANSWERED
    return False


def _folder(results: Path, key: str, began: str) -> Path:
    gpu, model, digest = key.split("/")
    stamp = began[:19].translate({ord("-"): "", ord(":"): "", ord("T"): "-"})
    return results / gpu / model.split("@")[0] / f"{stamp}-{digest[:6]}"
