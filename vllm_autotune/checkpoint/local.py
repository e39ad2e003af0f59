"""Where a model is on disk: a local folder, or a name in the Hugging Face cache."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from ..errors import BadModel
from ..files import user_path
from .refusals import Incomplete

NAME = re.compile(r"[\w.-]+/[\w.-]+")
# What the name of a quantized checkpoint says beside its model's: -AWQ, -GPTQ-Int4, -FP8-dynamic,
# -quantized.w4a16, -bnb-4bit, -4bit-128g. Any other word makes it another model.
QUANTIZED = (
    r"([-_.](?:(?:auto)?(?:awq|gptq)|gptqmodel|bnb|unsloth|hqq|marlin|auto|round|autoround|torchao"
    r"|modelopt|quantized|(?:nv|mx)?fp[48](?:a\d+)?|int[2-8]|w\d+a\d+|\d*bits?|g\d+|\d+g|gs\d+"
    r"|actorder|a?sym|dynamic|static|block|channel|tensor|kv|mixed|compressed|tensors|ct))+"
)


def cache_folder() -> Path:
    """Return the hub cache that `huggingface_hub` would use."""
    explicit = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    if explicit:
        return user_path(explicit)
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or f"{cache}/huggingface"
    return user_path(home) / "hub"


def locate(model: str, revision: str | None) -> tuple[Path, str | None]:
    """Return a model's folder (or GGUF file) and revision, without network, or raise BadModel."""
    path = user_path(model)
    if path.exists():
        return path, revision
    if not NAME.fullmatch(model):
        hint = "pass a folder with config.json and weights, or a name like Qwen/Qwen3-8B"
        raise BadModel(f"there is no model at {model}", hint)
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
    """Yield the quantized checkpoints of this model: what to pass as `--model`, and the folder.

    They are beside a local folder, or beside its repository in the hub cache.
    """
    snapshots = folder.parent
    cached = snapshots.name == "snapshots" and snapshots.parent.name.startswith("models--")
    own = snapshots.parent if cached else folder.resolve()
    same = re.compile(re.escape(own.name.split("--")[-1]) + QUANTIZED, re.IGNORECASE)
    try:
        entries = sorted(entry for entry in own.parent.iterdir() if entry.is_dir())
    except OSError:
        return
    for entry in entries:
        if not same.fullmatch(entry.name.split("--")[-1] if cached else entry.name):
            continue
        if not cached:
            yield str(entry), entry
        elif entry.name.startswith("models--") and (commit := _commit(entry, "main")):
            model = entry.name.removeprefix("models--").replace("--", "/")
            yield model, entry / "snapshots" / commit
