"""What vLLM needs beside the weights and the KV cache: wide intervals around measured values."""

from ..units import GIB
from ..vllm import versions
from .images import image_tokens
from .interval import Interval
from .setup import Setup
from .speculation import drafted_tokens, has_draft, speculation

# NVML's free bytes before vLLM starts, less what vLLM itself then finds free (H200: 139.8, 139.29).
CONTEXT_BYTES = 0.55 * GIB
# What a step takes whatever its size: 32 to 35 MiB.
WORKSPACE_BYTES = 33 * 2**20


def non_torch_bytes(setup: Setup) -> Interval:
    """Return the bytes a worker takes outside torch's allocator, on the fullest device."""
    if setup.on_cpu:
        return Interval(0.3 * GIB, 2.5 * GIB)  # torch and vLLM themselves, resident
    # A share of the driver's total is 0.4 % more than the same share of vLLM's (H200).
    total = 0.0045 * setup.device.memory_bytes
    config, old = setup.config, setup.vllm < versions.LESS_BESIDE
    if config.tensor_parallel * config.pipeline_parallel * setup.expert_ranks == 1:
        more = 0.5 * GIB if old else 0
        return Interval(0.05 * GIB, 0.4 * GIB + total + more)  # 0.22 to 0.23 in 59 boots (H200)
    # 0.06 on each of two; NCCL takes more where it has no NVLink
    return Interval(0, 1.2 * GIB + total + (1.9 * GIB if old else 0))


def activation_bytes(setup: Setup) -> Interval:
    """Return the peak of one profiling step: a full batch, then sampling for every sequence.

    Experts keep a workspace; beside it stand first the widest layer, then the logits. Measured
    are 0.86 to 1.24 times this in 59 boots of 34 shapes, 512 to 8192 tokens, 64 to 1024
    sequences (0.26, H200; tests/support/shapes/booted/0.26.0-h200.json).
    """
    step = step_bytes(setup)
    interval = Interval(0.8 * step.low, 1.3 * step.high + 0.05 * GIB)
    if setup.on_cpu:  # resident pages, which the allocator gives back late
        interval = Interval(0.4 * step.low, 2 * step.high + 0.3 * GIB)
    tower = tower_step_bytes(setup)
    if setup.vllm < versions.ONE_STEP_AT_A_TIME:
        return interval + tower
    return Interval(max(interval.low, tower.low), max(interval.high, tower.high))


def tower_step_bytes(setup: Setup) -> Interval:
    """Return what a vision tower takes in the profiling run, before the step of the text model.

    It looks at as many of the largest images as make a batch of tokens, one at least. A layer
    holds its inputs, queries, keys and values, and once or more the inside of its MLP: Qwen2-VL
    took no more than 1.2 GiB (0.26, H200).
    """
    checkpoint, config = setup.checkpoint, setup.config
    limits = config.text("limit-mm-per-prompt") or ""
    none = limits and not any(digit in limits for digit in "123456789")
    left_out = ("language-model-only", "skip-mm-profiling")
    if not checkpoint.multimodal or none or any(config.args.get(n) is True for n in left_out):
        return Interval(0, 0)
    tower, size = checkpoint.tower, setup.float_bytes
    if tower is None:
        return Interval(0, 8 * GIB)  # its sizes are not known
    largest = image_tokens(checkpoint, config) or tower.most_tokens
    tokens = max(setup.tokens, largest)
    patches = tokens * tower.merged
    cached = tokens * checkpoint.hidden_size * size * tower.levels
    least = patches * size * (tower.width + tower.inner) / config.tensor_parallel
    most = patches * size * (6 * tower.width + 3 * tower.inner)
    return Interval(0.5 * least, most + cached)


def step_bytes(setup: Setup) -> Interval:
    """Return the bytes a profiling step takes by the formula, with each model runner it may be."""
    checkpoint, tokens, size = setup.checkpoint, setup.tokens, setup.float_bytes
    tp, hidden = setup.config.tensor_parallel, checkpoint.hidden_size
    matrices = 3 if checkpoint.gated else 2
    mixture = checkpoint.experts_per_token * (hidden + 3 * checkpoint.expert_size / tp)
    layer = matrices * checkpoint.intermediate_size / tp + 4 * hidden

    def with_logits(bytes_each: int) -> float:
        # Runner V1 also samples a drafted token of each sequence (`_dummy_sampler_run`, 0.32).
        rows = setup.sequences * (2 if speculation(setup.config) and bytes_each == most else 1)
        logits = rows * checkpoint.vocab_size * bytes_each + tokens * size * 3 * hidden
        workspace = tokens * size * mixture if checkpoint.experts else 0
        return workspace + max(tokens * size * layer, logits) + WORKSPACE_BYTES

    capped = checkpoint.model_type.startswith("gemma2")  # soft-capped logits are kept in 32 bits
    least, most = (4 if capped else size), 12 + size
    if setup.model_runner is None:
        return Interval(with_logits(least), with_logits(most))
    return Interval.exactly(with_logits(most if setup.model_runner == "v1" else least))


def beyond_share_bytes(setup: Setup, activations: float, graphs: float) -> float:
    """Return the bytes a server takes beyond the share it is given, once it has served.

    That is its CUDA context, what the allocator keeps unused (a quarter of the activations), the
    logits in 32 bits and their softmax, which Model Runner V2 does not profile, and graphs that
    are not taken out of the budget: within -0.6 and +0.4 GiB in 59 boots (0.26, H200). Where the
    log probabilities of prompts are asked for, those of a step come on top.
    """
    if setup.on_cpu:
        return 0.0
    # Of each sequence the last token is sampled, and those drafted, of which V1 profiles one.
    drafted = drafted_tokens(setup.config)
    rows = max(0, drafted - 1) if setup.model_runner == "v1" else 2 + drafted
    sampler = 4 * rows * setup.sequences * setup.checkpoint.vocab_size
    # By then the activations are not needed any more.
    scores = max(0.0, prompt_logprobs_bytes(setup) - activations)
    uncharged = 0.0 if setup.graphs_charged else graphs
    return CONTEXT_BYTES + activations / 4 + sampler + scores + uncharged


def prompt_logprobs_bytes(setup: Setup) -> float:
    """Return the bytes of a step's prompt log probabilities, which no profiling step has.

    With Model Runner V1 the logits, again in 32 bits, and their softmax: 2.32, 4.64 and 4.64 GiB
    for 8192 tokens of 152,064 words (0.26, H200). V2 keeps the logits alone, of 1024 tokens at
    once (gpu/sample/prompt_logprob.py).
    """
    tokens = setup.tokens if setup.prompt_logprobs else 0
    size, vocabulary = setup.float_bytes, setup.checkpoint.vocab_size
    if setup.model_runner == "v2":
        return float(min(tokens, 1024) * vocabulary * size)
    return float(tokens * vocabulary * (size + 4 + 4))


def graph_bytes(setup: Setup) -> Interval:
    """Return the memory of captured graphs: 0.89 GiB for 28 layers in 51 sizes (vLLM 0.26).

    It is 1.2 to 2.0 times what two smaller models, fewer sequences and runner V1 took. The largest
    batch is 512, on 10.x it became 1024 between 0.26 and 0.32 (config/vllm.py), and for GPT-OSS it
    is 1024 whatever the sequences (models/config.py). LoRA captures all a second time without
    adapters, and a draft model its own.
    """
    checkpoint, config, capability = setup.checkpoint, setup.config, setup.device.capability
    if not setup.captures:
        return Interval(0, 0)
    b200 = capability is not None and capability[0] == 10
    limit = 1024 if b200 and setup.vllm >= versions.LARGE_GRAPHS else 512
    largest = min(2 * setup.sequences * (1 + drafted_tokens(config)), limit)
    largest = 1024 if checkpoint.model_type == "gpt_oss" else largest
    largest = min(largest, config.integer("max-num-batched-tokens", largest))
    sizes = 3 + len(range(8, min(256, largest + 1), 8)) + len(range(256, largest + 1, 16))
    estimate = 0.89 * GIB * sizes / 51 * float(checkpoint.layers * setup.part) / 28
    low = 0.0 if "compilation-config" in config.args else 0.3 * estimate
    times = 1 + (config.args.get("enable-lora") is True) + has_draft(config)
    fixed = 0.1 * GIB * (1 if config.tensor_parallel == 1 else 4)
    return Interval(low, times * (1.5 * estimate + fixed))
