"""The tensors of a checkpoint: how many elements of what type, without reading any of them."""

import json
import re
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal, Self

from ..errors import BadModel
from .gguf import shards

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
Role = Literal["embedding", "linear", "other", "tower"]


class Incomplete(BadModel):
    """Say that something of a model is not here."""


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
        """Return the elements stored as ordinary floats."""
        return self.embedding + self.linear + self.other + self.tower

    def __add__(self, more: Self) -> Self:
        return type(self)(
            bytes=self.bytes + more.bytes,
            embedding=self.embedding + more.embedding,
            linear=self.linear + more.linear,
            other=self.other + more.other,
            tower=self.tower + more.tower,
            packed_bytes=self.packed_bytes + more.packed_bytes,
        )


def read_header(path: Path) -> tuple[dict[str, Any], bytes]:
    """Return a safetensors file's header, parsed and as written.

    Raises BadModel where the file is cut short or no safetensors file.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else HEADER_LIMIT
            if length > min(HEADER_LIMIT, size - 8):
                raise _cut(path, "its header is incomplete")
            text = file.read(length)
        header = json.loads(text)
        if not isinstance(header, dict):
            raise _cut(path, "its header is not a table of tensors")
        header.pop("__metadata__", None)
        end = max((int(t["data_offsets"][1]) for t in header.values()), default=0)
    except OSError as error:
        raise unreadable(path, error) from error
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise _cut(path, "its header cannot be parsed") from error
    if end > size - 8 - length:
        missing = end - (size - 8 - length)
        raise _cut(path, f"the last {missing:,} bytes of its tensors are missing")
    return header, text


def unreadable(path: Path, error: OSError) -> BadModel:
    """Return the refusal for a file that cannot be read."""
    return BadModel(
        f"cannot read {path}: {error.strerror or error}",
        "check that the file exists and that this user may read it",
    )


def _cut(path: Path, why: str) -> BadModel:
    return BadModel(
        f"cannot read {path} as a safetensors file: {why}",
        "copy or download it again; an interrupted download leaves such files behind",
    )


def tally(header: Mapping[str, Any], *, layers: int, tied: bool | None) -> Weights:
    """Add up one header's tensors as vLLM would load them.

    Tensors that vLLM leaves out are left out: prediction layers beyond the last of `layers`, and
    the output head of a model with `tied` embeddings.
    """
    sums: Counter[str] = Counter()
    for name, tensor in header.items():
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


def role(name: str, shape: list[int]) -> Role:
    """Return what a tensor is for, by its name and shape."""
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
    files = [name for name in names if name.endswith(".safetensors")]
    indexed = _indexed(path / "model.safetensors.index.json")
    if indexed:
        _all_there(path, indexed)
        files = indexed
    files = [name for name in files if is_served(name)]
    if files:
        paths = tuple(path / name for name in files)
        return Files("safetensors", paths, tuple(read_header(file) for file in paths))
    indexed = _indexed(path / "pytorch_model.bin.index.json")
    _all_there(path, indexed)
    pickles = [n for n in names if n.endswith((".bin", ".pt")) and "training" not in n]
    if indexed or pickles:
        return Files("bin", tuple(path / name for name in indexed or pickles))
    single = [name for name in names if name.endswith(".gguf") and "mmproj" not in name]
    if not single:
        return Files("none")
    whole = shards(path / single[0])
    if len(whole) < len(single):
        raise BadModel(
            f"{path} holds {len(single)} GGUF files: {', '.join(single[:3])}",
            f"choose the one to serve, for example --model {path / single[0]}",
        )
    return Files("gguf", whole)


def is_served(name: str) -> bool:
    """Return whether vLLM takes a file's tensors for the model's."""
    # Mistral ships the same weights a second time as `consolidated`.
    others = ("consolidated", "adapter_")
    return name.endswith(".safetensors") and "/" not in name and not name.startswith(others)


def _indexed(index: Path) -> list[str]:
    if not index.is_file():
        return []
    try:
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    except OSError as error:
        raise unreadable(index, error) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadModel(
            f"{index} does not say which file holds which tensor",
            "copy or download it again",
        ) from error
    return [str(name) for name in names]


def _all_there(folder: Path, names: list[str]) -> None:
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise Incomplete(
            f"{folder} lacks {', '.join(missing[:3])}{more}: "
            f"{len(missing)} of the {len(names)} weight files its index names",
            "the download is incomplete: finish it",
        )
