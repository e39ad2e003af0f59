"""Random checkpoints in the shape of a real Qwen2: bfloat16 as trained, or quantized as published.

    python -m tests.gpu.checkpoints FOLDER SHAPE [METHOD]

Standard library only, at the speed of the disk: a megabyte of noise is drawn once for every kind
of tensor and repeated. What the layouts are: vLLM 0.26, model_executor/layers/quantization/
auto_awq.py, auto_gptq.py and compressed_tensors/schemes/.
"""

import json
import math
import random
import struct
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

from tests.support.paths import SHAPES
from tests.support.tiny_model import (
    random_numbers,
    tokenizer,
    tokenizer_config,
    write_json,
)

VOCABULARY = 2048  # of the small tokenizer
# Fields of Qwen2-VL's config.json -> tokens they name, and its preprocessor_config.json.
SEEN = {
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
    "vision_token_id": "<|vision_pad|>",
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
}
SEES = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "processor_class": "Qwen2VLProcessor",
    "min_pixels": 3136,
    "max_pixels": 12845056,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
# What gpt-oss writes its messages with, and vLLM's parser of them looks up.
HARMONY = (
    *("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>", "<|return|>"),
    "<|call|>",
)
GROUP = 128  # input channels that share a scale
SIZES = {"BF16": 2, "F16": 2, "F32": 4, "F8_E4M3": 1, "I32": 4, "I64": 8}
DTYPES = {"bfloat16": "BF16", "float16": "F16"}

INT4_WEIGHTS = {
    "num_bits": 4,
    "type": "int",
    "symmetric": True,
    "strategy": "group",
    "group_size": GROUP,
    "dynamic": False,
}
FP8 = {"num_bits": 8, "type": "float", "symmetric": True}


def compressed(name: str, weights: dict[str, Any], inputs: dict[str, Any] | None) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": weights, "input_activations": inputs}
    return {
        "quant_method": "compressed-tensors",
        "format": name,
        "ignore": ["lm_head"],
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
    }


# What config.json says of each way to store the linear layers.
METHODS: Mapping[str, dict[str, Any]] = {
    "bf16": {},
    "awq": {
        "quant_method": "awq",
        "bits": 4,
        "group_size": GROUP,
        "zero_point": True,
        "version": "gemm",
    },
    "gptq": {
        "quant_method": "gptq",
        "bits": 4,
        "group_size": GROUP,
        "desc_act": False,
        "sym": True,
        "checkpoint_format": "gptq",
    },
    "w4a16": compressed("pack-quantized", INT4_WEIGHTS, None),
    "w8a8-fp8": compressed(
        "float-quantized",
        {**FP8, "strategy": "channel", "dynamic": False},
        {**FP8, "strategy": "token", "dynamic": True},
    ),
}


@dataclass(frozen=True)
class Tensor:
    """One tensor of the file; `content` names what its bytes are."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    content: str = "noise"

    @property
    def size(self) -> int:
        return math.prod(self.shape) * SIZES[self.dtype]

    def write(self, file: BinaryIO, noise: Mapping[tuple[str, str], bytes]) -> None:
        if self.content == "ones":
            file.write((b"\x00\x3c" if self.dtype == "F16" else b"\x80\x3f") * self.shape[0])
        elif self.content == "groups":  # which group an input channel belongs to
            file.write(struct.pack(f"<{self.shape[0]}i", *(n // GROUP for n in range(*self.shape))))
        elif self.content.startswith("shape "):  # of what was packed
            file.write(struct.pack("<2q", *map(int, self.content.split()[1:])))
        else:
            block = noise[self.dtype, self.content]
            whole, rest = divmod(self.size, len(block))
            for _ in range(whole):
                file.write(block)
            file.write(block[:rest])


def make_noise(rng: random.Random, count: int = 1 << 20) -> dict[tuple[str, str], bytes]:
    """Return a block of each kind of noise: weights around 0.02, the scales that make them so."""

    def floats(size: int, high: int) -> bytes:
        return bytes(random_numbers(count, size, (high, high), rng))

    # Of the 256 codes of e4m3 two are no numbers.
    numbers = bytes(code if code & 0x7F != 0x7F else 0 for code in range(256))
    return {
        ("BF16", "noise"): bytes(random_numbers(count, 2, (0x3C, 0xBC), rng)),
        ("F16", "noise"): bytes(random_numbers(count, 2, (0x24, 0xA4), rng)),
        ("I32", "noise"): rng.randbytes(4 * count),
        ("F8_E4M3", "noise"): rng.randbytes(count).translate(numbers),
        ("F16", "scale"): floats(2, 0x18),  # 0.002
        ("BF16", "scale"): floats(2, 0x3B),  # 0.002 to 0.008
        ("F32", "scale"): floats(4, 0x38),  # 0.00003 to 0.0001: e4m3 goes to 448
    }


def linear(name: str, out: int, into: int, method: str, dtype: str) -> Iterator[Tensor]:
    """Yield the tensors that one linear layer is stored as."""
    if method == "bf16":
        yield Tensor(f"{name}.weight", dtype, (out, into))
    elif method == "awq":
        yield Tensor(f"{name}.qweight", "I32", (into, out // 8))
        yield Tensor(f"{name}.qzeros", "I32", (into // GROUP, out // 8))
        yield Tensor(f"{name}.scales", dtype, (into // GROUP, out), "scale")
    elif method == "gptq":
        yield Tensor(f"{name}.qweight", "I32", (into // 8, out))
        yield Tensor(f"{name}.qzeros", "I32", (into // GROUP, out // 8))
        yield Tensor(f"{name}.scales", dtype, (into // GROUP, out), "scale")
        yield Tensor(f"{name}.g_idx", "I32", (into,), "groups")
    elif method == "w4a16":
        yield Tensor(f"{name}.weight_packed", "I32", (out, into // 8))
        yield Tensor(f"{name}.weight_scale", dtype, (out, into // GROUP), "scale")
        yield Tensor(f"{name}.weight_shape", "I64", (2,), f"shape {out} {into}")
    else:
        yield Tensor(f"{name}.weight", "F8_E4M3", (out, into))
        yield Tensor(f"{name}.weight_scale", "F32", (out, 1), "scale")


def tensors(config: Mapping[str, Any], method: str, dtype: str) -> Iterator[Tensor]:
    """Yield every tensor of a Qwen2."""
    hidden, between = config["hidden_size"], config["intermediate_size"]
    head = config.get("head_dim") or hidden // config["num_attention_heads"]
    kv = config["num_key_value_heads"] * head
    yield Tensor("model.embed_tokens.weight", dtype, (config["vocab_size"], hidden))
    for layer in range(config["num_hidden_layers"]):
        block = f"model.layers.{layer}"
        for name, width in (("q", hidden), ("k", kv), ("v", kv)):
            yield from linear(f"{block}.self_attn.{name}_proj", width, hidden, method, dtype)
            yield Tensor(f"{block}.self_attn.{name}_proj.bias", dtype, (width,))
        yield from linear(f"{block}.self_attn.o_proj", hidden, hidden, method, dtype)
        for name in ("gate", "up"):
            yield from linear(f"{block}.mlp.{name}_proj", between, hidden, method, dtype)
        yield from linear(f"{block}.mlp.down_proj", hidden, between, method, dtype)
        for name in ("input_layernorm", "post_attention_layernorm"):
            yield Tensor(f"{block}.{name}.weight", dtype, (hidden,), "ones")
    yield Tensor("model.norm.weight", dtype, (hidden,), "ones")
    if not config.get("tie_word_embeddings"):
        yield Tensor("lm_head.weight", dtype, (config["vocab_size"], hidden))


def write_tensors(path: Path, parts: list[Tensor], *, hollow: bool = False) -> None:
    """Write a safetensors file; a hollow one has its size, but zeros that take no disk."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in parts:
        start, end = end, end + tensor.size
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": tensor.shape,
            "data_offsets": [start, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    noise = {} if hollow else make_noise(random.Random(0))
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        if hollow:
            file.truncate(8 + len(text) + end)
            return
        for tensor in parts:
            tensor.write(file, noise)


def read_shape(shape: str) -> dict[str, Any]:
    """Return the config.json of a real model."""
    config: dict[str, Any] = json.loads((SHAPES / f"{shape}.json").read_text())
    return config


def make_shape(folder: Path, config: Mapping[str, Any]) -> Path:
    """Write a model's config.json with a small tokenizer, and no weights."""
    folder.mkdir(parents=True, exist_ok=True)
    words: dict[str, Any] = tokenizer(VOCABULARY)
    if config["model_type"] == "qwen2_vl":
        config = {**config, **seeing(words)}
        write_json(folder / "preprocessor_config.json", SEES)
    if config["model_type"] == "gpt_oss":
        added(words, HARMONY)
    write_json(folder / "config.json", dict(config))
    write_json(folder / "tokenizer.json", words)
    context = int(config.get("max_position_embeddings") or 0)
    write_json(folder / "tokenizer_config.json", tokenizer_config(context))
    return folder


def seeing(words: dict[str, Any]) -> dict[str, int]:
    """Add Qwen2-VL's tokens around images to a tokenizer; return the fields that name them."""
    return dict(zip(SEEN, added(words, SEEN.values()), strict=True))


def added(words: dict[str, Any], tokens: Iterable[str]) -> list[int]:
    """Add special tokens to a tokenizer; return their ids."""
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    ids = dict(zip(tokens, count(VOCABULARY), strict=False))
    words["added_tokens"] += [
        {"id": number, "content": token, "special": True, **plain} for token, number in ids.items()
    ]
    return list(ids.values())


def make_checkpoint(
    folder: Path, config: Mapping[str, Any], method: str, *, hollow: bool = False
) -> Path:
    """Write a Qwen2 with random weights, stored in this way; a folder that is there stays."""
    assert config["model_type"] == "qwen2", "the tensors' names and biases are those of Qwen2"
    if (folder / "complete").exists():
        return folder
    # AWQ and GPTQ checkpoints are float16, as published.
    dtype = "float16" if method in ("awq", "gptq") else "bfloat16"
    described = {**config, "torch_dtype": dtype}
    if METHODS[method]:
        described["quantization_config"] = METHODS[method]
    make_shape(folder, described)
    parts = list(tensors(config, method, DTYPES[dtype]))
    write_tensors(folder / "model.safetensors", parts, hollow=hollow)
    (folder / "complete").touch()
    return folder


def main() -> None:
    """Make a checkpoint from the command line."""
    folder, shape, method = Path(sys.argv[1]), sys.argv[2], (*sys.argv[3:], "bf16")[0]
    make_checkpoint(folder, read_shape(shape), method)


if __name__ == "__main__":
    main()
