"""The tensors of a checkpoint: how many elements of what type, without reading any of them."""

import re
import struct
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal, NamedTuple, Self

import msgspec

from ..errors import BadModel
from ..files import open_regular
from .config_json import read_json
from .gguf import shards
from .refusals import Incomplete, damaged, lacking, unreadable

FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}  # and the bytes of each
HEADER_LIMIT = 100_000_000  # bytes; the safetensors library refuses longer ones too

EMBEDDING = re.compile(
    r"(^|\.)(embed_tokens\w*|lm_head|wte|wpe|word_embeddings|embed_in|embed_out|tok_embeddings"
    r"|embedding|embeddings|output|shared|embed_positions|output_layer|tokens_embed)\.weight$"
)
HEAD = re.compile(r"(^|\.)(lm_head|embed_out)\.weight$")
TOWER = re.compile(r"(^|\.)(visual|vision\w*|audio\w*|image\w*|multi_modal_projector|mm\w*)\.")
LAYER = re.compile(r"^(?:language_model\.)?(?:model\.)?(?:language_model\.)?layers\.(\d+)\.")
# Prediction layers beside the model's own (`mtp.layers.0`, `model.mtp_block`, `mtp_emb_norm`).
MTP = re.compile(r"(^|\.)mtp(_\w+)?\.")
EXPERTS = ".experts."
# Matrices that every tensor parallel device keeps whole (ReplicatedLinear in vLLM's models): what
# comes before the heads of latent attention, its indexer, and the gates of experts.
WHOLE = re.compile(
    r"\.(q_a_proj|kv_a_proj\w*|fused_qkv_a_proj|indexer\.\w+|gate|router(\.\w+)?"
    r"|shared_expert_gate|fc[12]_latent_proj)\.\w+$"
)

Format = Literal["safetensors", "bin", "gguf", "none"]


Part = Literal["embedding", "linear", "other", "tower"]


class Role(NamedTuple):
    """What a tensor is to vLLM; `apart` is the field of Weights that counts its bytes once more."""

    part: Part
    apart: str = ""
    head: bool = False  # the output head
    draft: bool = False  # of a prediction layer


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """How much a checkpoint holds, by what vLLM does with it.

    `embedding` (tables and output head), `linear` (matrices that online quantization shrinks),
    `other` (norms, biases) and `tower` (vision, audio) count the elements stored as ordinary
    floats. `bytes` is what all tensors take as stored, `packed_bytes` what the rest of them do.
    Of `bytes`, `expert_bytes` are routed experts, `tower_bytes` the tower, and `whole_bytes` is
    what tensor parallel does not split. `draft_bytes` are prediction layers, loaded only to draft,
    and not in any of the others; of these `draft_tables` may be the model's own.
    """

    bytes: int
    embedding: int = 0
    linear: int = 0
    other: int = 0
    tower: int = 0
    packed_bytes: int = 0
    whole_bytes: int = 0
    expert_bytes: int = 0
    tower_bytes: int = 0
    draft_bytes: int = 0
    draft_tables: int = 0

    @property
    def elements(self) -> int:
        return self.embedding + self.linear + self.other + self.tower


class Span(msgspec.Struct, frozen=True, gc=False, array_like=True, forbid_unknown_fields=True):
    """Where a tensor is, in bytes from the end of the header."""

    start: int
    stop: int


class Tensor(msgspec.Struct, frozen=True, gc=False):
    """An entry of a safetensors header; one that keeps a default describes no tensor."""

    dtype: str = ""
    shape: tuple[int, ...] = (-1,)
    data_offsets: Span = Span(0, -1)


# A header of 200,000 experts is decoded in 0.2 s, where the standard library takes one.
decode = msgspec.json.Decoder(dict[str, Tensor]).decode


class Alike(NamedTuple):
    """What tensors have in common that are counted together: experts differ in their number."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Header:
    """A safetensors header: the bytes of tensors that are alike, where they end, and its text."""

    sizes: Mapping[Alike, int]
    end: int
    text: bytes = b""

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], text: bytes = b"") -> Self:
        """Add up tensors: there may be hundreds of thousands, so that each is looked at once.

        Raises ValueError for one that is not described.
        """
        places: dict[tuple[str, str, tuple[int, ...]], list[Span]] = defaultdict(list)
        for name, tensor in tensors.items():
            before, experts, rest = name.partition(EXPERTS)
            if experts:
                name = before + EXPERTS + rest.lstrip("0123456789")  # noqa: PLW2901
            places[name, tensor.dtype, tensor.shape].append(tensor.data_offsets)
        sizes, end = {}, 0
        for (name, dtype, shape), spans in places.items():
            each = [span.stop - span.start for span in spans]
            if min(each) < 0 or not dtype or -1 in shape:
                raise ValueError(f"{name} has no type, shape or place")
            sizes[Alike(name, dtype, shape)] = sum(each)
            end = max(end, *(span.stop for span in spans))
        return cls(sizes, end, text)


def read_header(path: Path) -> Header:
    """Return a safetensors file's header. Raises BadModel if it is cut."""
    tensors, text = read_tensors(path)
    try:
        header = Header.of(tensors, text)
    except ValueError as error:
        raise damaged(path, "safetensors", "its header cannot be parsed") from error
    missing = header.end - (path.stat().st_size - 8 - len(text))
    if missing > 0:
        raise damaged(path, "safetensors", f"the last {missing:,} bytes of its tensors are missing")
    return header


def read_tensors(path: Path) -> tuple[dict[str, Tensor], bytes]:
    """Return the tensors of a safetensors file by name, and its header as written.

    Raises BadModel if the header is cut.
    """
    try:
        size = path.stat().st_size
        with open_regular(path) as file:
            first = file.read(8)
            length = struct.unpack("<Q", first)[0] if len(first) == 8 else HEADER_LIMIT
            if length > min(HEADER_LIMIT, size - 8):
                raise damaged(path, "safetensors", "its header is incomplete")
            text = file.read(length)
        tensors = decode(text)
    except OSError as error:
        raise unreadable(path, error) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise damaged(path, "safetensors", "its header cannot be parsed") from error
    tensors.pop("__metadata__", None)
    return tensors, text


def tally(headers: Iterable[Header], *, layers: int, tied: bool) -> Weights:
    """Add up the tensors of all headers as vLLM would load them.

    Tensors that vLLM leaves out are left out: the output head of a model with `tied` embeddings,
    and, but for `draft_bytes`, prediction layers beyond the last of `layers`.
    """
    sums: Counter[str] = Counter()
    for alike, size in chain.from_iterable(header.sizes.items() for header in headers):
        role = role_of(alike.name, len(alike.shape), layers)
        if role.draft:
            sums["draft_bytes"] += size
            sums["draft_tables"] += size if role.part == "embedding" else 0
            continue
        if tied and role.head:
            continue
        sums["bytes"] += size
        if each := FLOATS.get(alike.dtype):
            sums[role.part] += size // each
        else:
            sums["packed_bytes"] += size
        if role.apart:
            sums[role.apart] += size
    return Weights(**{"bytes": 0, **sums})


def role_of(name: str, dimensions: int, layers: int) -> Role:
    """Return what a tensor of this name and number of dimensions is to a model of `layers`."""
    layer = LAYER.match(name)
    beyond = layer is not None and int(layer[1]) >= layers > 0
    draft = beyond or MTP.search(name) is not None
    if TOWER.search(name):
        return Role("tower", "tower_bytes", draft=draft)
    if EMBEDDING.search(name):
        return Role("embedding", head=HEAD.search(name) is not None, draft=draft)
    part: Part = "linear" if dimensions >= 2 else "other"
    if EXPERTS in name:
        return Role(part, "expert_bytes", draft=draft)
    whole = part == "other" or WHOLE.search(name) is not None
    return Role(part, "whole_bytes" if whole else "", draft=draft)


@dataclass(frozen=True, slots=True)
class Files:
    """The weight files vLLM would load, and the headers of those that have one."""

    format: Format
    paths: tuple[Path, ...] = ()
    headers: tuple[Header, ...] = ()


# Where a model lies, its revision, its config.json (parsed, and as written), its weight files.
Source = tuple[Path, str | None, dict[str, object], bytes, Files]


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
