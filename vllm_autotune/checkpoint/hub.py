"""A model on the Hugging Face Hub: its config.json and the headers of its weights, not the weights.

The only module that knows `huggingface_hub`, which need not be installed.
"""

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..errors import BadModel
from .config_json import BESIDE, read_config
from .tensors import Files, Header, Source, Span, Tensor, is_served

SECONDS = 10.0  # for each answer
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
TRUE = {"1", "ON", "YES", "TRUE"}
MOST = 100  # checkpoints of one model that are looked through


def read_hub(model: str, revision: str | None) -> Source | None:
    """Return a model on the Hub, None if it cannot be reached. Raises BadModel if it refuses."""
    hub = _library()
    if hub is None:
        return None
    at = f" at revision {revision}" if revision else ""
    try:
        return _ask(hub, model, revision)
    except hub.errors.GatedRepoError as error:
        hint = f"accept its terms at https://huggingface.co/{model}, then log in: hf auth login"
        reason = f"{model} is gated: the Hugging Face Hub refuses access to it"
        raise BadModel(reason, hint) from error
    except (hub.errors.RepositoryNotFoundError, hub.errors.RevisionNotFoundError) as error:
        hint = "check the name and the revision; for a private model log in first: hf auth login"
        reason = f"{model}{at} is neither on this machine nor on the Hugging Face Hub"
        raise BadModel(reason, hint) from error
    except hub.errors.SafetensorsParsingError as error:
        reason = f"{model}{at} has broken weights on the Hugging Face Hub: {error}"
        raise BadModel(reason, "choose another revision: --revision") from error
    except _no_answer():
        return None


def find_quantized(model: str) -> list[str]:
    """Return the checkpoints that say they are quantized from a model, the most loaded first.

    None of them where the Hub cannot be reached, or refuses.
    """
    hub = _library()
    if hub is None:
        return []
    hub.utils.logging.set_verbosity_error()  # it tells of every answer that it waits for again
    tags = (f"base_model:quantized:{model}", "safetensors")
    try:
        found = hub.HfApi().list_models(filter=tags, sort="downloads", limit=MOST)
        return [str(each.id) for each in found]
    except (hub.errors.HfHubHTTPError, ValueError, LookupError, *_no_answer()):
        return []  # an answer that makes no sense is none


def _library() -> Any:
    """Return `huggingface_hub`, None without it or where it may not ask."""
    if any(os.environ.get(name, "").upper() in TRUE for name in OFFLINE):
        return None
    try:
        import huggingface_hub as hub  # noqa: PLC0415  optional, and slow to load
    except ImportError:
        return None
    return hub


def _ask(hub: Any, model: str, revision: str | None) -> Source:
    api = hub.HfApi()
    info = api.model_info(model, revision=revision, timeout=SECONDS)
    names = sorted(str(file.rfilename) for file in info.siblings or ())
    if "config.json" not in names:
        reason = f"{model} has no config.json on the Hugging Face Hub"
        raise BadModel(reason, "choose a model in the transformers format")
    # Not into the cache: half a snapshot there would pass for a downloaded model.
    with TemporaryDirectory(prefix="autotune-") as folder:
        for name in {"config.json", *BESIDE}.intersection(names):
            hub.hf_hub_download(model, name, revision=info.sha, local_dir=folder)
        text, config = read_config(Path(folder))
    headers = []
    for name in filter(is_served, names):
        found = api.parse_safetensors_file_metadata(model, name, revision=info.sha)
        tensors = {
            tensor: Tensor(t.dtype, tuple(t.shape), Span(*t.data_offsets))
            for tensor, t in found.tensors.items()
        }
        headers.append(Header.of(tensors))
    files = Files("safetensors", (), tuple(headers)) if headers else Files("none")
    commit = str(info.sha)
    return Path(model), commit, config, text + commit.encode(), files


def _no_answer() -> tuple[type[Exception], ...]:
    """Return the errors of its HTTP client: OSErrors up to version 0.36, then errors of its own."""
    clients = [sys.modules[name] for name in ("httpx", "httpx2") if name in sys.modules]
    return (OSError, *(client.HTTPError for client in clients))
