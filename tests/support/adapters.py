"""Small LoRA adapters in PEFT's format, of random weights."""

import json
import random
import struct
from collections.abc import Mapping
from math import prod
from pathlib import Path

from tests.support.tiny_model import random_numbers

Tensors = Mapping[str, tuple[int, int]]


def tensors_of(
    layers: int, rank: int, sizes: Mapping[str, tuple[int, int]], stem: str = "model"
) -> Tensors:
    """Return both matrices of modules like `self_attn.q_proj`, by their inputs and outputs.

    `stem` is where the layers are in the model.
    """
    found = {}
    for layer in range(layers):
        for module, (inputs, outputs) in sizes.items():
            name = f"base_model.model.{stem}.layers.{layer}.{module}"
            found[f"{name}.lora_A.weight"] = (rank, inputs)
            found[f"{name}.lora_B.weight"] = (outputs, rank)
    return found


def make_adapter(folder: Path, rank: int, tensors: Tensors, **settings: object) -> Path:
    """Write an adapter into `folder`, which is new, and return it."""
    folder.mkdir()
    modules = sorted({name.split(".")[-3] for name in tensors})
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": modules}
    (folder / "adapter_config.json").write_text(json.dumps({**config, **settings}))
    header, end, rng = {}, 0, random.Random(str(folder))
    for name, shape in tensors.items():
        size = 2 * prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with (folder / "adapter_model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.write(random_numbers(end // 2, 2, (0x3C, 0xBC), rng))
    return folder
