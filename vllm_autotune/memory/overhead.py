"""What vLLM needs beside the weights and the KV cache: wide intervals around measured values."""

from ..checkpoint import Checkpoint
from ..config import LaunchConfig
from ..device import Device
from .interval import Interval
from .units import GIB
from .weights import float_bytes

Version = tuple[int, ...]


def batch_defaults(
    device: Device, vllm: Version | None = None, *, world: int = 1
) -> tuple[int, int]:
    """Return vLLM's default `--max-num-batched-tokens` and `--max-num-seqs` for a server.

    From the whole memory of the device, whatever limit is set (get_batch_defaults in
    engine/arg_utils.py). `world` counts the processes.
    """
    if device.kind == "cpu":
        return 2048 * world, 128 * world
    if device.memory_bytes >= 160 * GIB and (vllm is None or vllm >= (0, 32)):
        return 16384, 1024
    if device.memory_bytes >= 70 * GIB and "a100" not in device.name.lower():
        return 8192, 1024
    return 2048, 256


def non_torch_bytes(device: Device, world: int) -> Interval:
    """Return what a worker takes outside torch's allocator, on the fullest device."""
    if device.kind == "cpu":
        return Interval(0.3 * GIB, 2.5 * GIB)  # torch and vLLM themselves, resident
    # 0.22 GiB on one H200, 0.06 on each of two; NCCL takes more where it has no NVLink.
    return Interval(0, (0.6 if world == 1 else 1.6) * GIB)


def activation_bytes(
    checkpoint: Checkpoint,
    config: LaunchConfig,
    tokens: int,
    seqs: int,
    *,
    tp: int,
    notes: list[str],
) -> Interval:
    """Return the peak of one profiling step: a full batch, then sampling for every sequence.

    `batch x (3 intermediate / tp + 5 hidden)` gives 1.14 GiB for the 1.13 measured with 7B, and
    1.30 for the 1.33 measured with 72B on two devices (vLLM 0.26 on an H200).
    """
    size = float_bytes(config)
    width = checkpoint.intermediate_size
    if checkpoint.experts:
        width = max(width, checkpoint.experts_per_token * checkpoint.hidden_size)
    batch = tokens * size * (3 * width / tp + 5 * checkpoint.hidden_size)
    logits = seqs * checkpoint.vocab_size * 4
    low, high = max(0.45 * batch, 0.4 * logits), max(2 * batch, 5 * logits) + 0.3 * GIB
    if checkpoint.multimodal and not config.args.get("language-model-only"):
        notes.append("activations: what the vision or audio tower needs is not estimated")
        high += 8 * GIB
    return Interval(low, high)


def graph_bytes(
    checkpoint: Checkpoint, config: LaunchConfig, seqs: int, *, tp: int, pp: int
) -> Interval:
    """Return the memory of captured graphs: 0.89 GiB for 28 layers in 51 sizes (vLLM 0.26)."""
    if config.args.get("enforce-eager") is True or config.text("optimization-level") == "0":
        return Interval(0, 0)
    largest = min(2 * seqs, 512)
    sizes = 3 + len(range(8, min(256, largest + 1), 8)) + len(range(256, largest + 1, 16))
    estimate = 0.89 * GIB * sizes / 51 * checkpoint.layers / pp / 28
    low = 0.0 if "compilation-config" in config.args else 0.05 * estimate
    return Interval(low, 2.5 * estimate + 0.3 * GIB * min(tp, 4))


def graphs_charged(config: LaunchConfig, vllm: Version | None) -> bool | None:
    """Return whether the KV cache is sized after an estimate of the graphs is set aside.

    Off by default up to 0.19. From 0.20 on, but Model Runner V2, the default for dense models
    from 0.26 on, estimated nothing up to 0.28 (gpu/model_runner.py, profile_cudagraph_memory).
    """
    asked = config.env.get("VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS")
    if vllm is None:
        return None
    if vllm < (0, 20) or asked == "0":
        return asked == "1" if vllm >= (0, 18) else False
    if (0, 26) <= vllm < (0, 30) and config.env.get("VLLM_USE_V2_MODEL_RUNNER") != "0":
        return None
    return True
