"""What vLLM needs beside the weights and the KV cache: wide intervals around measured values."""

from typing import Literal

from ..checkpoint import Checkpoint
from ..config import LaunchConfig
from ..device import Device
from .additions import drafted_tokens, has_draft
from .interval import Interval
from .units import GIB
from .weights import float_bytes

Version = tuple[int, ...]

# NVML's free bytes before vLLM starts, less what vLLM itself then finds free (H200: 139.8, 139.29).
CONTEXT_BYTES = 0.55 * GIB
# What a step takes whatever its size: 32 to 35 MiB.
WORKSPACE_BYTES = 33 * 2**20
# Mixtures of experts that Model Runner V2 serves in 0.26 (config/vllm.py).
V2_EXPERTS = frozenset({"DeepseekV2ForCausalLM", "GraniteMoeForCausalLM", "Qwen2MoeForCausalLM"})


def batch_defaults(
    device: Device, config: LaunchConfig, vllm: Version | None = None
) -> tuple[int, int]:
    """Return vLLM's default `--max-num-batched-tokens` and `--max-num-seqs` for a server.

    From the whole memory of the device, whatever limit is set, on a CPU from the number of
    workers (get_batch_defaults in engine/arg_utils.py).
    """
    if device.kind == "cpu":
        tp = config.integer("tensor-parallel-size", 1)
        workers = tp * config.integer("pipeline-parallel-size", 1)
        return 2048 * workers, 128 * workers
    if device.memory_bytes >= 160 * GIB and (vllm is None or vllm >= (0, 32)):
        return 16384, 1024
    if device.memory_bytes >= 70 * GIB and "a100" not in device.name.lower():
        return 8192, 1024
    return 2048, 256


def model_runner(
    checkpoint: Checkpoint, config: LaunchConfig, vllm: Version | None
) -> Literal["v1", "v2"] | None:
    """Return which model runner serves it, None where that is not known.

    V2 came as the default for dense models in 0.26 and for nearly all by 0.32
    (use_v2_model_runner in config/vllm.py).
    """
    asked = config.env.get("VLLM_USE_V2_MODEL_RUNNER")
    if vllm is None:
        return None
    if asked in ("0", "1"):
        return "v2" if asked == "1" else "v1"
    if vllm < (0, 26):
        return "v1"
    stateful = any(layers.kind == "state" for layers in checkpoint.layer_groups or ())
    dense = not checkpoint.experts or checkpoint.architecture in V2_EXPERTS
    if (dense and not stateful) or vllm >= (0, 32):
        return "v2"
    return "v1" if vllm < (0, 27) else None


def non_torch_bytes(device: Device, world: int) -> Interval:
    """Return what a worker takes outside torch's allocator, on the fullest device."""
    if device.kind == "cpu":
        return Interval(0.3 * GIB, 2.5 * GIB)  # torch and vLLM themselves, resident
    # A share of the driver's total is 0.4 % more than the same share of vLLM's (H200).
    total = 0.0045 * device.memory_bytes
    if world == 1:
        return Interval(0.05 * GIB, 0.4 * GIB + total)  # 0.22 to 0.23 in 59 boots (H200)
    # 0.06 on each of two; NCCL takes more where it has no NVLink
    return Interval(0, 1.2 * GIB + total)


def activation_bytes(
    checkpoint: Checkpoint,
    config: LaunchConfig,
    device: Device,
    tokens: int,
    seqs: int,
    *,
    vllm: Version | None,
) -> Interval:
    """Return the peak of one profiling step: a full batch, then sampling for every sequence.

    Experts keep a workspace; beside it stand first the widest layer, then the logits. Measured
    are 0.86 to 1.24 times this in 59 boots of 34 shapes, 512 to 8192 tokens, 64 to 1024
    sequences (0.26, H200; tests/unit/shapes/booted/0.26.0-h200.json).
    """
    step = step_bytes(checkpoint, config, tokens, seqs, vllm=vllm, device=device)
    interval = Interval(0.8 * step.low, 1.3 * step.high + 0.05 * GIB)
    if device.kind == "cpu":  # resident pages, which the allocator gives back late
        interval = Interval(0.4 * step.low, 2 * step.high + 0.3 * GIB)
    if checkpoint.multimodal and not config.args.get("language-model-only"):
        interval += Interval(0, 8 * GIB)  # what the vision or audio tower needs is not known
    return interval


def step_bytes(
    checkpoint: Checkpoint,
    config: LaunchConfig,
    tokens: int,
    seqs: int,
    *,
    vllm: Version | None,
    device: Device | None = None,
) -> Interval:
    """Return what a profiling step takes by the formula, with each model runner it may be."""
    tp = config.integer("tensor-parallel-size", 1)
    hidden, size = checkpoint.hidden_size, float_bytes(config, checkpoint, device)
    matrices = 3 if checkpoint.gated else 2
    mixture = checkpoint.experts_per_token * (hidden + 3 * checkpoint.expert_size / tp)
    layer = matrices * checkpoint.intermediate_size / tp + 4 * hidden

    def with_logits(bytes_each: int) -> float:
        logits = seqs * checkpoint.vocab_size * bytes_each + tokens * size * 3 * hidden
        workspace = tokens * size * mixture if checkpoint.experts else 0
        return workspace + max(tokens * size * layer, logits) + WORKSPACE_BYTES

    runner = model_runner(checkpoint, config, vllm)
    capped = checkpoint.model_type.startswith("gemma2")  # soft-capped logits are kept in 32 bits
    least, most = (4 if capped else size), 12 + size
    if runner is None:
        return Interval(with_logits(least), with_logits(most))
    return Interval.exactly(with_logits(most if runner == "v1" else least))


def beyond_share_bytes(
    checkpoint: Checkpoint,
    config: LaunchConfig,
    device: Device,
    seqs: int,
    *,
    activations: float,
    graphs: float,
    prompt_logprobs: int = 0,
    vllm: Version | None,
) -> float:
    """Return what a server takes beyond the share it is given, once it has served.

    That is its CUDA context, what the allocator keeps unused (a quarter of the activations), the
    logits in 32 bits and their softmax, which Model Runner V2 does not profile, and graphs that
    are not taken out of the budget: within -0.6 and +0.4 GiB in 59 boots (0.26, H200). Where the
    log probabilities of prompts are asked for, those of `prompt_logprobs` tokens come on top.
    """
    if device.kind == "cpu":
        return 0.0
    runner = model_runner(checkpoint, config, vllm)
    sampler = 0 if runner == "v1" else 2 * 4 * seqs * checkpoint.vocab_size
    charged = graphs_charged(checkpoint, config, vllm)
    scores = prompt_logprobs_bytes(checkpoint, config, device, prompt_logprobs, vllm=vllm)
    scores = max(0.0, scores - activations)  # which are not needed any more by then
    return CONTEXT_BYTES + activations / 4 + sampler + scores + (0.0 if charged else graphs)


def prompt_logprobs_bytes(
    checkpoint: Checkpoint,
    config: LaunchConfig,
    device: Device,
    tokens: int,
    *,
    vllm: Version | None,
) -> float:
    """Return what the log probabilities of a step's `tokens` take, which no step profiles.

    With Model Runner V1 the logits, again in 32 bits, and their softmax: 2.32, 4.64 and 4.64 GiB
    for 8192 tokens of 152,064 words (0.26, H200). V2 keeps the logits alone, of 1024 tokens at
    once (gpu/sample/prompt_logprob.py).
    """
    size = float_bytes(config, checkpoint, device)
    if model_runner(checkpoint, config, vllm) == "v2":
        return float(min(tokens, 1024) * checkpoint.vocab_size * size)
    return float(tokens * checkpoint.vocab_size * (size + 4 + 4))


def graph_bytes(
    checkpoint: Checkpoint,
    config: LaunchConfig,
    device: Device,
    seqs: int,
    *,
    vllm: Version | None,
) -> Interval:
    """Return the memory of captured graphs: 0.89 GiB for 28 layers in 51 sizes (vLLM 0.26).

    It is 1.2 to 2.0 times what two smaller models, fewer sequences and runner V1 took. The largest
    batch is 512, on 10.x it became 1024 between 0.26 and 0.32 (config/vllm.py), and for GPT-OSS it
    is 1024 whatever the sequences (models/config.py). LoRA captures all a second time without
    adapters, and a draft model its own.
    """
    tp = config.integer("tensor-parallel-size", 1)
    pp = config.integer("pipeline-parallel-size", 1)
    if config.args.get("enforce-eager") is True or config.text("optimization-level") == "0":
        return Interval(0, 0)
    b200 = device.capability is not None and device.capability[0] == 10
    limit = 1024 if b200 and (vllm is None or vllm >= (0, 27)) else 512
    largest = min(2 * seqs * (1 + drafted_tokens(config)), limit)
    largest = 1024 if checkpoint.model_type == "gpt_oss" else largest
    largest = min(largest, config.integer("max-num-batched-tokens", largest))
    sizes = 3 + len(range(8, min(256, largest + 1), 8)) + len(range(256, largest + 1, 16))
    estimate = 0.89 * GIB * sizes / 51 * checkpoint.layers / pp / 28
    low = 0.0 if "compilation-config" in config.args else 0.3 * estimate
    times = 1 + (config.args.get("enable-lora") is True) + has_draft(config)
    return Interval(low, times * (1.5 * estimate + 0.1 * GIB * (1 if tp == 1 else 4)))


def graphs_charged(
    checkpoint: Checkpoint, config: LaunchConfig, vllm: Version | None
) -> bool | None:
    """Return whether the KV cache is sized after an estimate of the graphs is set aside.

    Off by default up to 0.19. From 0.20 on, but Model Runner V2, the default for dense models
    from 0.26 on, estimates nothing up to 0.28 (gpu/model_runner.py, profile_cudagraph_memory).
    """
    asked = config.env.get("VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS")
    if vllm is None:
        return None
    if vllm < (0, 20) or asked == "0":
        return asked == "1" if vllm >= (0, 18) else False
    if (0, 26) <= vllm < (0, 30):
        return {"v1": True, "v2": False, None: None}[model_runner(checkpoint, config, vllm)]
    return True
