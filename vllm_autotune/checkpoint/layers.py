"""What a model's layers keep in memory between tokens, read from its `config.json`."""

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from .config_json import Fields, Sizes, listed, nested, number

Kind = Literal["full", "sliding", "chunked", "cross", "mla", "state", "none"]

# What a layer keeps -> what vLLM calls it (`layer_types`, transformers 4.5x and 5.x).
LAYER_TYPES: dict[Kind, tuple[str, ...]] = {
    "full": ("full_attention", "attention"),
    "sliding": ("sliding_attention",),
    "chunked": ("chunked_attention",),
    "state": ("linear_attention", "mamba", "mamba2", "conv"),
    "none": ("moe", "mlp"),
}
KINDS = {name: kind for kind, names in LAYER_TYPES.items() for name in names}
# The letters of `hybrid_override_pattern` -> `layers_block_type` (NemotronH).
LETTERS = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}
# What all layers but every n-th keep (that one keeps all tokens), and n, where `layer_types` is not
# written out (transformers' defaults) -> model types.
PATTERNS: dict[tuple[Kind, int], tuple[str, ...]] = {
    ("sliding", 2): ("gemma2", "gpt_oss"),
    ("sliding", 4): ("cohere2", "olmo3", "exaone4"),
    ("sliding", 5): ("gemma3n_text",),
    ("sliding", 6): ("gemma3", "gemma3_text", "gemma4_text"),
    ("chunked", 4): ("llama4_text",),
    ("state", 4): ("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"),
}
PATTERN = {name: pattern for pattern, names in PATTERNS.items() for name in names}
# Latent attention (`is_deepseek_mla` in model_arch_config_convertor.py, and models/mistral.py and
# sarvam.py, vLLM 0.32).
MLA = {
    *("deepseek_v2", "deepseek_v3", "deepseek_v32", "kimi_k2", "glm4_moe_lite", "glm_moe_dsa"),
    *("pangu_ultra_moe", "axk1", "longcat_flash", "mistral4", "sarvam_mla"),
}
# Models that read a text as a whole, and keep nothing of it.
ENCODERS = {
    *("bert", "roberta", "xlm-roberta", "modernbert", "nomic_bert", "new", "gte", "distilbert"),
    *("electra", "snowflake_bert", "jina_bert"),
}
# Every layer keeps all tokens, unless a sliding window says otherwise.
PLAIN = {
    *("llama", "mistral", "ministral", "mixtral", "qwen", "qwen2", "qwen3", "qwen2_moe"),
    *("qwen3_moe", "qwen2_vl", "qwen2_vl_text", "qwen2_5_vl", "qwen2_5_vl_text", "qwen3_vl"),
    *("qwen3_vl_text", "qwen3_vl_moe_text", "qwen2_5_omni_text", "phi", "phi3", "phi3_v", "phimoe"),
    *("phi4mm", "gemma", "falcon", "RefinedWeb", "RefinedWebModel", "gpt2", "gpt_bigcode"),
    *("gpt_neox", "gptj", "opt", "bloom", "mpt", "starcoder2", "stablelm", "olmo", "olmo2"),
    *("olmoe", "cohere", "chatglm", "baichuan", "internlm", "internlm2", "internlm3", "granite"),
    *("granitemoe", "granitemoeshared", "smollm3", "glm", "glm4", "glm4_moe", "ernie4_5"),
    *("ernie4_5_moe", "hunyuan_v1_dense", "hunyuan_v1_moe", "dbrx", "exaone", "nemotron"),
    *("minicpm", "arctic", "seed_oss", "dots1", "xverse", "deepseek", "minimax_m2", "bailing_moe"),
    *("ministral3", "mimo", "flex_olmo", "sarvam_moe", "qwen3_omni_moe_text", "whisper"),
    *("aquila", "yi", "jais", "persimmon", "arcee", "apertus", "solar", "orion", "mistral3"),
    *("pixtral", "llava", "llava_next", "smolvlm", "idefics3", "internvl_chat", "internvl"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """The constant state one recurrent layer keeps per sequence, in elements.

    `channels` and `matrix` are divided by the tensor-parallel size. Each of `groups` adds
    `group_channels`, and groups are replicated until that size divides them (vLLM 0.32,
    layers/mamba/mamba_utils.py). `wide` says that the matrix is kept in 32 bits.
    A convolution is wider by each drafted token, but for a `rigid` one (Mamba 1).
    """

    channels: int
    kernel: int
    matrix: int = 0
    groups: int = 0
    group_channels: int = 0
    wide: bool | None = False
    rigid: bool = False

    def elements(self, tp: int, drafted: int = 0) -> tuple[int, int]:
        """Return the elements of the convolution and of the matrix on one of `tp` devices."""
        groups = self.groups if self.groups % tp == 0 else tp
        channels = self.channels + groups * self.group_channels
        width = self.kernel - 1 + (0 if self.rigid else drafted)
        return channels // tp * width, self.matrix // tp


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerGroup:
    """`count` layers that keep the same thing.

    `window` is in tokens (sliding or chunked), or those an encoder hands over. For MLA,
    `head_dim` is the latent plus the rope part, kept once for all heads. `extra_bytes` is kept
    per token beside it (an indexer).
    """

    kind: Kind
    count: int
    kv_heads: int = 0
    head_dim: int = 0
    value_dim: int = 0
    window: int = 0
    state: State | None = None
    extra_bytes: int = 0


def count_kv_heads(config: Fields, model_type: str, heads: int) -> int:
    """Return the number of key and value heads (vLLM, model_arch_config_convertor.py)."""
    falcon = model_type in {"falcon", "RefinedWeb", "RefinedWebModel"}
    old = falcon and not config.get("new_decoder_architecture")
    if (old or model_type == "gpt_bigcode") and config.get("multi_query", True):
        return 1
    if model_type == "chatglm" and not config.get("multi_query_attention"):
        return heads
    names = ("n_head_kv", "num_kv_heads", "num_key_value_heads", "multi_query_group_num")
    inner = number(nested(config, "attn_config"), "kv_n_heads")
    return number(config, *names, "num_attention_groups") or inner or heads


def layer_kinds(config: Fields, model_type: str, layers: int) -> list[Kind] | None:
    written = listed(config, "layer_types") or listed(config, "layers_block_type")
    if written:
        kinds = [KINDS[name] for name in map(str, written) if name in KINDS]
        return kinds[:layers] if len(kinds) == len(written) else None
    if model_type in PATTERN:
        kind, period = PATTERN[model_type]
        if kind == "sliding" and config.get("sliding_window", True) is None:
            return ["full"] * layers
        names = ("no_rope_layer_interval", "sliding_window_pattern", "full_attention_interval")
        period = number(config, *names) or period
        return [kind if (i + 1) % period else "full" for i in range(layers)]
    if model_type == "jamba":
        period, offset = number(config, "attn_layer_period") or 8, config.get("attn_layer_offset")
        offset = offset if isinstance(offset, int) else 4
        return ["full" if i % period == offset else "state" for i in range(layers)]
    if model_type == "bamba":
        attention = listed(config, "attn_layer_indices")
        return ["full" if i in attention else "state" for i in range(layers)]
    if model_type == "nemotron_h":
        pattern = str(config.get("hybrid_override_pattern", ""))
        return [KINDS.get(LETTERS.get(letter, ""), "none") for letter in pattern] or None
    if model_type in {"mamba", "falcon_mamba", "mamba2"}:
        return ["state"] * layers
    if model_type in MLA and number(config, "kv_lora_rank"):
        return ["mla"] * (2 * layers if model_type == "longcat_flash" else layers)
    if model_type == "kimi_linear":
        latent = listed(nested(config, "linear_attn_config"), "full_attn_layers")
        return ["mla" if i in latent else "state" for i in range(1, layers + 1)]
    if model_type in ENCODERS:
        return ["none"] * layers
    if model_type in PLAIN or model_type == "falcon_h1":
        return _windowed(config, model_type, layers)
    return None


def _windowed(config: Fields, model_type: str, layers: int) -> list[Kind]:
    first = 0 if number(config, "sliding_window") else layers  # the first layer with a window
    if first == 0 and model_type.startswith("qwen"):
        first = number(config, "max_window_layers") if config.get("use_sliding_window") else layers
    return ["sliding" if i >= first else "full" for i in range(layers)]


def _state(config: Fields, model_type: str) -> State | None:
    hidden = number(config, "hidden_size")
    expanded = (number(config, "mamba_expand", "expand") or 2) * hidden
    inner = number(config, "mamba_d_ssm") or expanded
    kernel = number(config, "mamba_d_conv", "conv_kernel") or 4
    if model_type in PATTERNS["state", 4]:
        keys = number(config, "linear_num_key_heads") * number(config, "linear_key_head_dim")
        values = number(config, "linear_num_value_heads") * number(config, "linear_value_head_dim")
        return State(
            channels=2 * keys + values,
            kernel=number(config, "linear_conv_kernel_dim"),
            matrix=values * number(config, "linear_key_head_dim"),
            # Qwen3.5 names its state's type; unset follows the model's.
            wide=config.get("mamba_ssm_dtype") == "float32",
        )
    if model_type == "kimi_linear":
        delta = nested(config, "linear_attn_config")
        heads, dim = number(delta, "num_heads"), number(delta, "head_dim")
        kernel = number(delta, "short_conv_kernel_size") or 4
        return State(channels=3 * heads * dim, kernel=kernel, matrix=heads * dim**2, wide=True)
    if model_type in {"jamba", "mamba", "falcon_mamba"}:
        inner = number(config, "intermediate_size") if model_type != "jamba" else inner
        size = number(config, "mamba_d_state", "state_size") or 16
        return State(channels=inner, kernel=kernel, matrix=inner * size, rigid=True)
    if model_type.startswith("lfm2"):
        kernel = number(config, "conv_L_cache") or 3
        return State(channels=number(config, "conv_dim") or hidden, kernel=kernel)
    heads = number(config, "mamba_n_heads", "mamba_num_heads", "num_heads")
    if model_type in {"bamba", "falcon_h1", "granitemoehybrid", "nemotron_h", "mamba2"} and heads:
        size = number(config, "mamba_d_state", "ssm_state_size", "state_size")
        dim = number(config, "mamba_d_head", "mamba_head_dim", "head_dim") or inner // heads
        return State(
            channels=heads * dim if model_type == "nemotron_h" else inner,
            kernel=kernel,
            matrix=heads * dim * size,
            groups=number(config, "mamba_n_groups", "n_groups") or 1,
            group_channels=2 * size,
            wide=None if model_type == "nemotron_h" else False,
        )
    return None


def group_layers(config: Fields, model_type: str, sizes: Sizes) -> tuple[LayerGroup, ...] | None:
    """Return the groups of layers that keep the same thing, None where the model is not known."""
    kinds = layer_kinds(config, model_type, sizes.layers)
    if kinds is None:
        return None
    counts = Counter(kinds[: len(kinds) - number(config, "num_kv_shared_layers")])
    if model_type == "falcon_h1":
        counts["state"] = sizes.layers  # attention and Mamba side by side in every layer
    if model_type == "whisper":
        counts["cross"] = sizes.layers
    state = _state(config, model_type)
    if "state" in counts and state is None:
        return None
    kv_heads = count_kv_heads(config, model_type, sizes.heads)
    return tuple(
        LayerGroup(kind=kind, count=count, state=state)
        if kind == "state"
        else _attention(config, kind, count, kv_heads, sizes.head_dim)
        for kind, count in counts.items()
        if kind != "none"
    )


def _attention(config: Fields, kind: Kind, count: int, kv_heads: int, head_dim: int) -> LayerGroup:
    if kind == "mla":
        latent = number(config, "kv_lora_rank") + number(config, "qk_rope_head_dim")
        # DeepSeek V3.2 keeps an 8-bit key and its 4-byte scale per token for its indexer.
        index = number(config, "index_head_dim")
        extra = index + 4 if index else 0
        return LayerGroup(kind=kind, count=count, kv_heads=1, head_dim=latent, extra_bytes=extra)
    if kind == "full":
        # Gemma 4 widens the heads of its global layers.
        kv_heads = number(config, "num_global_key_value_heads") or kv_heads
        head_dim = number(config, "global_head_dim") or head_dim
    value = number(config, "v_head_dim") or head_dim
    sliding = number(config, "sliding_window") or 4096
    chunked = number(config, "attention_chunk_size") or 8192
    encoded = number(config, "max_source_positions") or 1500
    window = {"sliding": sliding, "chunked": chunked, "cross": encoded}.get(kind, 0)
    return LayerGroup(
        kind=kind, count=count, kv_heads=kv_heads, head_dim=head_dim, value_dim=value, window=window
    )
