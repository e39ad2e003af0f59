"""What drafts tokens beside the model: MTP layers of its own, or another model."""

from dataclasses import replace

from ..vllm.config import LaunchConfig
from .setup import Setup
from .speculation import drafts_itself, has_draft, speculation


def own_layers(setup: Setup) -> int:
    """Return how many prediction layers of the model's own draft."""
    return setup.checkpoint.prediction_layers if drafts_itself(setup.config) else 0


def draft_setup(setup: Setup) -> Setup | None:
    """Return the draft model as one served alone, None where there is none, or none was read."""
    if setup.draft is None or not has_draft(setup.config) or drafts_itself(setup.config):
        return None
    tp = speculation(setup.config).get("draft_tensor_parallel_size")
    size = str(tp) if tp else setup.config.tensor_parallel
    kept = {n: v for n, v in setup.config.args.items() if n in ("dtype", "kv-cache-dtype")}
    args = {**kept, "tensor-parallel-size": size}
    return replace(setup, checkpoint=setup.draft, config=LaunchConfig("", args), draft=None)
