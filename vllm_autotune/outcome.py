"""What became of a candidate: one of seven outcomes, and the numbers vLLM printed on the way."""

from dataclasses import dataclass, fields, replace
from typing import Literal, Self, get_args

Phase = Literal["spawn", "config", "load", "profile", "kv_cache", "graphs", "warmup", "serving"]

# What a rung can cure: memory that runs out in a phase, or over images while vLLM tries them out,
# or requests that push each other out.
Ailment = Literal[Phase, "images", "preemptions"]

PHASES: tuple[Phase, ...] = get_args(Phase)

# Causes that are found by measuring, not in the log.
TOO_LITTLE_HEADROOM = "too_little_headroom"
PREEMPTION_STORM = "preemption_storm"
NO_EFFECT = "no_effect"
# Memory ran out while images, videos or sounds were looked at.
IMAGES_OUT_OF_MEMORY = "images_out_of_memory"


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """The numbers one vLLM server printed; None where it printed nothing.

    Bytes are per device (rank 0). `kv_bytes` is negative when the rest left no room. For the
    profiling run vLLM makes up `media_items` of this `modality`, and room for `media_tokens`.
    """

    version: str | None = None
    model_runner: Literal["v1", "v2"] | None = None
    weights_bytes: int | None = None
    offloaded_bytes: int | None = None
    activation_bytes: int | None = None
    non_torch_bytes: int | None = None
    graph_bytes: int | None = None
    kv_bytes: int | None = None
    kv_needed_bytes: int | None = None
    kv_tokens: int | None = None
    concurrency: float | None = None
    max_model_len: int | None = None
    estimated_max_model_len: int | None = None
    max_num_seqs: int | None = None
    modality: str | None = None
    media_items: int | None = None
    media_tokens: int | None = None
    utilization: float | None = None
    total_bytes: int | None = None
    free_bytes: int | None = None
    requested_bytes: int | None = None
    tried_bytes: int | None = None
    minimum_capability: int | None = None
    load_seconds: float | None = None
    compile_seconds: float | None = None
    graph_seconds: float | None = None
    init_seconds: float | None = None

    def updated(self, newer: Self) -> Self:
        """Return these readings with every number that `newer` has."""
        known = {f.name: getattr(newer, f.name) for f in fields(newer)}
        return replace(self, **{name: value for name, value in known.items() if value is not None})


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What every failing outcome carries.

    `cause` is the name of the signature that matched, `reason` one sentence for a person,
    `evidence` the log lines it rests on.
    """

    cause: str
    phase: Phase
    reason: str
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class OutOfMemory(Failure):
    """Memory ran out; `limit` is the longest context vLLM said would fit, in tokens."""

    kind: Literal["out_of_memory"] = "out_of_memory"
    where: Literal["gpu", "host"] = "gpu"
    shortfall_bytes: int | None = None
    limit: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected(Failure):
    """VLLM refused the configuration; no smaller one of the same kind would help."""

    kind: Literal["rejected"] = "rejected"
    argument: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Degraded(Failure):
    """It served, but not right: wrong tokens, a flag without effect, a collapse.

    `fit_at_once` is how many of the requests that pushed each other out of the KV cache fit there.
    """

    kind: Literal["degraded"] = "degraded"
    fit_at_once: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hung(Failure):
    """Nothing moved until the deadline, `seconds` after it began; None where no clock tells it."""

    kind: Literal["hung"] = "hung"
    seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Crashed(Failure):
    """It died of a fault in vLLM or below it, or of something no signature knows."""

    kind: Literal["crashed"] = "crashed"
    exit_code: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment(Failure):
    """Something outside the candidate failed: a busy device, a stolen port."""

    kind: Literal["environment"] = "environment"


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One item of the certificate: `requests` sent, what came back, and how fast.

    `ttft_seconds` is the worst time to first token, `tokens_per_second` counts what all of
    them read and wrote together. `note` says what was shortened, or why an item was left out
    (then `requests` is 0).
    """

    name: str
    requests: int
    prompt_tokens: int = 0
    output_tokens: int = 0
    seconds: float
    ttft_seconds: float | None = None
    tokens_per_second: float | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """How fast `requests` of `prompt_tokens` each were, sent at once.

    `ttft_seconds` is the median time to first token, `inter_token_seconds` the median time from
    one token to the next. Tokens per second are those of all requests together; decoding is
    measured while all of them write.
    """

    requests: int
    prompt_tokens: int
    ttft_seconds: float
    worst_ttft_seconds: float
    inter_token_seconds: float | None = None
    prefill_tokens_per_second: float
    decode_tokens_per_second: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """What a server showed so many seconds into a probe; None where it says nothing.

    `kv_usage` is the share of the KV cache in use, `requests` how many ran or waited,
    `preemptions` those up to then, `free_bytes` what the fullest device had left.
    """

    seconds: float
    kv_usage: float | None = None
    requests: int | None = None
    preemptions: int | None = None
    free_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """What the server survived, item by item, how fast it was, and the least memory left.

    Swapped are blocks of the KV cache, to the host and back; None where the server counts none.
    """

    checks: tuple[Item, ...]
    seconds: float
    speeds: tuple[Speed, ...] = ()
    kv_usage_peak: float | None = None
    preemptions: int | None = None
    swapped_out_bytes: int | None = None
    swapped_in_bytes: int | None = None
    least_free_bytes: int | None = None
    timeline: tuple[Moment, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Stable:
    """The server survived every item of the certificate."""

    kind: Literal["stable"] = "stable"
    certificate: Certificate


FailedOutcome = OutOfMemory | Rejected | Degraded | Hung | Crashed | Environment
Outcome = Stable | FailedOutcome
