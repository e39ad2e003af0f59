"""What the model is, from its `config.json` and the headers of its weight files."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from ..errors import BadModel
from . import config_json
from .buffers import NO_BUFFERS, Buffers, buffers_of
from .config_json import Fields, Sizes, number, quantization_of, read_config, text_part
from .gguf import read_gguf
from .hub import read_hub
from .layers import LayerGroup, count_kv_heads, group_layers, layer_kinds
from .local import NAME, locate, neighbours
from .parameters import UNGATED, count_experts, count_parameters, expert_width, plain_width
from .refusals import Incomplete, unreadable
from .tensors import HEAD, Files, Format, Source, Weights, find_weights, tally
from .towers import VISION, Tower, audio_tower, takes_images, tower_kind, vision_tower

# Families whose embeddings are shared with the output unless config.json says otherwise.
TIED = (
    *("gemma", "gpt2", "gpt_bigcode", "opt", "bloom", "falcon", "cohere", "starcoder2", "mpt"),
    *("mamba", "lfm2", "bert", "roberta", "xlm-roberta", "whisper"),
)
TOWERS = (*VISION, "audio_config", "thinker_config")
TIES = ("tie_word_embeddings", "tie_embedding")
# Bytes of one float, by its name.
DTYPE_BYTES = {"float16": 2, "half": 2, "bfloat16": 2, "float32": 4, "float": 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What the model is.

    `context` is the longest length vLLM accepts and `default_context` the one it takes when
    none is asked for; they differ for LongRoPE. `intermediate_size` is the width of the widest
    MLP that every token passes (0: all are experts), `expert_size` that of one expert; `gated`
    ones have three matrices, others two. `weight_bytes` is what the tensors that vLLM loads take
    as stored, None where that is not known, `buffers` what vLLM keeps beside them. `block` is the
    side of the blocks of weights that share a scale, 1 without them. `layer_groups` is None for an
    unknown model. `tower` is the vision tower, None where its sizes are not known, `tower_kind`
    what it and the model are called. Of `prediction_layers` (MTP) there are so many, should there
    be any. A `pooled` one has a pooling module of Sentence Transformers. `siblings` are quantized
    checkpoints of the same model next to it, by the names vLLM is given.
    """

    path: str
    revision: str | None
    architecture: str
    model_type: str
    layers: int
    hidden_size: int
    intermediate_size: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    context: int
    default_context: int
    dtype: str
    weights: Weights | None
    quantization: str | None
    block: int = 1
    kv_quantized: bool
    tied_embeddings: bool
    experts: int
    experts_per_token: int
    expert_size: int = 0
    gated: bool = True
    layer_groups: tuple[LayerGroup, ...] | None
    buffers: Buffers = NO_BUFFERS
    multimodal: bool
    takes_images: bool = False
    tower: Tower | None = None
    tower_kind: str = ""
    prediction_layers: int = 1
    pooled: bool = False
    siblings: tuple[str, ...]
    digest: str
    load_format: Format

    @property
    def weight_bytes(self) -> int | None:
        return self.weights.bytes if self.weights else None


def read_checkpoint(
    model: str, revision: str | None = None, *, weights_required: bool = True
) -> Checkpoint:
    """Read a model from a folder, a GGUF file, the hub cache or the Hub, or raise BadModel.

    Without weight files, `weights_required=False` counts the parameters from the shape.
    """
    try:
        return _read(model, revision, weights_required=weights_required)
    except (OSError, ValueError, RuntimeError) as error:  # no permission, or an impossible name
        raise unreadable(model, error) from error


def _read(model: str, revision: str | None, *, weights_required: bool) -> Checkpoint:
    try:
        return _describe(_read_here(model, revision), weights_required=weights_required)
    except Incomplete as refusal:
        # The cache may hold only a tokenizer, or an unfinished download.
        if not NAME.fullmatch(model) or Path(model).exists():
            raise
        remote = read_hub(model, revision)
        if remote is None:
            at = f" --revision {revision}" if revision else ""
            hint = f"download it first: hf download {model}{at}"
            raise BadModel(refusal.message, hint) from refusal
    return _describe(remote, weights_required=weights_required)


def _read_here(model: str, revision: str | None) -> Source:
    path, revision = locate(model, revision)
    folder = path.parent if path.is_file() else path
    alone = path.is_file() or any(path.glob("*.gguf"))
    if alone and not (folder / "config.json").exists():
        files = find_weights(path)
        config, _ = read_gguf(files.paths[0])
        return folder, revision, config, json.dumps(config, sort_keys=True).encode(), files
    text, config = read_config(folder)
    return folder, revision, config, text, find_weights(path)


def _describe(source: Source, *, weights_required: bool) -> Checkpoint:
    folder, revision, config, text, files = source
    if weights_required and files.format == "none":
        hint = "download the weights, or run with random ones: -- --load-format dummy"
        raise Incomplete(f"{folder} has no weights: no .safetensors, .bin or .gguf file", hint)
    part = text_part(config)
    config_json.require(part, folder)
    architectures = config.get("architectures") or [""]
    quantization = quantization_of(config, part)
    model_type = str(part.get("model_type") or "")
    sizes = config_json.sizes_of(part)
    context, default_context = config_json.derive_context(part)
    tied = _tied(config, part, files)
    dtype = str(part.get("dtype") or part.get("torch_dtype") or "").removeprefix("torch.")
    groups = group_layers(part, model_type, sizes)
    weights = _weights(files, sizes, tied=tied, size=DTYPE_BYTES.get(dtype, 2))
    if weights is None and groups is not None:
        weights = count_parameters(
            config,
            part,
            model_type,
            sizes,
            kinds=layer_kinds(part, model_type, sizes.layers) or [],
            groups=groups,
            tied=tied,
            quantization=quantization,
        )
    return Checkpoint(
        path=str(folder),
        revision=revision,
        architecture=str(architectures[0] if isinstance(architectures, list) else architectures),
        model_type=model_type,
        layers=sizes.layers,
        hidden_size=sizes.hidden,
        intermediate_size=plain_width(part, sizes.layers, 4 * sizes.hidden),
        heads=sizes.heads,
        kv_heads=count_kv_heads(part, model_type, sizes.heads),
        head_dim=sizes.head_dim,
        vocab_size=sizes.vocab,
        context=context,
        default_context=default_context,
        dtype=dtype or "bfloat16",
        weights=weights,
        quantization="gguf" if files.format == "gguf" else config_json.method_of(quantization),
        block=config_json.block_of(quantization),
        kv_quantized=config_json.has_quantized_kv(quantization),
        tied_embeddings=tied,
        experts=count_experts(part),
        experts_per_token=number(part, "num_experts_per_tok", "num_experts_per_token", "moe_topk"),
        expert_size=expert_width(part),
        gated=model_type not in UNGATED,
        layer_groups=groups,
        buffers=buffers_of(config, part, sizes, groups),
        multimodal=any(config.get(name) for name in TOWERS),
        takes_images=takes_images(config, folder),
        tower=vision_tower(config) or audio_tower(config),
        tower_kind=tower_kind(config),
        prediction_layers=number(part, *config_json.PREDICTION_LAYERS) or 1,
        pooled=config_json.has_pooling(config),
        siblings=find_siblings(folder, config),
        digest=_digest(text, files),
        load_format=files.format,
    )


def _tied(config: Fields, part: Fields, files: Files) -> bool:
    """Return whether the output head is the embedding table, kept only once."""
    said = (fields.get(n) for fields in (part, config) for n in TIES)
    if (flag := next((tied for tied in said if isinstance(tied, bool)), None)) is not None:
        return flag
    if files.headers:
        return not any(
            HEAD.search(alike.name) for header in files.headers for alike in header.sizes
        )
    return str(part.get("model_type")).startswith(TIED)


def _weights(files: Files, sizes: Sizes, *, tied: bool, size: int) -> Weights | None:
    """Return what the files hold; `size` is the bytes of a float, for files without a header."""
    if files.format == "none":
        return None
    if files.format == "safetensors":
        return tally(files.headers, layers=sizes.layers, tied=tied)
    if files.format == "gguf":
        stored = sum(size for _, size in map(read_gguf, files.paths))
        return Weights(bytes=stored, packed_bytes=stored)
    stored = sum(path.stat().st_size for path in files.paths)
    embedding = sizes.vocab * sizes.hidden * (1 if tied else 2)
    return Weights(bytes=stored, embedding=embedding, linear=max(0, stored // size - embedding))


def _digest(text: bytes, files: Files) -> str:
    """Return a fingerprint of the weights without reading them."""
    digest = hashlib.sha256(text)
    for i, path in enumerate(files.paths):
        digest.update(f"\n{path.name} {path.stat().st_size}\n".encode())
        digest.update(files.headers[i].text if files.headers else b"")
    return digest.hexdigest()[:16]


def find_siblings(folder: Path, config: Fields) -> tuple[str, ...]:
    """Return the names of the complete quantized checkpoints of the same model beside it."""
    part = text_part(config)
    if quantization_of(config, part):
        return ()
    found = []
    for model, path in neighbours(folder):
        try:
            _, other = read_config(path)
            theirs = text_part(other)
            alike = quantization_of(other, theirs) and _alike(part, theirs)
            if alike and find_weights(path).format in {"safetensors", "bin"}:
                found.append(model)
        except (BadModel, OSError):
            continue  # an incomplete download
    return tuple(found)


def _alike(one: Fields, other: Fields) -> bool:
    """Return whether two configurations describe the same model, apart from its precision."""
    alike = all(one.get(name) == other.get(name) for name in ("model_type", "architectures"))
    return alike and config_json.sizes_of(one) == config_json.sizes_of(other)
