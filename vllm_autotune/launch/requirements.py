"""What a server that starts and answers lacks of what is wanted."""

from ..outcome import TOO_LITTLE_HEADROOM, Certificate, OutOfMemory, Readings
from ..search.auto_length import servable
from ..search.facts import Facts
from ..vllm.config import AUTO, LaunchConfig


def too_small(facts: Facts, config: LaunchConfig, readings: Readings) -> OutOfMemory | None:
    """Return what the KV cache lacks of what is wanted, as soon as vLLM has said its size.

    vLLM starts with room for one sequence of the length it chose itself, or was given.
    """
    holds, wanted = readings.concurrency, facts.workload.concurrency
    served, least = readings.max_model_len, facts.length(config)
    if config.text("max-model-len") == AUTO:
        if served is None or (wanted > 1 and holds is None):
            return None
        fits = servable(facts, config, readings) if wanted > 1 else served
        if fits >= least:
            return None
        times = f" {wanted} times at once" if wanted > 1 else ""
        return OutOfMemory(
            cause="auto_fit_too_short",
            phase="kv_cache",
            reason=f"at most {fits:,} tokens fit{times}, {least:,} are the least you accept",
            limit=served if wanted == 1 else None,
        )
    if wanted > 1 and holds is not None and holds < wanted:
        return OutOfMemory(
            cause="too_few_at_once",
            phase="kv_cache",
            reason=f"the KV cache holds {holds:.2f} full-length sequences at once, "
            f"{wanted} are asked for",
        )
    return None


def too_little_headroom(facts: Facts, certificate: Certificate) -> OutOfMemory | None:
    """Return what the proof lacked of the memory that is to stay free."""
    least, wanted = certificate.least_free_bytes, facts.headroom_bytes
    if least is None or least >= wanted:
        return None
    return OutOfMemory(
        cause=TOO_LITTLE_HEADROOM,
        phase="serving",
        reason=f"only {least / 2**20:.0f} MiB stayed free under load, "
        f"{wanted / 2**20:.0f} MiB are to stay free",
        shortfall_bytes=wanted - least,
    )
