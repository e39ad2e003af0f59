"""The cache of this user: answers by key, and what earlier launches measured."""

import hashlib
import json
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from .. import __version__
from ..errors import BadReport, CannotWrite
from ..files import make_folder, safe_name, write_whole
from ..memory import Boot
from ..report.codec import dump, load
from ..report.report import Report, parse_report
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
    from platformdirs import user_cache_path  # noqa: PLC0415

    return user_cache_path("autotune", appauthor=False)


def cache_key(facts: Facts) -> str:
    """Return `<gpu>-<GiB>g-x<count>/<model>@<revision>/<digest>` of all that decides the answer."""
    devices, engine = facts.devices, facts.engine
    content = {
        "weights": {name: c.digest for name, c in facts.checkpoints.items()},
        "workload": asdict(facts.workload),
        "fixed": dict(facts.fixed),
        "env": dict(facts.env),
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
    revision = safe_name((facts.checkpoint.revision or "local")[:12])
    return f"{devices[0].slug}-x{len(devices)}/{model}@{revision}/{digest}"


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
            return parse_report(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
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
        files = self.folder.glob("*/*/*.json")
        return sorted(str(f.relative_to(self.folder).with_suffix("")) for f in files)

    def prune(self, days: float) -> list[str]:
        """Delete answers older than `days` and those that cannot be read; return their keys."""
        keys, now, forgotten = self.keys(), time.time(), []
        self._require_tag(keys)
        for key in keys:
            path = self._answer(key)
            with suppress(OSError):
                if now - path.stat().st_mtime > days * 86400 or isinstance(self.recall(key), str):
                    path.unlink()
                    forgotten.append(key)
        return forgotten

    def clear(self) -> int:
        """Delete every answer and measurement; return the number of answers."""
        answers = [self._answer(key) for key in self.keys()]
        files = [*answers, *(self.folder / BOOTS_FOLDER).glob("*.json")]
        self._require_tag(files)
        for file in files:
            file.unlink(missing_ok=True)
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
            return load(Boots, path.read_bytes())
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            note(f"the measurements in {path} are ignored: {error}")
        return ()

    def _require_tag(self, files: Sequence[object]) -> None:
        if files and not (self.folder / CACHE_TAG).exists():
            reason = f"{self.folder} has no {CACHE_TAG}, so it may not be a cache"
            raise CannotWrite(reason, "delete the folder yourself if it is one")
