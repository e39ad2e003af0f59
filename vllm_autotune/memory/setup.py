"""What is launched on what: all that the arithmetic looks at."""

import re
from dataclasses import dataclass
from fractions import Fraction
from math import prod
from typing import Literal

from ..checkpoint import DTYPE_BYTES, Checkpoint
from ..machine.device import Device
from ..units import GIB
from ..vllm import versions
from ..vllm.config import LaunchConfig
from ..vllm.multimodal import most_per_prompt
from ..vllm.versions import STATE_BLOCKS, Release
from .speculation import speculation

# Mixtures of experts that Model Runner V2 serves in 0.26 (config/vllm.py).
V2_EXPERTS = frozenset({"DeepseekV2ForCausalLM", "GraniteMoeForCausalLM", "Qwen2MoeForCausalLM"})
# Methods of drafting that Model Runner V2 does not have (config/vllm.py, 0.32), and one that it
# did not have before (seen with 0.26).
V1_DRAFTS = frozenset({"suffix", "medusa", "mlp_speculator", "custom_class"})
V1_DRAFTS_ONCE = frozenset({"ngram"})
# Model types that vLLM does not serve as float16 (config/model.py, 0.26 and 0.32).
NO_FLOAT16 = frozenset({"gemma2", "gemma3", "gemma3_text", "glm4", "plamo2"})
CUDAGRAPH_MODE_NAMES = ("cudagraph_mode", "cudagraph-mode")
CUDAGRAPH_MODE = re.compile(r'"cudagraph_mode"\s*:\s*"?(\w+)')
BFLOAT16 = (8, 0)  # the least capability that has it (platforms/cuda.py, `supported_dtypes`)


def batch_defaults(device: Device, config: LaunchConfig, vllm: Release) -> tuple[int, int]:
    """Return vLLM's default `--max-num-batched-tokens` and `--max-num-seqs` for a server.

    From the whole memory of the device, whatever limit is set, on a CPU from the number of
    workers (get_batch_defaults in engine/arg_utils.py).
    """
    if device.kind == "cpu":
        workers = config.tensor_parallel * config.pipeline_parallel
        return 2048 * workers, 128 * workers
    if device.memory_bytes >= 160 * GIB and vllm >= versions.LARGE_BATCH:
        return 16384, 1024
    if device.memory_bytes >= 70 * GIB and "a100" not in device.name.lower():
        return 8192, 1024
    return 2048, 256


def refuses_float16(checkpoint: Checkpoint) -> bool:
    """Tell whether vLLM refuses `--dtype float16` for this model."""
    # The outer type counts: Gemma 2 within PaliGemma is served as float16.
    outer = not checkpoint.multimodal or checkpoint.architecture.startswith("Gemma3")
    return outer and checkpoint.model_type in NO_FLOAT16


def even_stages(layers: int, stages: int) -> tuple[int, ...]:
    """Return how many layers vLLM gives to each stage (distributed/utils.py, 0.32).

    What is left over goes to the stages before the last one.
    """
    each, more = divmod(layers, stages)
    return tuple(each + (stages - more <= n + 1 < stages) for n in range(stages))


@dataclass(frozen=True, slots=True)
class Stage:
    """What one device of a pipeline holds, where they differ: so many layers, and which end.

    By its `leader`, the first device, vLLM chooses how large a batch is.
    """

    layers: int
    first: bool
    last: bool
    leader: Device


@dataclass(frozen=True, slots=True)
class Setup:
    """A configuration of a checkpoint on devices like `device`, for one release of vLLM.

    `prompt_logprobs` is whether the log probabilities of whole prompts will be asked for. `draft`
    is the model that `--speculative-config` names, None without one, or where it cannot be read.
    `stage` is what the device holds, None where all hold as much.
    """

    checkpoint: Checkpoint
    config: LaunchConfig
    device: Device
    vllm: Release
    prompt_logprobs: bool = False
    draft: Checkpoint | None = None
    stage: Stage | None = None

    @property
    def part(self) -> Fraction:
        """Which part of the layers the device holds."""
        if self.stage is None:
            return Fraction(1, self.config.pipeline_parallel)
        return Fraction(self.stage.layers, max(1, self.checkpoint.layers))

    @property
    def leader(self) -> Device:
        return self.stage.leader if self.stage else self.device

    @property
    def tokens(self) -> int:
        """How many tokens one step of the engine computes at most."""
        default, _ = batch_defaults(self.leader, self.config, self.vllm)
        return self.config.integer("max-num-batched-tokens", default)

    @property
    def sequences(self) -> int:
        """How many sequences one step of the engine computes at most."""
        _, default = batch_defaults(self.leader, self.config, self.vllm)
        return min(self.config.integer("max-num-seqs", default), self.tokens)

    @property
    def images(self) -> int | None:
        """How many images a prompt may have, None where the model takes none."""
        if not self.checkpoint.takes_images:
            return None
        return most_per_prompt(self.config, "image", self.vllm)

    @property
    def on_cpu(self) -> bool:
        return self.device.kind == "cpu"

    @property
    def captures(self) -> bool:
        """Whether CUDA graphs are captured."""
        eager = self.config.args.get("enforce-eager") is True
        return not (self.on_cpu or eager or self.config.text("optimization-level") == "0")

    @property
    def captures_states(self) -> bool:
        """Whether graphs are captured that need a state of every sequence at once.

        Full ones do, the default since 0.12; piecewise ones, which -O1 asks for, do not.
        """
        config = self.config
        usual = "PIECEWISE" if config.text("optimization-level") == "1" else "FULL"
        written = CUDAGRAPH_MODE.search(config.text("compilation-config") or "")
        apart = (config.text(f"compilation-config.{name}") for name in CUDAGRAPH_MODE_NAMES)
        asked = written[1] if written else next(filter(None, apart), usual)
        return self.captures and self.vllm >= STATE_BLOCKS and "FULL" in asked.upper()

    @property
    def float_bytes(self) -> int:
        """The bytes of one float as served: `--dtype auto` turns 32 bits into 16.

        But not where the card has no bfloat16 and the model is not served as float16
        (config/model.py, `_resolve_auto_dtype`, vLLM 0.26).
        """
        asked, capability = self.config.text("dtype") or "auto", self.device.capability
        if asked == "auto" and capability:
            lacks = not self.on_cpu and capability < BFLOAT16
            return 4 if lacks and refuses_float16(self.checkpoint) else 2
        return DTYPE_BYTES.get(asked, 2)  # anything else that may be asked for has 16 bits

    @property
    def expert_ranks(self) -> int:
        """How many groups of tensor parallel devices share the experts, 1 for a dense model.

        With expert parallel or without (fused_moe/config.py, `flatten_tp_across_dp_and_pcp`, 0.26).
        """
        ways = ("data-parallel-size", "prefill-context-parallel-size")
        return prod(self.config.integer(w, 1) for w in ways) if self.checkpoint.experts else 1

    @property
    def model_runner(self) -> Literal["v1", "v2"] | None:
        """Which model runner serves it, None where that is not known."""
        asked = self.config.env.get("VLLM_USE_V2_MODEL_RUNNER")
        if asked in ("0", "1"):
            return "v2" if asked == "1" else "v1"
        if self.vllm < versions.RUNNER_V2_DENSE:
            return "v1"
        checkpoint, fields = self.checkpoint, speculation(self.config)
        old = self.vllm < versions.RUNNER_V2_ALL
        drafts = {str(fields.get("method")), str(fields.get("model"))}
        if drafts & V1_DRAFTS or (old and drafts & V1_DRAFTS_ONCE):
            return "v1"
        if fields and old:
            return None  # not every method of every version was read
        stateful = any(layers.kind == "state" for layers in checkpoint.layer_groups or ())
        dense = not checkpoint.experts or checkpoint.architecture in V2_EXPERTS
        if (dense and not stateful) or self.vllm >= versions.RUNNER_V2_ALL:
            return "v2"
        return "v1" if self.vllm < versions.RUNNER_V2_OTHERS else None

    @property
    def graphs_charged(self) -> bool | None:
        """Whether an estimate of the graphs is set aside before the KV cache is sized.

        None where that depends on a model runner that is not known.
        """
        asked = self.config.env.get("VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS")
        if self.vllm < versions.CHARGES_GRAPHS or asked == "0":
            return asked == "1" and self.vllm >= versions.ESTIMATES_GRAPHS
        if versions.RUNNER_V2_DENSE <= self.vllm < versions.RUNNER_V2_CHARGES_GRAPHS:
            return None if self.model_runner is None else self.model_runner == "v1"
        return True
