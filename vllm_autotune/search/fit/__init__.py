"""Solve the numbers of a candidate from what is known: no guessing where vLLM printed one.

Every `fit` of a ladder has a solver in this table. It returns the changed configuration, or the
reason why the rung changes nothing.
"""

from collections.abc import Callable, Mapping

from ...vllm.config import LaunchConfig
from .batch import FEWER_SEQUENCES, fit_batched_tokens, fit_sequences, states_that_fit
from .context import fit_context
from .images import fit_fewer_images, fit_smaller_images
from .parallel import INDIVISIBLE, PIPELINE, TENSOR, fit_pipeline_parallel, fit_tensor_parallel
from .preempted import fit_full_sequences, fit_swap
from .situation import Situation, ailment_of, is_storm, lacked_memory
from .utilization import fit_utilization, most_utilization
from .weights import fit_checkpoint, fit_offload

__all__ = [
    "FEWER_SEQUENCES",
    "FITS",
    "INDIVISIBLE",
    "PIPELINE",
    "TENSOR",
    "Situation",
    "ailment_of",
    "is_storm",
    "lacked_memory",
    "most_utilization",
    "states_that_fit",
]

# Solved in this order: what the weights are and where they lie first, the context last.
FITS: Mapping[str, Callable[[Situation, LaunchConfig], LaunchConfig | str]] = {
    "checkpoint": fit_checkpoint,
    TENSOR: fit_tensor_parallel,
    PIPELINE: fit_pipeline_parallel,
    "limit-mm-per-prompt": fit_fewer_images,
    "mm-processor-kwargs": fit_smaller_images,
    "max-num-seqs": fit_sequences,
    "max-num-batched-tokens": fit_batched_tokens,
    "gpu-memory-utilization": fit_utilization,
    "cpu-offload-gb": fit_offload,
    "swap": fit_swap,
    "full-sequences": fit_full_sequences,
    "max-model-len": fit_context,
}
