"""Make a small model with random weights that reads images: Idefics 3, by the standard library.

Its processor needs Pillow and no torchvision, which vLLM's CPU build cannot have beside its torch.
An image becomes four tiles and a picture of the whole, five times 16 tokens and what marks them.
"""

import random
from collections.abc import Iterator
from pathlib import Path

from tests.support.tiny_model import (
    tensor_shapes,
    tokenizer,
    tokenizer_config,
    write_json,
    write_safetensors,
)

LAYERS, HEADS, HEAD_DIM, INNER, WORDS = 4, 4, 64, 256, 2048
WIDTH = HEADS * HEAD_DIM
TOWER_LAYERS, TOWER_WIDTH, TOWER_INNER = 2, 64, 128
SIDE, PATCH, SCALE = 112, 14, 2
MARKS = (
    *("<fake_token_around_image>", "<image>", "<global-img>", "<end_of_utterance>"),
    *(f"<row_{row}_col_{col}>" for row in range(1, 7) for col in range(1, 7)),
)
VOCABULARY = (WORDS + len(MARKS) + 63) // 64 * 64

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{{ part['text'] if part['type'] == 'text' else '<image>' }}"
    "{% endfor %}{% endif %}{{ '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def make_tiny_image_model(folder: Path, *, context: int = 2048, dtype: str = "float32") -> Path:
    """Write the model into `folder` and return it."""
    special = {"bos_token_id": WORDS - 3, "eos_token_id": WORDS - 1, "pad_token_id": WORDS - 3}
    text = {
        "model_type": "llama",
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "head_dim": HEAD_DIM,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": context,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
        **special,
    }
    tower = {
        "model_type": "idefics3_vision",
        "hidden_size": TOWER_WIDTH,
        "intermediate_size": TOWER_INNER,
        "num_hidden_layers": TOWER_LAYERS,
        "num_attention_heads": 4,
        "image_size": SIDE,
        "patch_size": PATCH,
    }
    config = {
        "architectures": ["Idefics3ForConditionalGeneration"],
        "model_type": "idefics3",
        "image_token_id": WORDS + MARKS.index("<image>"),
        "scale_factor": SCALE,
        "tie_word_embeddings": True,
        "torch_dtype": dtype,
        "text_config": text,
        "vision_config": tower,
        **special,
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", config)
    write_json(folder / "tokenizer.json", _tokenizer())
    settings = tokenizer_config(context)
    write_json(folder / "tokenizer_config.json", {**settings, "chat_template": CHAT_TEMPLATE})
    write_json(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": "Idefics3ImageProcessor",
            "processor_class": "Idefics3Processor",
            "size": {"longest_edge": 2 * SIDE},
            "max_image_size": {"longest_edge": SIDE},
        },
    )
    tokens = (SIDE // PATCH) ** 2 // SCALE**2
    write_json(
        folder / "processor_config.json",
        {"processor_class": "Idefics3Processor", "image_seq_len": tokens},
    )
    shapes = dict(_shapes())
    write_safetensors(folder / "model.safetensors", shapes, dtype, random.Random(0))
    return folder


def _tokenizer() -> dict[str, object]:
    made = tokenizer(WORDS)
    added = made["added_tokens"]
    assert isinstance(added, list)
    marks = [{**added[0], "id": WORDS + n, "content": mark} for n, mark in enumerate(MARKS)]
    return {**made, "added_tokens": added + marks}


def _shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    for name, shape in tensor_shapes(LAYERS, WIDTH, WIDTH, WIDTH, INNER):
        if not name.endswith(".bias"):  # which Llama does not have
            yield name.replace("model.", "model.text_model.", 1), shape
    yield "model.text_model.embed_tokens.weight", (VOCABULARY, WIDTH)
    width, inner = TOWER_WIDTH, TOWER_INNER
    yield "model.connector.modality_projection.proj.weight", (WIDTH, width * SCALE**2)
    tower = "model.vision_model"
    yield f"{tower}.embeddings.patch_embedding.weight", (width, 3, PATCH, PATCH)
    yield f"{tower}.embeddings.patch_embedding.bias", (width,)
    yield f"{tower}.embeddings.position_embedding.weight", ((SIDE // PATCH) ** 2, width)
    yield f"{tower}.post_layernorm.weight", (width,)
    yield f"{tower}.post_layernorm.bias", (width,)
    for layer in range(TOWER_LAYERS):
        block = f"{tower}.encoder.layers.{layer}"
        sides = {f"self_attn.{name}_proj": (width, width) for name in ("q", "k", "v", "out")}
        sides |= {"mlp.fc1": (inner, width), "mlp.fc2": (width, inner)}
        for name, shape in sides.items():
            yield f"{block}.{name}.weight", shape
            yield f"{block}.{name}.bias", shape[:1]
        for name in ("layer_norm1", "layer_norm2"):
            yield f"{block}.{name}.weight", (width,)
            yield f"{block}.{name}.bias", (width,)
