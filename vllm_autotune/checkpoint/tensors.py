"""The tensors of a checkpoint: how many elements of what type, without reading any of them."""

import json
import re
import struct
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from math import prod
from pathlib import Path
from typing import Any, Literal

from ..errors import BadModel
from ..files import open_regular
from .config_json import read_json
from .gguf import shards
from .refusals import Incomplete, damaged, lacking, unreadable

FLOATS = {"F64", "F32", "F16", "BF16"}
HEADER_LIMIT = 100_000_000  # bytes; the safetensors library refuses longer ones too

EMBEDDING = re.compile(
    r"(^|\.)(embed_tokens\w*|lm_head|wte|wpe|word_embeddings|embed_in|embed_out|tok_embeddings"
    r"|embedding|embeddings|output|shared|embed_positions|output_layer|tokens_embed)\.weight$"
)
HEAD = re.compile(r"(^|\.)(lm_head|embed_out)\.weight$")
TOWER = re.compile(r"(^|\.)(visual|vision\w*|audio\w*|image\w*|multi_modal_projector|mm\w*)\.")
LAYER = re.compile(r"^(?:language_model\.)?(?:model\.)?(?:language_model\.)?layers\.(\d+)\.")

Format = Literal["safetensors", "bin", "gguf", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """How much a checkpoint holds, by what vLLM does with it.

    `embedding` (tables and output head), `linear` (matrices that online quantization shrinks),
    `other` (norms, biases) and `tower` (vision, audio) count the elements stored as ordinary
    floats. `bytes` is what all tensors take as stored, `packed_bytes` what the rest of them do.
    """

    bytes: int
    embedding: int = 0
    linear: int = 0
    other: int = 0
    tower: int = 0
    packed_bytes: int = 0

    @property
    def elements(self) -> int:
        return self.embedding + self.linear + self.other + self.tower


def read_header(path: Path) -> tuple[dict[str, Any], bytes]:
    """Return a safetensors file's header, parsed and as written. Raises BadModel if it is cut."""
    try:
        size = path.stat().st_size
        with open_regular(path) as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else HEADER_LIMIT
            if length > min(HEADER_LIMIT, size - 8):
                raise damaged(path, "safetensors", "its header is incomplete")
            text = file.read(length)
        header = json.loads(text)
        header.pop("__metadata__", None)
        tally([header], layers=0, tied=False)  # raises where an entry does not describe a tensor
        end = max((int(t["data_offsets"][1]) for t in header.values()), default=0)
    except OSError as error:
        raise unreadable(path, error) from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise damaged(path, "safetensors", "its header cannot be parsed") from error
    missing = end - (size - 8 - length)
    if missing > 0:
        raise damaged(path, "safetensors", f"the last {missing:,} bytes of its tensors are missing")
    return header, text


def tally(headers: Iterable[Mapping[str, Any]], *, layers: int, tied: bool) -> Weights:
    """Add up the tensors of all headers as vLLM would load them.

    Tensors that vLLM leaves out are left out: prediction layers beyond the last of `layers`, and
    the output head of a model with `tied` embeddings.
    """
    sums: Counter[str] = Counter()
    for name, tensor in chain.from_iterable(header.items() for header in headers):
        layer = LAYER.match(name)
        beyond = layer is not None and int(layer[1]) >= layers > 0
        if beyond or name.startswith("mtp.") or (tied and HEAD.search(name)):
            continue
        start, end = tensor["data_offsets"]
        sums["bytes"] += end - start
        if tensor["dtype"] in FLOATS:
            sums[role(name, tensor["shape"])] += prod(tensor["shape"])
        else:
            sums["packed_bytes"] += end - start
    return Weights(**{"bytes": 0, **sums})


def role(name: str, shape: list[int]) -> str:
    """Return the field of Weights that a tensor counts for, by its name and shape."""
    if TOWER.search(name):
        return "tower"
    if EMBEDDING.search(name):
        return "embedding"
    return "linear" if len(shape) >= 2 else "other"


@dataclass(frozen=True, slots=True)
class Files:
    """The weight files vLLM would load, and the headers of those that have one."""

    format: Format
    paths: tuple[Path, ...] = ()
    headers: tuple[tuple[dict[str, Any], bytes], ...] = ()


# Where a model lies, its revision, its config.json (parsed, and as written), its weight files.
Source = tuple[Path, str | None, dict[str, Any], bytes, Files]


def find_weights(path: Path) -> Files:
    """Return the weight files vLLM would load: safetensors first, then .bin, then GGUF.

    Raises BadModel where the index names a file that is missing, or a file is not whole.
    """
    if path.is_file():
        return Files("gguf", shards(path))
    try:
        names = sorted(entry.name for entry in path.iterdir())
    except OSError as error:
        raise unreadable(path, error) from error
    found = _indexed(path / "model.safetensors.index.json")
    paths = tuple(path / name for name in found or names if is_served(name))
    if paths:
        return Files("safetensors", paths, tuple(read_header(file) for file in paths))
    found = _indexed(path / "pytorch_model.bin.index.json")
    found = found or [n for n in names if n.endswith((".bin", ".pt")) and "training" not in n]
    if found:
        return Files("bin", tuple(path / name for name in found))
    found = [name for name in names if name.endswith(".gguf") and "mmproj" not in name]
    if not found:
        return Files("none")
    whole = shards(path / found[0])
    if len(whole) < len(found):
        reason = f"{path} holds {len(found)} GGUF files: {', '.join(found[:3])}"
        hint = f"choose the one to serve, for example --model {path / found[0]}"
        raise BadModel(reason, hint)
    return Files("gguf", whole)


def is_served(name: str) -> bool:
    """Return whether vLLM loads a file as weights of the model."""
    # Mistral ships the same weights a second time as `consolidated`.
    others = ("consolidated", "adapter_")
    return name.endswith(".safetensors") and "/" not in name and not name.startswith(others)


def _indexed(index: Path) -> list[str]:
    """Return the files that an index names, none where there is no index."""
    if not index.is_file():
        return []
    _, fields = read_json(index)
    try:
        names = sorted({str(name) for name in fields["weight_map"].values()})
    except (KeyError, TypeError, AttributeError) as error:
        reason = f"{index} does not say which file holds which tensor"
        raise BadModel(reason, "copy or download it again") from error
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        of = f"the {len(names)} weight files its index names"
        raise Incomplete(*lacking(index.parent, missing, of))
    return names
