"""How much one step of the engine computes: sequences, and tokens."""

import math

from ...memory import Interval
from ...vllm.config import LaunchConfig
from .situation import Situation
from .utilization import most_utilization

SEQUENCES = (64, 16, 4, 1)
# From what vLLM chooses on smaller cards downwards.
FEWER_SEQUENCES = (256, *SEQUENCES)
BATCHED_TOKENS = (2048, 512)
# Graphs are captured for batches of multiples of this.
GRAPH_STEP = 8
FEW_STATES = (256, 192, 128, 96, 64, 48, 32, 24, 16, 8, 4, 2, 1)


def fit_sequences(now: Situation, config: LaunchConfig) -> LaunchConfig | str:
    """Cap the sequences: at the number vLLM named, else in steps down to the concurrency.

    Of a model with recurrent states, at the number whose states fit.
    """
    _, default = now.facts.batch_defaults(config)
    current = config.integer("max-num-seqs", default)
    named = [t.readings.max_num_seqs for t in now.history if t.readings.max_num_seqs]
    failed = [t.config.integer("max-num-seqs", current) for t in now.too_large_steps()]
    below = min([current, *failed])
    floor = now.facts.workload.concurrency
    states = states_that_fit(now, config)
    fitting = [states, *(n for n in SEQUENCES if n < states)] if states else SEQUENCES
    steps = [max(step, floor) for step in (*named, *fitting)]
    lower = next((step for step in steps if step < below), None)
    if lower is None:
        alone = "already at one sequence at a time"
        return alone if floor == 1 else f"--concurrency {floor} needs {floor} sequences"
    return config.replace({"max-num-seqs": lower})


def states_that_fit(now: Situation, config: LaunchConfig) -> int | None:
    """Return how many sequences' states fit, None if that is no limit.

    As many as surely fit, or where that is hardly one, as likely do.
    """
    room, block, wanted = _room_for_states(now, config)
    if not wanted or not block or not math.isfinite(room.low) or room.low >= wanted * block:
        return None
    sure = int(room.low / block)
    if sure >= GRAPH_STEP:
        return sure // GRAPH_STEP * GRAPH_STEP
    # With fewer sequences less is sampled at once, and more is left for their states.
    for likely in (n for n in FEW_STATES if n < wanted):
        room, block, _ = _room_for_states(now, config.replace({"max-num-seqs": likely}))
        if room.middle >= likely * block:
            return likely
    return None


def _room_for_states(now: Situation, config: LaunchConfig) -> tuple[Interval, float, int]:
    """Return the room for the KV cache, the bytes of a state's block, and how many are needed."""
    if "gpu-memory-utilization" not in now.facts.fixed:
        share = max(0.0, min(most_utilization(now, config), 1.0))
        config = config.replace({"gpu-memory-utilization": share})
    footprint = now.calibration.footprint(now.facts.setup(config))
    room = footprint.kv_available(now.facts.reserved(config))
    return room, footprint.cache.state_block.high, footprint.states


def fit_batched_tokens(now: Situation, config: LaunchConfig) -> LaunchConfig | str:
    """Read prompts in smaller pieces, which profiling and serving hold activations for."""
    tokens, sequences = now.facts.batch_defaults(config)
    tokens = config.integer("max-num-batched-tokens", tokens)
    sequences = config.integer("max-num-seqs", sequences)
    if (alone := _larger_than_a_batch(now, tokens)) is not None:
        return alone
    failed = [t.config.integer("max-num-batched-tokens", tokens) for t in now.too_large_steps()]
    below = min([tokens, *failed])
    lower = next((n for n in BATCHED_TOKENS if sequences <= n < below), None)
    if lower is None and below > BATCHED_TOKENS[-1]:
        return f"a batch needs at least a token for each of {sequences} sequences"
    if lower is None:
        return f"already at the smallest batch ({below} tokens)"
    return config.replace({"max-num-batched-tokens": lower})


def _larger_than_a_batch(now: Situation, tokens: int) -> str | None:
    """Say if memory ran out at last over an image or a video that no batch makes smaller."""
    last = now.over_images()[-1:]
    if not last or last[0] is not now.history[-1]:
        return None
    seen = last[0].readings
    if (seen.media_tokens or 0) <= tokens:
        return None
    return (
        f"one {seen.modality} takes {seen.media_tokens:,} tokens, more than a batch of {tokens:,}"
    )
