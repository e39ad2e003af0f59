"""How much one step of the engine computes: sequences, and tokens."""

from ...vllm.config import LaunchConfig
from .situation import Situation

SEQUENCES = (64, 16, 4, 1)
BATCHED_TOKENS = (2048, 512)


def fit_sequences(now: Situation, config: LaunchConfig) -> LaunchConfig | str:
    """Cap the sequences: at the number vLLM named, else in steps down to the concurrency."""
    _, default = now.facts.batch_defaults(config)
    current = config.integer("max-num-seqs", default)
    named = [t.readings.max_num_seqs for t in now.history if t.readings.max_num_seqs]
    failed = [t.config.integer("max-num-seqs", current) for t in now.too_large_steps()]
    below = min([current, *failed])
    floor = now.facts.workload.concurrency
    steps = [max(step, floor) for step in (*named, *SEQUENCES)]
    lower = next((step for step in steps if step < below), None)
    if lower is None:
        alone = "already at one sequence at a time"
        return alone if floor == 1 else f"--concurrency {floor} needs {floor} sequences"
    return config.replace({"max-num-seqs": lower})


def fit_batched_tokens(now: Situation, config: LaunchConfig) -> LaunchConfig | str:
    """Read prompts in smaller pieces, which profiling and serving hold activations for."""
    tokens, sequences = now.facts.batch_defaults(config)
    tokens = config.integer("max-num-batched-tokens", tokens)
    sequences = config.integer("max-num-seqs", sequences)
    failed = [t.config.integer("max-num-batched-tokens", tokens) for t in now.too_large_steps()]
    below = min([tokens, *failed])
    lower = next((n for n in BATCHED_TOKENS if sequences <= n < below), None)
    if lower is None and below > BATCHED_TOKENS[-1]:
        return f"a batch needs at least a token for each of {sequences} sequences"
    if lower is None:
        return f"already at the smallest batch ({below} tokens)"
    return config.replace({"max-num-batched-tokens": lower})
