"""The ladder: strategies/*.toml read into rungs, with every mistake named by line."""

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from ..errors import BadLadder
from ..outcome import PHASES, Phase
from ..vllm.config import Value
from ..vllm.untrusted import FORBIDDEN_HINT, forbidden

PACKAGE = Path(__file__).parents[1]

Fit = Literal[
    "gpu-memory-utilization",
    "max-model-len",
    "max-num-seqs",
    "max-num-batched-tokens",
    "checkpoint",
    "cpu-offload-gb",
    "tensor-parallel-size",
    "pipeline-parallel-size",
]

RUNG_KEYS = {
    "name": str,
    "cures": list,
    "gives_up": str,
    "start": bool,
    "when": dict,
    "set": dict,
    "env": dict,
    "fit": str,
}
WHEN_KEYS = {
    "device": str,
    "min_capability": str,
    "max_capability": str,
    "quantized": bool,
    "dtype": str,
    "min_gpus": int,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class When:
    """What must hold for a rung to apply; None asks nothing.

    Capabilities bind on NVIDIA GPUs only. `dtype` is the checkpoint's.
    """

    device: str | None = None
    min_capability: tuple[int, int] | None = None
    max_capability: tuple[int, int] | None = None
    quantized: bool | None = None
    dtype: str | None = None
    min_gpus: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """One strategy: the phases of running out of memory it can cure, its price, what it sets.

    `fit` names a value that is solved from numbers instead of set. A rung with `start` belongs
    to the first candidate already.
    """

    name: str
    gives_up: str
    cures: tuple[Phase, ...] = ()
    start: bool = False
    when: When = When()
    args: Mapping[str, Value] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    fit: Fit | None = None

    def flags(self) -> set[str]:
        """Return the vLLM flags the rung touches."""
        return {*self.args, *([self.fit] if self.fit and self.fit != "checkpoint" else [])}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ladder:
    """Rungs from the one that gives up least to the one that gives up most."""

    name: str
    rungs: tuple[Rung, ...]
    text: str

    def without(self, names: Iterable[str]) -> "Ladder":
        """Return the ladder without the rungs the user skips.

        Raises BadLadder for a name it does not have.
        """
        skipped = set(names)
        known = [rung.name for rung in self.rungs]
        for name in sorted(skipped - set(known)):
            raise BadLadder(
                f"--skip {name}: the ladder `{self.name}` has no such rung",
                meant(name, known) or f"its rungs are: {', '.join(known)}",
            )
        kept = tuple(rung for rung in self.rungs if rung.name not in skipped)
        return Ladder(name=self.name, rungs=kept, text=self.text)


def find_ladder(name: str) -> Path:
    """Return the file of a ladder: a path as it is, or the name of one we ship.

    Raises BadLadder when there is neither.
    """
    here = PACKAGE / "strategies"  # inside the wheel
    folder = here if here.is_dir() else PACKAGE.parent / "strategies"
    given, shipped = Path(name), folder / f"{name}.toml"
    if given.suffix == ".toml" or given.is_file():
        return given
    if shipped.is_file():
        return shipped
    names = sorted(path.stem for path in folder.glob("*.toml"))
    raise BadLadder(
        f"there is no ladder `{name}`",
        meant(name, names) or f"ladders: {', '.join(names)}; or give the path of a .toml file",
    )


def read_ladder(path: Path) -> Ladder:
    """Read a ladder file.

    Raises BadLadder, naming the line and the key that was meant.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # Notepad writes a mark in front
        document = tomllib.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise BadLadder(
            f"{path}: cannot be read ({error})", "check the path of --ladder"
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise BadLadder(f"{path}: not TOML: {error}", "see strategies/default.toml") from error
    return _Reading(path, text).ladder(document)


def meant(word: str, known: Iterable[str]) -> str:
    """Return `did you mean X?` for the closest known word, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean `{close[0]}`?" if close else ""


@dataclass
class _Reading:
    """One pass over one ladder file; it remembers the text to tell lines."""

    path: Path
    text: str

    def ladder(self, document: dict[str, Any]) -> Ladder:
        self._keys(document, {"rung": list}, 1)
        tables = document.get("rung", [])
        if not tables:
            raise BadLadder(f"{self.path}: it has no rung", "write at least one [[rung]] table")
        headers = re.finditer(r"^\s*\[\[rung\]\]", self.text, re.MULTILINE)
        starts = [self._line_of(header.start()) for header in headers]
        lines = starts if len(starts) == len(tables) else [1] * len(tables)  # written inline
        rungs = tuple(self._rung(table, line) for table, line in zip(tables, lines, strict=True))
        names = [rung.name for rung in rungs]
        for name in names:
            if names.count(name) > 1:
                raise BadLadder(f"{self.path}: two rungs are called `{name}`", "names are unique")
        return Ladder(name=self.path.stem, rungs=rungs, text=self.text)

    def _rung(self, table: Any, line: int) -> Rung:
        if not isinstance(table, dict):
            raise self._mistake(line, "a rung is a table", f"it is {table!r}")
        self._keys(table, RUNG_KEYS, line)
        for key in ("name", "gives_up"):
            if key not in table:
                raise self._mistake(line, f"a rung without `{key}`", f"add {key} = ...")
        when = dict(table.get("when", {}))
        self._keys(when, WHEN_KEYS, line)
        for phase in table.get("cures", []):
            if phase not in PHASES:
                line = self._find(str(phase), line)
                raise self._mistake(
                    line,
                    f"`{phase}` is no phase that can be cured",
                    meant(str(phase), PHASES) or f"phases: {', '.join(PHASES)}",
                )
        fit = table.get("fit")
        if fit is not None and fit not in get_args(Fit):
            raise self._mistake(
                self._find(fit, line),
                f"`{fit}` cannot be fitted",
                meant(fit, get_args(Fit)) or f"fit takes: {', '.join(get_args(Fit))}",
            )
        env = {name: str(value) for name, value in table.get("env", {}).items()}
        args = {
            _flag(name): self._value(name, value, line)
            for name, value in table.get("set", {}).items()
        }
        refused = forbidden(args, env)
        if refused is not None:
            name, why = refused
            raise self._mistake(
                self._find(name, line), f"a ladder may not set {name}", f"{why}; {FORBIDDEN_HINT}"
            )
        for key in ("min_capability", "max_capability"):
            if key in when:
                when[key] = self._capability(when[key], line)
        return Rung(
            name=table["name"],
            gives_up=table["gives_up"],
            cures=tuple(table.get("cures", ())),
            start=table.get("start", False),
            when=When(**when),
            args=args,
            env=env,
            fit=fit,
        )

    def _value(self, name: str, value: Any, line: int) -> Value:
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        if isinstance(value, str | int | float):
            return value
        message = f"`{name}` must be text, a number, true, false or a list of texts"
        raise self._mistake(self._find(name, line), message, f"it is {value!r}")

    def _capability(self, text: str, line: int) -> tuple[int, int]:
        match = re.fullmatch(r"(\d+)\.(\d+)", text)
        if not match:
            raise self._mistake(self._find(text, line), f"`{text}` is no capability", 'like "8.9"')
        return int(match[1]), int(match[2])

    def _keys(self, table: dict[str, Any], allowed: Mapping[str, type], line: int) -> None:
        for key, value in table.items():
            at = self._find(key, line)
            if key not in allowed:
                hint = meant(key, allowed) or f"known keys: {', '.join(allowed)}"
                raise self._mistake(at, f"unknown key `{key}`", hint)
            flag_for_number = allowed[key] is int and isinstance(value, bool)
            if not isinstance(value, allowed[key]) or flag_for_number:
                kind = {str: "text", list: "a list", dict: "a table", bool: "true or false"}
                wanted = kind.get(allowed[key], "a whole number")
                raise self._mistake(at, f"`{key}` must be {wanted}", f"it is {value!r}")

    def _find(self, word: str, line: int) -> int:
        """Return the first line at or after `line` that has the word, else `line`."""
        for number, text in enumerate(self.text.splitlines(), 1):
            if number >= line and re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", text):
                return number
        return line

    def _line_of(self, offset: int) -> int:
        return self.text.count("\n", 0, offset + 1) + 1

    def _mistake(self, line: int, message: str, hint: str) -> BadLadder:
        return BadLadder(f"{self.path}, line {line}: {message}", hint)


def _flag(name: str) -> str:
    return name.lstrip("-").replace("_", "-")
