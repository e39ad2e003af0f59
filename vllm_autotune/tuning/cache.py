"""The cache of this user: answers by key, and what earlier launches measured."""

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from .. import __version__
from ..errors import BadReport, CannotWrite
from ..files import make_folder, read_bytes, read_text, safe_name, write_whole
from ..machine.cards import kind_slug
from ..machine.device import Device
from ..memory import Boot
from ..report.codec import dump, load
from ..report.read import parse_report
from ..report.report import Report, Stored
from ..search.facts import Facts

CACHE_TAG = "CACHEDIR.TAG"
# https://bford.info/cachedir/
CACHE_TAG_TEXT = "Signature: 8a477f597d28d172789f06886806bc55\n# Answers of vllm-autotune.\n"

KEY = re.compile(r"\w[\w.-]*/\w[\w.@-]*/[0-9a-f]{16}", re.ASCII)
BOOTS_FOLDER = "measured"
# For one kind of device and vLLM; the oldest are dropped first.
MOST_BOOTS = 200
Boots = tuple[Boot, ...]


def default_cache() -> Path:
    """Return the user's cache folder. Raises CannotWrite for a user that has no home folder."""
    from platformdirs import user_cache_path  # noqa: PLC0415

    with suppress(RuntimeError):  # since 4.14; older ones return `~/.cache`
        folder = user_cache_path("autotune", appauthor=False)
        if folder.is_absolute():
            return folder
    hint = "name a folder with --cache-dir, or set HOME"
    raise CannotWrite("this user has no home folder for a cache", hint)


def cache_key(facts: Facts) -> str:
    """Return `<gpu>-<GiB>g-x<count>/<model>@<revision>/<digest>` of what is asked for.

    All of it is known where neither the GPU nor vLLM is. What else an answer depends on (the exact
    memory, the driver, torch) is compared when it is recalled.
    """
    devices, engine = (*facts.devices, *facts.busy), facts.engine
    content = {
        "weights": {name: c.digest for name, c in facts.checkpoints.items()},
        "workload": asdict(facts.workload),
        "fixed": dict(facts.fixed),
        "env": dict(facts.env),
        "ladder": [facts.ladder.text, [rung.name for rung in facts.ladder.rungs]],
        "headroom": facts.headroom_bytes,
        "engine": engine.version.partition("+")[0],
        "devices": [[kind_slug(d), d.limit_bytes, d.mig] for d in devices],
    }
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
    model = safe_name(Path(facts.model).name or facts.model)
    revision = safe_name((facts.checkpoint.revision or "local")[:12])
    return f"{kind_slug(devices[0])}-x{len(devices)}/{model}@{revision}/{digest}"


def cards(devices: Iterable[Device]) -> list[list[object]]:
    """Return what an answer depends on of the devices, and not of which ones of a kind they are."""
    return [
        [d.name, d.memory_bytes, d.limit_bytes, (d.driver or "").split(".")[0], d.mig]
        for d in devices
    ]


@dataclass(frozen=True, slots=True)
class AnswerCache:
    """Answers by key, and what launches measured: an index that may be deleted at any time.

    Writing raises CannotWrite, and so does deleting in a folder that may not be a cache.
    """

    folder: Path

    def prepare(self) -> None:
        make_folder(self.folder)
        if not (self.folder / CACHE_TAG).exists():
            write_whole(self.folder / CACHE_TAG, CACHE_TAG_TEXT)

    def recall(self, key: str) -> Report | str | None:
        """Return the answer for a key, None if there is none, or the reason it cannot be used."""
        path = self._answer(key)
        try:
            return parse_report(read_text(path))
        except FileNotFoundError:
            return None
        except OSError as error:
            return f"the cache entry {path} cannot be read: {error.strerror}"
        except ValueError as error:
            return f"the cache entry {path} is ignored: {error}"

    def remember(self, key: str, report: Report) -> None:
        """Keep an answer; raise BadReport for a malformed key."""
        if not KEY.fullmatch(key):
            raise BadReport(f"`{key}` is not the key of an answer", "see autotune cache list")
        self.prepare()
        write_whole(self._answer(key), dump(report, indent=2))

    def with_boots(self, facts: Facts, note: Callable[[str], None]) -> Facts:
        """Return the facts with the boots that earlier walks measured on such devices."""
        return replace(facts, boots=self._boots(facts, note))

    def add_boot(self, facts: Facts, boot: Boot) -> None:
        kept = self._boots(facts, lambda _: None)[-MOST_BOOTS + 1 :]
        write_whole(self._boots_file(facts), dump((*kept, boot), Boots, indent=1))

    def keys(self) -> list[str]:
        """Return the key of every answer. Raises CannotWrite if the folder cannot be read."""
        if self.folder.is_dir() and not os.access(self.folder, os.R_OK | os.X_OK):
            hint = "ask its owner, or use another --cache-dir"
            raise CannotWrite(f"the cache {self.folder} is not yours to read", hint)
        files = self.folder.glob("*/*/*.json")
        return sorted(str(f.relative_to(self.folder).with_suffix("")) for f in files)

    def stored(self) -> list[Stored]:
        """Return what is told of every answer in a list."""
        found, now = [], time.time()
        for key in self.keys():
            with suppress(FileNotFoundError):  # another run removed it
                age = max(0.0, now - self._answer(key).stat().st_mtime)
                found.append(_stored(key, round(age, 1), self.recall(key)))
        return found

    def prune(self, days: float) -> list[str]:
        """Delete answers older than `days` and those that cannot be read; return their keys."""
        keys, now, forgotten = self.keys(), time.time(), []
        self._require_tag(keys)
        for key in keys:
            path = self._answer(key)
            with suppress(FileNotFoundError):  # another run removed it
                if now - path.stat().st_mtime > days * 86400 or isinstance(self.recall(key), str):
                    _remove(path)
                    forgotten.append(key)
        return forgotten

    def clear(self) -> int:
        """Delete every answer and measurement; return the number of answers."""
        answers = [self._answer(key) for key in self.keys()]
        files = [*answers, *(self.folder / BOOTS_FOLDER).glob("*.json")]
        self._require_tag(files)
        for file in files:
            with suppress(FileNotFoundError):
                _remove(file)
        return len(answers)

    def _answer(self, key: str) -> Path:
        return self.folder / f"{key}.json"

    def _boots_file(self, facts: Facts) -> Path:
        # Ratios to an estimate hold for the autotune that made it.
        versions = safe_name(f"vllm-{facts.engine.version}-autotune-{__version__}")
        return self.folder / BOOTS_FOLDER / f"{facts.devices[0].slug}-{versions}.json"

    def _boots(self, facts: Facts, note: Callable[[str], None]) -> Boots:
        path = self._boots_file(facts)
        try:
            return load(Boots, read_bytes(path))
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            note(f"the measurements in {path} are ignored: {error}")
        return ()

    def _require_tag(self, files: Sequence[object]) -> None:
        if files and not (self.folder / CACHE_TAG).exists():
            reason = f"{self.folder} has no {CACHE_TAG}, so it may not be a cache"
            raise CannotWrite(reason, "delete the folder yourself if it is one")


def _stored(key: str, age: float, found: Report | str | None) -> Stored:
    winner = found.winner if isinstance(found, Report) else None
    if not isinstance(found, Report) or winner is None:
        problem = found if isinstance(found, str) else "it has no winner"
        return Stored(key=key, age_seconds=age, problem=problem)
    return Stored(
        key=key,
        age_seconds=age,
        device=winner.valid_for.device,
        count=winner.valid_for.count,
        model=found.model.path,
        vllm=found.versions.vllm,
        max_model_len=winner.max_model_len,
        max_num_seqs=winner.max_num_seqs,
    )


def _remove(file: Path) -> None:
    try:
        file.unlink()
    except FileNotFoundError:
        raise
    except OSError as error:
        hint = "check permissions, and whether the disk may be written to"
        raise CannotWrite(f"cannot remove {file}: {error.strerror}", hint) from error
