"""A GGUF file's header: the model's shape as a `config.json` has it, and the bytes of its tensors.

Source: docs/gguf.md of ggml-org/ggml (versions 2 and 3), gguf-py/gguf/constants.py of llama.cpp.
"""

# Not with the package gguf (0.19): its reader takes 15 s of processor time and 700 MiB for a file
# of 150,000 tokens and 300,000 merges, this one 0.06 s.

import mmap
import re
import struct
from math import prod
from pathlib import Path
from typing import Any

from ..errors import BadModel
from ..files import open_regular
from .refusals import damaged, lacking, unreadable

# Type of a number -> its letter for struct.
SCALARS = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
# Tensor type -> bytes of a block of so many elements.
OF_1 = {0: 4, 1: 2, 24: 1, 25: 2, 26: 4, 27: 8, 28: 8, 30: 2}
OF_32 = {2: 18, 3: 20, 6: 22, 7: 24, 8: 34, 20: 18, 39: 17}
K_QUANTS = {10: 84, 11: 110, 12: 144, 13: 176, 14: 210, 15: 292}
I_QUANTS = {16: 66, 17: 74, 18: 98, 19: 50, 21: 110, 22: 82, 23: 136, 29: 56}
OF_256 = {**K_QUANTS, **I_QUANTS, 34: 54, 35: 66}  # the last two are ternary
BLOCKS = {
    kind: (elements, size)
    for elements, sizes in ((1, OF_1), (32, OF_32), (256, OF_256), (64, {40: 36}), (128, {41: 18}))
    for kind, size in sizes.items()
}
LONGEST_ARRAY = 10_000_000
SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf$")
# fmt: off
# llama.cpp's name of an architecture -> its class and model_type in transformers.
ARCHITECTURES = {
    "llama": ("LlamaForCausalLM", "llama"),
    "qwen2": ("Qwen2ForCausalLM", "qwen2"), "qwen2moe": ("Qwen2MoeForCausalLM", "qwen2_moe"),
    "qwen3": ("Qwen3ForCausalLM", "qwen3"), "qwen3moe": ("Qwen3MoeForCausalLM", "qwen3_moe"),
    "gemma": ("GemmaForCausalLM", "gemma"), "gemma2": ("Gemma2ForCausalLM", "gemma2"),
    "gemma3": ("Gemma3ForCausalLM", "gemma3_text"),
    "phi2": ("PhiForCausalLM", "phi"), "phi3": ("Phi3ForCausalLM", "phi3"),
    "gpt2": ("GPT2LMHeadModel", "gpt2"), "gptneox": ("GPTNeoXForCausalLM", "gpt_neox"),
    "falcon": ("FalconForCausalLM", "falcon"), "stablelm": ("StableLmForCausalLM", "stablelm"),
    "command-r": ("CohereForCausalLM", "cohere"), "cohere2": ("Cohere2ForCausalLM", "cohere2"),
    "olmo2": ("Olmo2ForCausalLM", "olmo2"), "olmoe": ("OlmoeForCausalLM", "olmoe"),
    "granite": ("GraniteForCausalLM", "granite"), "gpt-oss": ("GptOssForCausalLM", "gpt_oss"),
    "starcoder2": ("Starcoder2ForCausalLM", "starcoder2"),
    "deepseek2": ("DeepseekV2ForCausalLM", "deepseek_v2"),
}
# A field of config.json -> the key in the file, after the architecture.
FIELDS = {
    "hidden_size": "embedding_length", "num_hidden_layers": "block_count",
    "vocab_size": "vocab_size", "max_position_embeddings": "context_length",
    "num_attention_heads": "attention.head_count", "head_dim": "attention.key_length",
    "num_key_value_heads": "attention.head_count_kv", "sliding_window": "attention.sliding_window",
    "kv_lora_rank": "attention.kv_lora_rank", "q_lora_rank": "attention.q_lora_rank",
    "num_experts": "expert_count", "num_experts_per_tok": "expert_used_count",
    "intermediate_size": "feed_forward_length",
    "moe_intermediate_size": "expert_feed_forward_length",
}
# fmt: on


def read_gguf(path: Path) -> tuple[dict[str, Any], int]:
    """Return a header as a `config.json`, and the bytes of its tensors, or raise BadModel."""
    try:
        with (
            open_regular(path) as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            return _Header(data).read()
    except OSError as error:
        raise unreadable(path, error) from error
    except (ArithmeticError, LookupError, TypeError, ValueError, struct.error) as error:
        why = error if isinstance(error, ValueError) else "its header is incomplete or damaged"
        raise damaged(path, "GGUF", why) from error


def shards(path: Path) -> tuple[Path, ...]:
    """Return all files of a model that may be split. Raises BadModel if one is missing."""
    match = SHARD.match(path.name)
    if match is None:
        return (path,)
    stem, _, count = match.groups()
    parts = [path.with_name(f"{stem}-{i:05}-of-{count}.gguf") for i in range(1, int(count) + 1)]
    missing = [part.name for part in parts if not part.is_file()]
    if missing:
        raise BadModel(*lacking(path.parent, missing, f"the {len(parts)} parts of this model"))
    return tuple(parts)


class _Header:
    """One pass over the header of one file."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.at = 0

    def read(self) -> tuple[dict[str, Any], int]:
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
        return _config(metadata, names), total

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
        if of in SCALARS:
            numbers, at = f"<{count}{SCALARS[of]}", self.at
            self.at += struct.calcsize(numbers)
            # One number for each layer; of what is as long as the vocabulary the length is enough.
            return struct.unpack_from(numbers, self.data, at) if count <= 4096 else range(count)
        if of != STRING or count > LONGEST_ARRAY:
            raise ValueError(f"an array of {count} elements of type {of} is not supported")
        read, at = struct.Struct("<Q").unpack_from, self.at
        for _ in range(count):
            at += 8 + read(self.data, at)[0]
        self.at = at
        return range(count)


def _config(metadata: dict[str, Any], names: set[str]) -> dict[str, Any]:
    name = str(metadata["general.architecture"])
    architecture, model_type = ARCHITECTURES.get(name, (name, name))
    latent = {"qk_rope_head_dim": "rope.dimension_count"} if name == "deepseek2" else {}
    config: dict[str, Any] = {"torch_dtype": "float16"}
    for field, key in (FIELDS | latent).items():
        value = metadata.get(f"{name}.{key}")
        if isinstance(value, tuple):
            if len(set(value)) > 1:  # the arithmetic abstains on this
                model_type = f"{name} of several kinds of layers"
            value = max(value, default=None)
        if isinstance(value, int | float) and value:
            config[field] = value
    if "vocab_size" not in config:
        config["vocab_size"] = len(metadata.get("tokenizer.ggml.tokens", ()))
    if model_type == "llama" and config.get("num_experts"):
        architecture, model_type = "MixtralForCausalLM", "mixtral"
    return {
        **config,
        "architectures": [architecture],
        "model_type": model_type,
        "tie_word_embeddings": "output.weight" not in names,
    }
