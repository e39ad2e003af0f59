"""The cache: answers by key, and what launches measured."""

import hashlib
import json
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from .. import __version__
from ..errors import BadReport, CannotWrite
from ..files import make_folder, safe_name, write_whole
from ..memory import Boot
from ..report.report import Report, from_json, to_json
from ..search.facts import Facts

CACHE_TAG = "CACHEDIR.TAG"
# https://bford.info/cachedir/
CACHE_TAG_TEXT = "Signature: 8a477f597d28d172789f06886806bc55\n# Answers of vllm-autotune.\n"

# `<gpu>-<GiB>g-x<count>/<model>@<revision>/<digest>`
KEY = re.compile(r"\w[\w.-]*/\w[\w.@-]*/[0-9a-f]{16}", re.ASCII)

# Measurements of one kind of device and vLLM; the oldest are forgotten first.
POOL = "measured"
POOLED = 200


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
    revision = safe_name((checkpoint.revision or "local")[:12])
    return f"{devices[0].slug}-x{len(devices)}/{model}@{revision}/{digest}"


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

        Raises CannotWrite, and BadReport for a key that is none of ours.
        """
        if not KEY.fullmatch(key):
            raise BadReport(f"`{key}` is not the key of an answer", "autotune cache list")
        self.prepare()
        write_whole(self.folder / f"{key}.json", to_json(report))

    def pooled(self, facts: Facts, note: Callable[[str], None]) -> Facts:
        """Return the facts with what earlier walks measured on such devices."""
        measured = self._measured(facts)
        if isinstance(measured, str):
            note(measured)
            return facts
        return replace(facts, boots=measured)

    def _measured(self, facts: Facts) -> tuple[Boot, ...] | str:
        path = self._pool(facts)
        try:
            return _measurements().validate_json(path.read_bytes())
        except FileNotFoundError:
            return ()
        except ValidationError as error:
            return f"the measurements in {path} are ignored: {error.errors()[0]['msg']}"
        except OSError as error:
            return f"the measurements in {path} are ignored: {error}"

    def measure(self, facts: Facts, measurement: Boot) -> None:
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

    def prune(self, days: float) -> list[str]:
        """Forget the answers kept longer ago, and those that cannot be read; return their keys.

        Raises CannotWrite for a folder that is no cache of ours.
        """
        keys, now, forgotten = self.keys(), time.time(), []
        self._refuse_strange(keys)
        for key in keys:
            path = self.folder / f"{key}.json"
            with suppress(OSError):
                if now - path.stat().st_mtime > days * 86400 or isinstance(self.recall(key), str):
                    path.unlink()
                    forgotten.append(key)
        return forgotten

    def clear(self) -> int:
        """Forget every answer and measurement; return how many answers there were.

        Raises CannotWrite for a folder that is no cache of ours.
        """
        keys, pools = self.keys(), list((self.folder / POOL).glob("*.json"))
        self._refuse_strange([*keys, *pools])
        for key in keys:
            (self.folder / f"{key}.json").unlink(missing_ok=True)
        for pool in pools:
            pool.unlink(missing_ok=True)
        return len(keys)

    def _refuse_strange(self, found: Sequence[object]) -> None:
        if found and not (self.folder / CACHE_TAG).exists():
            raise CannotWrite(
                f"{self.folder} has no {CACHE_TAG}, so it may not be a cache",
                "remove the folder by hand if it is one",
            )


@cache
def _measurements() -> TypeAdapter[tuple[Boot, ...]]:
    return TypeAdapter(tuple[Boot, ...])
