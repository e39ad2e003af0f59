"""How many parameters a model has, from its `config.json` alone (`--load-format dummy`)."""

from collections import Counter
from collections.abc import Sequence
from typing import Literal

from .config_json import PREDICTION_LAYERS, Fields, Sizes, listed, nested, number
from .layers import ENCODERS, LETTERS, LayerGroup, State
from .packing import packed_bits, packed_head_bits
from .tensors import Weights
from .towers import tower_elements

# One up and one down projection instead of a gated pair.
UNGATED = {
    *("gpt2", "gpt_bigcode", "gpt_neox", "opt", "bloom", "falcon", "starcoder2", "phi", "mpt"),
    *("nemotron", "nemotron_h", "arcee", "bert", "roberta", "xlm-roberta", "whisper"),
}
# Learned positions beside the tokens.
POSITIONED = {"gpt2", "gpt_bigcode", "opt", "bert", "roberta", "xlm-roberta"}
# Fields of layers that are not counted here: embeddings per layer.
UNCOUNTED = ("hidden_size_per_layer_input",)
# Encoders whose MLPs are counted right; others have gates, or layers that are not alike.
COUNTED_ENCODERS = {"bert", "roberta", "xlm-roberta"}
# Two more norms per layer, two norms on query and key: too little to tell apart, so all count 4.
NORMS = 4

# Parts that every tensor parallel device keeps whole.
WHOLE_PARTS = ("down", "indexer", "router")

Mlp = Literal["dense", "sparse", "none"]


def count_parameters(
    config: Fields,
    text: Fields,
    model_type: str,
    sizes: Sizes,
    *,
    kinds: Sequence[str],
    groups: Sequence[LayerGroup],
    tied: bool,
    quantization: Fields,
) -> Weights | None:
    """Return what weights of this shape hold, None where that is not known.

    In 16-bit floats but for what `quantization` packs. `text` are the fields of the language
    model, `kinds` what each of its layers keeps.
    """
    intermediate = _intermediate(text, model_type, sizes.hidden)
    recurrent = model_type in {"mamba", "mamba2", "falcon_mamba"}
    unusual = model_type in ENCODERS - COUNTED_ENCODERS or model_type == "longcat_flash"
    if unusual or number(text, *UNCOUNTED) or not (intermediate or recurrent):
        return None
    mixers = _mixers(text, model_type, sizes, groups)
    if not set(kinds) - {"none"} <= mixers.keys():
        return None
    # Elements by what they are; where each kind of module is first found, roughly in the middle.
    parts: Counter[str] = Counter()
    seen: dict[str, list[int]] = {}
    width = expert_width(text)
    matrices = (2 if model_type in UNGATED else 3) * sizes.hidden
    mlps = _mlp_kinds(text, model_type, sizes.layers)
    last = 0
    for layer, (kind, mlp) in enumerate(zip(kinds, mlps, strict=False)):
        found = Counter(mixers.get(kind, {}))
        if model_type == "falcon_h1":  # attention and Mamba side by side
            found += Counter(mixers["state"])
        if mlp == "sparse":
            found["experts"] = matrices * count_experts(text) * width
            found["shared"] = matrices * _shared_width(text)
            found["router"] = sizes.hidden * count_experts(text)
        elif mlp == "dense":
            found["dense"] = matrices * (number(text, "intermediate_size_mlp") or intermediate)
        for part in found:
            seen.setdefault(part, []).append(layer)
        parts += found
        last = sum(found.values()) if kind in {"full", "mla"} else last
    table = sizes.vocab * sizes.hidden
    head = 0 if tied else int(table * packed_head_bits(quantization) / 8)
    embedding = table * (1 if tied or head else 2)
    if model_type in POSITIONED:
        embedding += sizes.hidden * number(text, "n_positions", "max_position_embeddings")
    other = (sizes.layers * NORMS + 1) * sizes.hidden
    tower = tower_elements(config, sizes.hidden)
    bits = {part: packed_bits(quantization, part, at[len(at) // 2]) for part, at in seen.items()}
    packed = {part: int(parts[part] * each / 8) for part, each in bits.items() if each}
    plain = {part: count for part, count in parts.items() if part not in packed}
    stored = {part: 2 * count for part, count in plain.items()} | packed
    linear = sum(plain.values())
    return Weights(
        bytes=2 * (embedding + other + tower) + head + sum(stored.values()),
        embedding=embedding,
        linear=linear,
        other=other,
        tower=tower,
        packed_bytes=head + sum(packed.values()),
        whole_bytes=2 * other + sum(stored.get(part, 0) for part in WHOLE_PARTS),
        expert_bytes=stored.get("experts", 0),
        tower_bytes=2 * tower,
        # A prediction layer is like the last one, and joins two hidden states to one.
        draft_bytes=2 * number(text, *PREDICTION_LAYERS) * (last + 2 * sizes.hidden**2),
    )


def _intermediate(text: Fields, model_type: str, hidden: int) -> int:
    names = ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", "decoder_ffn_dim")
    found = number(text, "shared_intermediate_size") or number(text, *names)
    if model_type.startswith("lfm2") and text.get("block_auto_adjust_ff_dim"):
        scaled = float(text.get("block_ffn_dim_multiplier") or 1.0) * int(2 * found / 3)
        multiple = number(text, "block_multiple_of") or 256
        found = -(-int(scaled) // multiple) * multiple
    return found or number(text, "moe_intermediate_size") or 4 * hidden * (model_type in UNGATED)


def _mixers(
    text: Fields, model_type: str, sizes: Sizes, groups: Sequence[LayerGroup]
) -> dict[str, dict[str, int]]:
    """Return the elements of what mixes tokens, for each kind of layer, by part."""
    found: dict[str, dict[str, int]] = {}
    if model_type in ENCODERS:
        return {"none": {"attention": 4 * sizes.hidden**2}}
    for group in groups:
        if group.kind == "mla":
            found["mla"] = _latent_attention(text, sizes)
        elif group.kind == "state" and group.state:
            state = _recurrence(text, model_type, sizes.hidden, group.state)
            found |= {"state": {"recurrence": state}} if state else {}
        elif group.kind == "cross":
            continue
        else:
            gate = bool(text.get("attn_output_gate")) or model_type == "qwen3_next"
            shared = bool(text.get("attention_k_eq_v")) and group.kind == "full"
            queries = sizes.heads * ((1 + gate) * group.head_dim + group.value_dim)
            keys = group.kv_heads * (group.head_dim + (0 if shared else group.value_dim))
            twice = 2 if model_type == "whisper" else 1  # a decoder also attends to the encoder
            found[group.kind] = {"attention": twice * sizes.hidden * (queries + keys)}
    return found


def _latent_attention(text: Fields, sizes: Sizes) -> dict[str, int]:
    hidden, heads = sizes.hidden, sizes.heads
    rank, rope = number(text, "kv_lora_rank"), number(text, "qk_rope_head_dim")
    nope, value = number(text, "qk_nope_head_dim"), number(text, "v_head_dim")
    query_rank = number(text, "q_lora_rank")
    query = heads * (nope + rope)
    index = number(text, "index_n_heads") * number(text, "index_head_dim")
    indexer = query_rank * index + hidden * (
        number(text, "index_head_dim") + number(text, "index_n_heads")
    )
    return {
        "queries": (query_rank or hidden) * query,
        "latents": rank * heads * (nope + value),
        "outputs": heads * value * hidden,
        "down": query_rank * hidden + hidden * (rank + rope),
        "indexer": indexer if index else 0,
    }


def _recurrence(text: Fields, model_type: str, hidden: int, state: State) -> int:
    """Return the elements of a recurrent layer's matrices and convolution, 0 if not known."""
    channels = state.channels + state.groups * state.group_channels
    convolution = channels * state.kernel
    if model_type.startswith("lfm2"):  # a gated short convolution
        return 4 * hidden * state.channels + convolution
    if model_type.startswith("qwen3"):  # a gated delta net: q, k, v, z, two gates; and the output
        heads = number(text, "linear_num_value_heads")
        values = heads * number(text, "linear_value_head_dim")
        return hidden * (state.channels + 2 * values + 2 * heads) + convolution
    inner = state.channels
    if state.rigid:  # Mamba 1: in and out, x to step and B and C, the step, A and D
        size = state.matrix // inner
        rank = number(text, "mamba_dt_rank", "time_step_rank") or -(-hidden // 16)
        return inner * (3 * hidden + 2 * (rank + size) + size + 2) + convolution
    if model_type == "kimi_linear":
        return 0
    heads = number(text, "mamba_n_heads", "mamba_num_heads", "num_heads")
    return hidden * (channels + 2 * inner + heads) + convolution + 3 * heads + inner


def _mlp_kinds(text: Fields, model_type: str, layers: int) -> list[Mlp]:
    """Return what follows the mixer in each layer."""
    if model_type == "nemotron_h":  # a layer is either a mixer or an MLP
        written = listed(text, "layers_block_type") or [
            LETTERS.get(letter, "") for letter in str(text.get("hybrid_override_pattern", ""))
        ]
        names: dict[str, Mlp] = {"mlp": "dense", "moe": "sparse"}
        return [names.get(str(name), "none") for name in written]
    if model_type in {"mamba", "mamba2", "falcon_mamba"}:
        return ["none"] * layers
    sparse = set(_sparse_layers(text, layers))
    return ["sparse" if layer in sparse else "dense" for layer in range(layers)]


def count_experts(config: Fields) -> int:
    names = ("num_experts", "moe_num_experts", "n_routed_experts", "num_local_experts")
    return number(config, *names) or number(nested(config, "ffn_config"), "moe_num_experts")


def _sparse_layers(config: Fields, layers: int) -> Sequence[int]:
    if not count_experts(config):
        return []
    if config.get("model_type") == "jamba":
        offset = config.get("expert_layer_offset")
        period = number(config, "expert_layer_period") or 2
        return list(range(offset if isinstance(offset, int) else 1, layers, period))
    first = number(config, "first_k_dense_replace", "num_dense_layers")
    step = number(config, "decoder_sparse_step", "moe_layer_freq", "interleave_moe_layer_step") or 1
    dense = listed(config, "mlp_only_layers")
    return [i for i in range(first, layers) if (i + 1) % step == 0 and i not in dense]


def expert_width(config: Fields) -> int:
    names = ("moe_intermediate_size", "intermediate_size", "ffn_hidden_size")
    return number(config, *names) if count_experts(config) else 0


def plain_width(config: Fields, layers: int, default: int) -> int:
    """Return the width of the widest MLP of every token (dense, shared experts), 0 without one."""
    intermediate = number(config, "intermediate_size", "n_inner", "ffn_dim") or default
    if not count_experts(config):
        return intermediate
    dense = number(config, "intermediate_size_mlp") or intermediate
    return max(_shared_width(config), dense if len(_sparse_layers(config, layers)) < layers else 0)


def _shared_width(config: Fields) -> int:
    width = expert_width(config)
    if str(config.get("model_type")).startswith("llama4"):
        return width
    names = ("shared_expert_intermediate_size", "moe_shared_expert_intermediate_size")
    shared = number(config, *names, "shared_intermediate_size")
    return shared or number(config, "n_shared_experts") * width
