"""Solve the numbers of a candidate from what is known: no guessing where vLLM printed one.

Every `fit` of a ladder has a solver here. It returns the changed configuration, or a sentence
why the rung changes nothing.
"""

from collections.abc import Callable

from ...vllm.config import LaunchConfig
from .batch import fit_batched_tokens, fit_sequences
from .context import fit_context
from .parallel import INDIVISIBLE, fit_pipeline_parallel, fit_tensor_parallel
from .situation import Situation
from .utilization import fit_utilization, most_utilization
from .weights import fit_checkpoint, fit_offload

__all__ = ["INDIVISIBLE", "SOLVERS", "Situation", "most_utilization"]

SOLVERS: dict[str, Callable[[Situation, LaunchConfig], LaunchConfig | str]] = {
    "checkpoint": fit_checkpoint,
    "tensor-parallel-size": fit_tensor_parallel,
    "pipeline-parallel-size": fit_pipeline_parallel,
    "gpu-memory-utilization": fit_utilization,
    "max-num-seqs": fit_sequences,
    "max-num-batched-tokens": fit_batched_tokens,
    "cpu-offload-gb": fit_offload,
    "max-model-len": fit_context,
}
