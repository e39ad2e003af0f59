"""Make a small Qwen2-style model with random weights, tokenizer and chat template.

Standard library only, so that a model costs a second and no download:

    python tests/support/tiny_model.py .demo/tiny-qwen2 --layers 8 --heads 16 --context 8192
"""

import argparse
import itertools
import json
import math
import random
import struct
from collections.abc import Iterator
from pathlib import Path

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

# GPT-2's pattern: cut the text into words before merging bytes.
WORDS = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

# dtype -> (safetensors name, bytes per number, the high bytes of +-0.01 to +-0.03, of 1.0).
DTYPES = {
    "bfloat16": ("BF16", 2, (0x3C, 0xBC), b"\x80\x3f"),
    "float16": ("F16", 2, (0x24, 0xA4), b"\x00\x3c"),
    "float32": ("F32", 4, (0x3C, 0xBC), b"\x00\x00\x80\x3f"),
}


def make_tiny_model(
    folder: Path,
    *,
    layers: int = 4,
    heads: int = 4,
    kv_heads: int | None = None,
    head_dim: int = 64,
    hidden_size: int | None = None,
    intermediate_size: int = 256,
    vocab_size: int = 2048,
    context: int = 8192,
    dtype: str = "bfloat16",
    seed: int = 0,
) -> Path:
    """Write the model into `folder` and return it; the same arguments write the same bytes.

    vLLM's Qwen2 knows no hidden size but `heads * head_dim`: with another one the model is a Qwen3.
    One token of KV cache takes `2 * layers * kv_heads * head_dim` numbers (see
    `kv_bytes_per_token`).
    """
    kv_heads = kv_heads or heads
    width, kv_width = heads * head_dim, kv_heads * head_dim
    hidden_size = hidden_size or width
    family = "Qwen2" if hidden_size == width else "Qwen3"
    config = {
        "architectures": [f"{family}ForCausalLM"],
        "model_type": family.lower(),
        "hidden_size": hidden_size,
        "intermediate_size": intermediate_size,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": context,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": True,
        "torch_dtype": dtype,
        "vocab_size": vocab_size,
        "bos_token_id": vocab_size - 3,
        "eos_token_id": vocab_size - 1,
        "use_sliding_window": False,
    }
    shapes = dict(tensor_shapes(layers, hidden_size, width, kv_width, intermediate_size))
    if family == "Qwen3":  # where Qwen2 has biases, it has norms
        shapes = {name: shape for name, shape in shapes.items() if not name.endswith(".bias")}
        for layer, name in itertools.product(range(layers), ("q_norm", "k_norm")):
            shapes[f"model.layers.{layer}.self_attn.{name}.weight"] = (head_dim,)
    shapes["model.embed_tokens.weight"] = (vocab_size, hidden_size)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", config)
    write_json(
        folder / "generation_config.json",
        {"bos_token_id": vocab_size - 3, "eos_token_id": [vocab_size - 1], "do_sample": False},
    )
    write_json(folder / "tokenizer.json", tokenizer(vocab_size))
    write_json(folder / "tokenizer_config.json", tokenizer_config(context))
    write_safetensors(folder / "model.safetensors", shapes, dtype, random.Random(seed))
    return folder


def kv_bytes_per_token(layers: int, kv_heads: int, head_dim: int, bytes_per_number: int = 2) -> int:
    """Return what one token takes in the KV cache: keys and values of every layer."""
    return 2 * layers * kv_heads * head_dim * bytes_per_number


def tensor_shapes(
    layers: int, hidden: int, width: int, kv_width: int, intermediate: int
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the name and shape of every tensor but the embedding."""
    for layer in range(layers):
        block = f"model.layers.{layer}"
        for name, rows in (("q", width), ("k", kv_width), ("v", kv_width)):
            yield f"{block}.self_attn.{name}_proj.weight", (rows, hidden)
            yield f"{block}.self_attn.{name}_proj.bias", (rows,)
        yield f"{block}.self_attn.o_proj.weight", (hidden, width)
        yield f"{block}.mlp.gate_proj.weight", (intermediate, hidden)
        yield f"{block}.mlp.up_proj.weight", (intermediate, hidden)
        yield f"{block}.mlp.down_proj.weight", (hidden, intermediate)
        yield f"{block}.input_layernorm.weight", (hidden,)
        yield f"{block}.post_attention_layernorm.weight", (hidden,)
    yield "model.norm.weight", (hidden,)


def write_safetensors(
    path: Path, shapes: dict[str, tuple[int, ...]], dtype: str, rng: random.Random
) -> None:
    """Write the tensors: norms of one, everything else small and random."""
    name, size, high_bytes, one = DTYPES[dtype]
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor, shape in shapes.items():
        start, end = end, end + math.prod(shape) * size
        header[tensor] = {"dtype": name, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)))
        file.write(text)
        for tensor, shape in shapes.items():
            count = math.prod(shape)
            is_norm = "norm" in tensor
            file.write(one * count if is_norm else random_numbers(count, size, high_bytes, rng))


def random_numbers(count: int, size: int, high_bytes: tuple[int, int], rng: random.Random) -> bytes:
    """Return `count` little-endian floats around +-0.02.

    The sign and the top of the exponent, all in the high byte, are chosen; the rest is noise.
    """
    numbers = bytearray(count * size)
    signs = bytes(high_bytes[byte & 1] for byte in range(256))
    numbers[size - 1 :: size] = rng.randbytes(count).translate(signs)
    numbers[size - 2 :: size] = rng.randbytes(count)
    return bytes(numbers)


def byte_letters() -> list[str]:
    """Return the letter that stands for each byte in a byte-level vocabulary (as GPT-2 does)."""
    printable = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(256) if byte not in printable)
    stand_in = {byte: chr(256 + n) for n, byte in enumerate(others)}
    return [stand_in.get(byte, chr(byte)) for byte in range(256)]


def tokenizer(vocab_size: int) -> dict[str, object]:
    """Return a byte-level BPE: every byte, pairs of printable letters, the special tokens.

    Ids beyond those pairs stay without a token, as in real Qwen2 checkpoints.
    """
    letters = byte_letters()
    plain = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    plain.sort(key=lambda letter: (not letter.islower(), letter))
    pairs = [(first, second) for first in plain for second in plain]
    room = vocab_size - len(letters) - len(SPECIAL_TOKENS)
    if room < 0:
        raise ValueError(f"a vocabulary needs {vocab_size - room} tokens at least")
    merges = pairs[:room]
    tokens = letters + [first + second for first, second in merges]
    first_special = vocab_size - len(SPECIAL_TOKENS)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": first_special + n,
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for n, token in enumerate(SPECIAL_TOKENS)
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": {"Regex": WORDS},
                    "behavior": "Isolated",
                    "invert": False,
                },
                {
                    "type": "ByteLevel",
                    "add_prefix_space": False,
                    "trim_offsets": False,
                    "use_regex": False,
                },
            ],
        },
        "post_processor": None,
        "decoder": {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": False,
            "use_regex": False,
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {token: n for n, token in enumerate(tokens)},
            "merges": [[first, second] for first, second in merges],
        },
    }


def tokenizer_config(context: int) -> dict[str, object]:
    """Return the settings beside the tokenizer: its class, special tokens and chat template."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context,
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }


def write_json(path: Path, document: dict[str, object]) -> None:
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    """Make a model from the command line; its options are `make_tiny_model`'s."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--kv-heads", type=int)
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--hidden-size", type=int)
    parser.add_argument("--intermediate-size", type=int, default=256)
    parser.add_argument("--vocab-size", type=int, default=2048)
    parser.add_argument("--context", type=int, default=8192)
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="bfloat16")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    make_tiny_model(**vars(options))
    kv_heads = options.kv_heads or options.heads
    per_token = kv_bytes_per_token(
        options.layers, kv_heads, options.head_dim, DTYPES[options.dtype][1]
    )
    megabytes = (options.folder / "model.safetensors").stat().st_size / 2**20
    print(f"{options.folder}: {megabytes:.1f} MiB of weights, {per_token} B of KV cache per token")


if __name__ == "__main__":
    main()
