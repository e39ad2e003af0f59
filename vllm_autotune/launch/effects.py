"""Did a flag do what it was set for? vLLM ignores some without a word."""

from ..memory import Calibration
from ..outcome import Degraded, Readings
from ..search.facts import Candidate, Facts, expect
from ..units import format_bytes
from ..vllm.config import AUTO

# Online fp8 leaves embeddings as they are (7B: 14.29 to 8.17 GiB, vLLM 0.26); a checkpoint that
# is loaded within a tenth of its own size was not quantized.
UNCHANGED = 0.9
# An 8-bit KV cache that is larger than expected by more than this has 16.
HALF_AGAIN = 1.5


def without_effect(facts: Facts, candidate: Candidate, readings: Readings) -> Degraded | None:
    """Return which flag of a server that started had no effect, None if all had.

    What vLLM does not print (a CPU build prints no weights) cannot be checked and is believed.
    """
    config, weights = candidate.config, readings.weights_bytes
    asked = config.integer("max-model-len", facts.workload.min_context)
    served = readings.max_model_len
    if config.text("max-model-len") != AUTO and served is not None and served < asked:
        return _ignored("max-model-len", f"{served:,} tokens are served, {asked:,} are asked for")
    offload = config.integer("cpu-offload-gb", 0) * 2**30
    checkpoint = facts.checkpoints[config.model]
    full = checkpoint.weight_bytes
    online = "quantization" in config.args and checkpoint.quantization is None
    parts = len(facts.used(config))
    if not full or not weights or parts > 1:
        return None
    if offload and not readings.offloaded_bytes and weights > full - offload / 2:
        return _ignored("cpu-offload-gb", f"the weights still take {format_bytes(weights)}")
    if online and not offload and weights > UNCHANGED * full:
        return _ignored("quantization", f"the weights still take {format_bytes(weights)}")
    dtype = config.text("kv-cache-dtype") or ""
    if dtype.startswith("fp8") and readings.kv_bytes and readings.kv_tokens:
        length = facts.length(config)
        expected = expect(facts, Calibration(), config).kv_bytes(length)
        per_token = readings.kv_bytes / readings.kv_tokens
        if expected.known and per_token * length > HALF_AGAIN * expected.high:
            return _ignored("kv-cache-dtype", f"a token still takes {format_bytes(per_token)}")
    return None


def _ignored(flag: str, how: str) -> Degraded:
    return Degraded(cause="no_effect", phase="warmup", reason=f"--{flag} had no effect: {how}")
