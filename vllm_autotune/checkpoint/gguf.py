"""A GGUF file's header: the model's shape as a `config.json` has it, and the bytes of its tensors.

Source: docs/gguf.md of ggml-org/ggml (versions 2 and 3), gguf-py/gguf/constants.py of llama.cpp.
"""

import mmap
import re
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from ..errors import BadModel

SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
STRING, ARRAY = 8, 9
# Tensor type -> bytes of a block of so many elements.
OF_1 = {0: 4, 1: 2, 24: 1, 25: 2, 26: 4, 27: 8, 28: 8, 30: 2}
OF_32 = {2: 18, 3: 20, 6: 22, 7: 24, 8: 34, 20: 18, 39: 17}
OF_256 = {
    10: 84,
    11: 110,
    12: 144,
    13: 176,
    14: 210,
    15: 292,  # K quants
    16: 66,
    17: 74,
    18: 98,
    19: 50,
    21: 110,
    22: 82,
    23: 136,
    29: 56,  # I quants
    34: 54,
    35: 66,  # ternary
}
BLOCKS = {
    kind: (elements, size)
    for elements, sizes in ((1, OF_1), (32, OF_32), (256, OF_256), (64, {40: 36}), (128, {41: 18}))
    for kind, size in sizes.items()
}
LONGEST_ARRAY = 10_000_000
SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf$")
# llama.cpp's name of an architecture -> its class and model_type in transformers.
ARCHITECTURES = {
    "llama": ("LlamaForCausalLM", "llama"),
    "qwen2": ("Qwen2ForCausalLM", "qwen2"),
    "qwen2moe": ("Qwen2MoeForCausalLM", "qwen2_moe"),
    "qwen3": ("Qwen3ForCausalLM", "qwen3"),
    "qwen3moe": ("Qwen3MoeForCausalLM", "qwen3_moe"),
    "gemma": ("GemmaForCausalLM", "gemma"),
    "gemma2": ("Gemma2ForCausalLM", "gemma2"),
    "gemma3": ("Gemma3ForCausalLM", "gemma3_text"),
    "phi2": ("PhiForCausalLM", "phi"),
    "phi3": ("Phi3ForCausalLM", "phi3"),
    "falcon": ("FalconForCausalLM", "falcon"),
    "starcoder2": ("Starcoder2ForCausalLM", "starcoder2"),
    "gpt2": ("GPT2LMHeadModel", "gpt2"),
    "gptneox": ("GPTNeoXForCausalLM", "gpt_neox"),
    "stablelm": ("StableLmForCausalLM", "stablelm"),
    "command-r": ("CohereForCausalLM", "cohere"),
    "cohere2": ("Cohere2ForCausalLM", "cohere2"),
    "olmo2": ("Olmo2ForCausalLM", "olmo2"),
    "olmoe": ("OlmoeForCausalLM", "olmoe"),
    "granite": ("GraniteForCausalLM", "granite"),
    "deepseek2": ("DeepseekV2ForCausalLM", "deepseek_v2"),
    "gpt-oss": ("GptOssForCausalLM", "gpt_oss"),
}
# A field of config.json -> the key in the file, after the architecture.
FIELDS = {
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "max_position_embeddings": "context_length",
    "sliding_window": "attention.sliding_window",
    "kv_lora_rank": "attention.kv_lora_rank",
    "q_lora_rank": "attention.q_lora_rank",
    "num_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count",
    "moe_intermediate_size": "expert_feed_forward_length",
    "vocab_size": "vocab_size",
}


@dataclass(frozen=True, slots=True)
class Gguf:
    """What a header says; `config` has the fields of a `config.json`."""

    config: dict[str, Any]
    tensor_bytes: int


def read_gguf(path: Path) -> Gguf:
    """Read a file's header.

    Raises BadModel where the file is cut short or no GGUF file.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Reading(data).gguf()
    except (ValueError, ArithmeticError, struct.error, KeyError) as error:
        raise BadModel(
            f"cannot read {path} as a GGUF file: {error}",
            "copy or download it again; an interrupted download leaves such files behind",
        ) from error


def shards(path: Path) -> tuple[Path, ...]:
    """Return all parts of a model that is split over several files.

    Raises BadModel where one is missing.
    """
    match = SHARD.match(path.name)
    if match is None:
        return (path,)
    stem, _, count = match.groups()
    parts = [path.with_name(f"{stem}-{i:05}-of-{count}.gguf") for i in range(1, int(count) + 1)]
    missing = [part.name for part in parts if not part.is_file()]
    if missing:
        raise BadModel(
            f"{path.parent} lacks {', '.join(missing[:3])}: {len(missing)} of {len(parts)} parts",
            "the download is incomplete: finish it",
        )
    return tuple(parts)


class _Reading:
    """One pass over the header of one file."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.at = 0

    def gguf(self) -> Gguf:
        if self.data[:4] != b"GGUF":
            raise ValueError("it does not begin with GGUF")
        self.at = 4
        version = self.scalar("I")
        if version not in {2, 3}:
            raise ValueError(f"version {version} is not supported")
        tensors, fields = self.scalar("Q"), self.scalar("Q")
        metadata = {}
        for _ in range(fields):
            key = self.text()
            metadata[key] = self.value(self.scalar("I"))
        names, total = self.tensors(tensors, int(metadata.get("general.alignment", 32)))
        return Gguf(_config(metadata, names), total)

    def tensors(self, count: int, alignment: int) -> tuple[set[str], int]:
        """Return the names of all tensors and the bytes they take."""
        names, total, end = set(), 0, 0
        for _ in range(count):
            names.add(self.text())
            shape = [self.scalar("Q") for _ in range(self.scalar("I"))]
            kind, offset = self.scalar("I"), self.scalar("Q")
            if kind not in BLOCKS:
                raise ValueError(f"tensors of type {kind} are not supported")
            elements, size = BLOCKS[kind]
            taken = prod(shape) // elements * size
            total, end = total + taken, max(end, offset + taken)
        start = (self.at + alignment - 1) // alignment * alignment
        if start + end > len(self.data):
            missing = start + end - len(self.data)
            raise ValueError(f"the last {missing:,} bytes of its tensors are missing")
        return names, total

    def scalar(self, kind: str) -> Any:
        (value,) = struct.unpack_from(f"<{kind}", self.data, self.at)
        self.at += struct.calcsize(f"<{kind}")
        return value

    def text(self) -> str:
        length = self.scalar("Q")
        if self.at + length > len(self.data):
            raise ValueError("its header is incomplete")
        self.at += length
        return self.data[self.at - length : self.at].decode("utf-8", errors="replace")

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.text()
        if kind != ARRAY:
            return self.scalar(SCALARS[kind])
        of, count = self.scalar("I"), self.scalar("Q")
        if of in SCALARS and count <= 4096:  # one number for each layer
            return [self.scalar(SCALARS[of]) for _ in range(count)]
        self.skip(of, count)
        return range(count)

    def skip(self, kind: int, count: int) -> None:
        """Pass over an array that only its length is wanted of: the vocabulary."""
        if kind in SCALARS:
            self.at += count * struct.calcsize(f"<{SCALARS[kind]}")
            return
        if kind != STRING or count > LONGEST_ARRAY:
            raise ValueError(f"an array of {count} elements of type {kind} is not supported")
        read, at = struct.Struct("<Q").unpack_from, self.at
        for _ in range(count):
            at += 8 + read(self.data, at)[0]
        self.at = at


def _config(metadata: dict[str, Any], names: set[str]) -> dict[str, Any]:
    name = str(metadata["general.architecture"])
    architecture, model_type = ARCHITECTURES.get(name, (name, name))
    config: dict[str, Any] = {"torch_dtype": "float16"}
    for field, key in FIELDS.items():
        value = metadata.get(f"{name}.{key}")
        if isinstance(value, list):
            if len(set(value)) > 1:
                model_type = (
                    f"{name} of several kinds of layers"  # which the arithmetic abstains on
                )
            value = max(value, default=None)
        if value:
            config[field] = value
    if "vocab_size" not in config:
        config["vocab_size"] = len(metadata.get("tokenizer.ggml.tokens", ()))
    if model_type == "deepseek_v2":
        config["qk_rope_head_dim"] = metadata.get(f"{name}.rope.dimension_count")
    if model_type == "llama" and config.get("num_experts"):
        architecture, model_type = "MixtralForCausalLM", "mixtral"
    return {
        **config,
        "architectures": [architecture],
        "model_type": model_type,
        "tie_word_embeddings": "output.weight" not in names,
    }
