"""Refusals of files of a model that are missing, cut short or unreadable."""

from collections.abc import Sequence
from pathlib import Path

from ..errors import BadModel


class Incomplete(BadModel):
    """Say that a part of a model is missing here; the Hub may have it."""


def unreadable(path: Path | str, error: Exception) -> BadModel:
    why = str(getattr(error, "strerror", None) or error).rstrip(".")
    hint = "check that it exists and that this user may read it"
    return BadModel(f"cannot read {path}: {why}", hint)


def damaged(path: Path, kind: str, why: object) -> BadModel:
    return BadModel(
        f"cannot read {path} as a {kind} file: {why}",
        "copy or download it again; an interrupted download leaves such files behind",
    )


def lacking(folder: Path, missing: Sequence[str], of: str) -> tuple[str, str]:
    """Return the message and hint for the `missing` ones `of` a folder's weight files."""
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    return (
        f"{folder} lacks {', '.join(missing[:3])}{more}: {len(missing)} of {of}",
        "the download is incomplete: finish it",
    )
