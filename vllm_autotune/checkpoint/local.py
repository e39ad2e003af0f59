"""Where a model lies on disk: a local folder, or a name in the Hugging Face cache."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from ..errors import BadModel
from .tensors import Incomplete

NAME = re.compile(r"[\w.-]+/[\w.-]+")
# What the name of a quantized checkpoint says beside its model's: -AWQ, -GPTQ-Int4, -FP8-dynamic,
# -quantized.w4a16, -bnb-4bit, -4bit-128g. Any other word makes it another model.
QUANTIZED = re.compile(
    r"([-_.](?:(?:auto)?(?:awq|gptq)|gptqmodel|bnb|unsloth|hqq|marlin|auto|round|autoround|torchao"
    r"|modelopt|quantized|(?:nv|mx)?fp[48](?:a\d+)?|int[2-8]|w\d+a\d+|\d*bits?|g\d+|\d+g|gs\d+"
    r"|actorder|a?sym|dynamic|static|block|channel|tensor|kv|mixed|compressed|tensors|ct))+",
    re.IGNORECASE,
)


def cache_folder() -> Path:
    """Return the hub cache that `huggingface_hub` would use."""
    explicit = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    if explicit:
        return Path(explicit).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or f"{cache}/huggingface"
    return Path(home).expanduser() / "hub"


def locate(model: str, revision: str | None) -> tuple[Path, str | None]:
    """Return the folder (or GGUF file) of a model and the revision it holds, without network.

    Raises BadModel where there is none.
    """
    path = Path(model).expanduser()
    if path.exists():
        return path, revision
    if not NAME.fullmatch(model):
        raise BadModel(
            f"there is no model at {model}",
            "pass a folder with config.json and weights, or a name like Qwen/Qwen3-8B",
        )
    repository = cache_folder() / f"models--{model.replace('/', '--')}"
    commit = _commit(repository, revision or "main")
    if commit is None:
        which = f" at revision {revision}" if revision else ""
        raise Incomplete(f"{model}{which} is neither a local folder nor in the Hugging Face cache")
    return repository / "snapshots" / commit, commit


def _commit(repository: Path, revision: str) -> str | None:
    reference = repository / "refs" / revision
    try:
        commit = reference.read_text().strip() if reference.is_file() else revision
    except OSError:
        return None
    return commit if commit and (repository / "snapshots" / commit).is_dir() else None


def neighbours(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the models that are this one quantized, by name: what to pass as `--model`, and where.

    They stand next to a local folder, or beside a snapshot in the hub cache.
    """
    snapshots = folder.parent
    cached = snapshots.name == "snapshots" and snapshots.parent.name.startswith("models--")
    own = snapshots.parent if cached else folder.resolve()
    base = own.name.split("--")[-1]
    try:
        entries = sorted(entry for entry in own.parent.iterdir() if entry.is_dir())
    except OSError:
        return
    for entry in entries:
        name = entry.name.split("--")[-1] if cached else entry.name
        begins = name[: len(base)].lower() == base.lower()
        if not (begins and QUANTIZED.fullmatch(name[len(base) :])):
            continue
        if not cached:
            yield str(entry), entry
        elif entry.name.startswith("models--") and (commit := _commit(entry, "main")):
            yield (
                entry.name.removeprefix("models--").replace("--", "/"),
                entry / "snapshots" / commit,
            )
