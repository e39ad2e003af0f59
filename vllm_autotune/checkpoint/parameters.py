"""How many parameters a model has, from its `config.json` alone (`--load-format dummy`)."""

from .config_json import Fields, Sizes, listed, nested, number
from .layers import MLA, count_kv_heads
from .tensors import Weights

# One up and one down projection instead of a gated pair.
UNGATED = {"gpt2", "gpt_bigcode", "gpt_neox", "opt", "bloom", "falcon", "starcoder2", "phi", "mpt"}
# Learned positions beside the tokens.
POSITIONED = {"gpt2", "gpt_bigcode", "opt"}
# Fields of layers that are not counted here: embeddings per layer, two sizes of attention.
UNCOUNTED = ("hidden_size_per_layer_input", "global_head_dim", "num_global_key_value_heads")
# Two more norms per layer, two norms on query and key: too little to tell apart, so all count 4.
NORMS = 4
BITS = {"awq": 4, "gptq": 4, "auto_awq": 4, "auto_gptq": 4, "bitsandbytes": 4, "fp8": 8, "mxfp4": 4}


def count_parameters(
    config: Fields, model_type: str, sizes: Sizes, *, tied: bool, quantization: Fields
) -> Weights | None:
    """Return what weights of this shape hold, None where that is not known.

    In 16-bit floats but for what `quantization` packs. Only for models whose every layer is
    attention and a (mixture of) multi-layer perceptron.
    """
    layers, hidden, heads = sizes.layers, sizes.hidden, sizes.heads
    intermediate = number(config, "intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size")
    intermediate = intermediate or (4 * hidden if model_type in UNGATED else 0)
    if not intermediate or number(config, *UNCOUNTED):
        return None
    if model_type in MLA and number(config, "kv_lora_rank"):
        attention = _latent_attention(config, hidden, heads)
    else:
        kv_heads = count_kv_heads(config, model_type, heads)
        attention = 2 * hidden * sizes.head_dim * (heads + kv_heads)
    matrices = 2 if model_type in UNGATED else 3
    sparse = _sparse_layers(config, layers)
    width = count_experts(config) * expert_width(config) + _shared_width(config)
    mixture = matrices * hidden * width  # every expert, shared ones too
    dense = matrices * hidden * (number(config, "intermediate_size_mlp") or intermediate)
    embedding = sizes.vocab * hidden * (1 if tied else 2)
    if model_type in POSITIONED:
        embedding += hidden * number(config, "n_positions", "max_position_embeddings")
    experts = sparse * mixture + (layers - sparse) * dense
    linear = layers * attention + experts
    other = layers * NORMS * hidden + hidden
    # GPT-OSS leaves its attention as it is.
    packed = experts if quantization.get("quant_method") == "mxfp4" else linear
    packed = packed if quantization else 0
    plain = embedding + linear + other - packed
    packed_bytes = int(packed * _packed_bits(quantization) / 8)
    return Weights(
        bytes=2 * plain + packed_bytes,
        embedding=embedding,
        linear=linear - packed,
        other=other,
        packed_bytes=packed_bytes,
    )


def _packed_bits(quantization: Fields) -> float:
    """Return the bits a weight takes, with its share of the scale and zero point of its group."""
    method = str(quantization.get("quant_method", ""))
    bits = number(quantization, "bits", "w_bit", "weight_bits") or BITS.get(method, 8)
    groups = list(nested(quantization, "config_groups").values())
    if groups:
        bits = number(nested(groups[0], "weights"), "num_bits") or 8
    if bits >= 8:
        return bits * 1.001
    if method == "mxfp4":
        return bits + 8 / 32
    return bits + (16 + bits) / (number(quantization, "group_size") or 128)


def _latent_attention(config: Fields, hidden: int, heads: int) -> int:
    rank, rope = number(config, "kv_lora_rank"), number(config, "qk_rope_head_dim")
    nope, value = number(config, "qk_nope_head_dim"), number(config, "v_head_dim")
    query_rank = number(config, "q_lora_rank")
    query = heads * (nope + rope)
    queries = query_rank * (hidden + query) if query_rank else hidden * query
    return queries + hidden * (rank + rope) + rank * heads * (nope + value) + heads * value * hidden


def count_experts(config: Fields) -> int:
    names = ("num_experts", "moe_num_experts", "n_routed_experts", "num_local_experts")
    return number(config, *names) or number(nested(config, "ffn_config"), "moe_num_experts")


def _sparse_layers(config: Fields, layers: int) -> int:
    if not count_experts(config):
        return 0
    first = number(config, "first_k_dense_replace")
    step = number(config, "decoder_sparse_step", "moe_layer_freq", "interleave_moe_layer_step") or 1
    dense = listed(config, "mlp_only_layers")
    return sum(1 for i in range(first, layers) if (i + 1) % step == 0 and i not in dense)


def expert_width(config: Fields) -> int:
    names = ("moe_intermediate_size", "intermediate_size", "ffn_hidden_size")
    return number(config, *names) if count_experts(config) else 0


def plain_width(config: Fields, layers: int, default: int) -> int:
    """Return the width of the widest MLP of every token (dense, shared experts), 0 without one."""
    intermediate = number(config, "intermediate_size", "n_inner", "ffn_dim") or default
    if not count_experts(config):
        return intermediate
    dense = number(config, "intermediate_size_mlp") or intermediate
    return max(_shared_width(config), dense if _sparse_layers(config, layers) < layers else 0)


def _shared_width(config: Fields) -> int:
    width = expert_width(config)
    if str(config.get("model_type")).startswith("llama4"):
        return width
    shared = number(config, "shared_expert_intermediate_size", "shared_intermediate_size")
    return shared or number(config, "n_shared_experts") * width
