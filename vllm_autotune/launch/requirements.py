"""What a server that starts and answers does not do as the user asked."""

from ..memory import estimate
from ..outcome import NO_EFFECT, TOO_LITTLE_HEADROOM, Certificate, Degraded, OutOfMemory, Readings
from ..search.auto_length import servable_length
from ..search.facts import Facts
from ..units import format_bytes
from ..vllm.config import LaunchConfig
from ..vllm.multimodal import limits
from ..vllm.versions import COUNTS_SWAPPING

# Online fp8 leaves embeddings as they are (7B: 14.29 to 8.17 GiB, vLLM 0.26); a checkpoint that
# is loaded within a tenth of its own size was not quantized.
UNCHANGED = 0.9
# An 8-bit KV cache that is larger than expected by more than this factor has 16 bits.
HALF_AGAIN = 1.5


def too_small(facts: Facts, config: LaunchConfig, readings: Readings) -> OutOfMemory | None:
    """Return the failure of a KV cache that is too small, None if it is not or not yet printed.

    vLLM starts if one sequence fits, of the length that it chose or was given.
    """
    holds, wanted = readings.concurrency, facts.workload.concurrency
    served, least = readings.max_model_len, facts.length(config)
    if config.is_auto_length:
        if served is None or (wanted > 1 and holds is None):
            return None
        fits = servable_length(facts, config, readings) if wanted > 1 else served
        if fits >= least:
            return None
        times = f" {wanted} times at once" if wanted > 1 else ""
        return OutOfMemory(
            cause="auto_fit_too_short",
            phase="kv_cache",
            reason=f"at most {fits:,} tokens fit{times}, you asked for at least {least:,}",
            limit=served if wanted == 1 else None,
        )
    if wanted > 1 and holds is not None and holds < wanted:
        return OutOfMemory(
            cause="too_few_at_once",
            phase="kv_cache",
            reason=f"the KV cache holds {holds:.2f} full-length sequences at once, "
            f"you asked for {wanted}",
        )
    return None


def too_little_headroom(facts: Facts, certificate: Certificate) -> OutOfMemory | None:
    """Return the failure of a server that left too little memory free under load, else None."""
    least, wanted = certificate.least_free_bytes, facts.headroom_bytes
    if least is None or least >= wanted:
        return None
    return OutOfMemory(
        cause=TOO_LITTLE_HEADROOM,
        phase="serving",
        reason=f"only {format_bytes(least)} stayed free under load, "
        f"{format_bytes(wanted)} must stay free",
        shortfall_bytes=wanted - least,
    )


def without_effect(facts: Facts, config: LaunchConfig, readings: Readings) -> Degraded | None:
    """Return the failure of a server that ignored a flag, None if all worked: vLLM may not warn.

    What vLLM does not print (a CPU build prints no weights) cannot be checked.
    """
    weights, served = readings.weights_bytes, readings.max_model_len
    asked = config.max_model_len or facts.workload.min_context
    if not config.is_auto_length and served is not None and served < asked:
        return _ignored("max-model-len", f"{served:,} tokens are served, {asked:,} were asked for")
    if readings.modality == "video" and limits(config).get("video") == 0:
        return _ignored("limit-mm-per-prompt", "vLLM still tries out videos")
    checkpoint, offload = facts.checkpoints[config.model], config.cpu_offload_gib * 2**30
    full = checkpoint.weight_bytes
    if not full or not weights or len(facts.used(config)) > 1:
        return None
    still = f"the weights still take {format_bytes(weights)}"
    if offload and not readings.offloaded_bytes and weights > full - offload / 2:
        return _ignored("cpu-offload-gb", still)
    online = "quantization" in config.args and checkpoint.quantization is None
    if online and not offload and weights > UNCHANGED * full:
        return _ignored("quantization", still)
    if config.kv_cache_dtype.startswith("fp8") and readings.kv_bytes and readings.kv_tokens:
        length = facts.length(config)
        expected = estimate(facts.setup(config)).kv_bytes(length)
        per_token = readings.kv_bytes / readings.kv_tokens
        if expected.known and per_token * length > HALF_AGAIN * expected.high:
            return _ignored("kv-cache-dtype", f"a token still takes {format_bytes(per_token)}")
    return None


def nothing_swapped(
    facts: Facts, config: LaunchConfig, certificate: Certificate
) -> Degraded | None:
    """Return the failure of a server that moved no KV cache to the host, though it was told to.

    A server stores all that it computes there, so any load moves something.
    """
    counted = certificate.swapped_out_bytes is not None
    asked = config.number("kv-offloading-size")
    if not asked or certificate.swapped_out_bytes:
        return None
    if not counted and facts.engine.release < COUNTS_SWAPPING:
        return None
    return _ignored("kv-offloading-size", "not a byte of the KV cache went to host memory")


def _ignored(flag: str, how: str) -> Degraded:
    return Degraded(cause=NO_EFFECT, phase="warmup", reason=f"--{flag} had no effect: {how}")
