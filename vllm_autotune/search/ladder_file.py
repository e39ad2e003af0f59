"""Find a ladder's file and read it."""

from dataclasses import dataclass, fields
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter

from ..errors import BadLadder, did_you_mean
from ..toml_file import TomlFile
from ..vllm.untrusted import FORBIDDEN_HINT, forbidden
from .fit import FITS
from .ladder import Ladder, Rung, When

PACKAGE = Path(__file__).parents[1]
IN_WHEEL = PACKAGE / "strategies"
FOLDER = IN_WHEEL if IN_WHEEL.is_dir() else PACKAGE.parent / "strategies"


@dataclass(frozen=True, slots=True)
class _Document:
    __pydantic_config__ = ConfigDict(extra="forbid")

    rung: tuple[Rung, ...] = ()


DOCUMENT = TypeAdapter(_Document)
# By depth; `set` is what a file calls the arguments.
KEYS = {
    1: [field.name for field in fields(_Document)],
    3: ["set" if field.name == "args" else field.name for field in fields(Rung)],
    4: [field.name for field in fields(When)],
}


def find_ladder(name: str) -> Path:
    """Return the file of a ladder: a path as it is, or the name of one we ship.

    Raises BadLadder when there is neither.
    """
    path, shipped = Path(name), FOLDER / f"{name}.toml"
    if path.suffix == ".toml" or path.is_file():
        return path
    if shipped.is_file():
        return shipped
    names = sorted(path.stem for path in FOLDER.glob("*.toml"))
    raise BadLadder(
        f"there is no ladder `{name}`",
        did_you_mean(name, names)
        or f"ladders: {', '.join(names)}; or give the path of a .toml file",
    )


def read_ladder(path: Path) -> Ladder:
    """Read a ladder file.

    Raises BadLadder, naming the line and the key that was meant.
    """
    hint = f"{FOLDER / 'default.toml'} explains what a ladder file has"
    file = TomlFile.read(path, BadLadder, hint)
    rungs = file.checked(DOCUMENT, KEYS).rung
    if not rungs:
        raise BadLadder(f"{path} has no rungs", "write at least one [[rung]] table")
    names = [rung.name for rung in rungs]
    for number, rung in enumerate(rungs):
        if rung.name in names[:number]:
            raise BadLadder(f"{path}: two rungs are called `{rung.name}`", "rename one of them")
        if rung.fit not in (None, *FITS):
            line = file.line("rung", number, "fit", value=rung.fit)
            known = ", ".join(f"'{name}'" for name in FITS)
            message = f'`fit` must be one of {known}, not "{rung.fit}"'
            raise file.mistake(line, message, did_you_mean(str(rung.fit), FITS))
        refused = forbidden(rung.args, rung.env)
        if refused is not None:
            name, why = refused
            line = file.line("rung", number, name)
            raise file.mistake(line, f"a ladder may not set {name}", f"{why}; {FORBIDDEN_HINT}")
    return Ladder(name=path.stem, rungs=rungs, text=file.text)
