"""The report: one versioned document."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from .. import __version__
from ..machine.device import Device
from ..memory import Interval
from ..outcome import Certificate, Outcome
from ..search.facts import Facts
from ..search.trial import Fits, Prediction, Skip, Trial
from ..vllm.config import Value
from ..workload import Workload

SchemaVersion = Literal[1]
SCHEMA_VERSION: SchemaVersion = 1

Status = Literal["stable", "exhausted", "environment", "budget", "interrupted"]
EXIT_CODES: Mapping[Status, int] = {
    "stable": 0,
    "exhausted": 1,
    "environment": 3,  # something outside the configuration failed
    "budget": 4,  # launches or time
    "interrupted": 130,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """The model that was tuned; `weight_bytes` is None where unknown."""

    path: str
    revision: str | None
    architecture: str
    weight_bytes: int | None
    quantization: str | None
    context: int


def model_of(facts: Facts) -> Model:
    checkpoint = facts.checkpoint
    return Model(
        path=facts.model,
        revision=checkpoint.revision,
        architecture=checkpoint.architecture,
        weight_bytes=checkpoint.weight_bytes,
        quantization=checkpoint.quantization,
        context=checkpoint.context,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Versions:
    """The software an answer depends on."""

    autotune: str
    vllm: str
    torch: str | None
    driver: str | None


def versions_of(facts: Facts) -> Versions:
    return Versions(
        autotune=__version__,
        vllm=facts.engine.version,
        torch=facts.engine.torch,
        driver=facts.devices[0].driver,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Where the memory of one device went, in bytes; None where vLLM printed nothing.

    `reserved` is the share vLLM was given, `least_free` the least that was free under the probe.
    """

    reserved: int
    weights: int | None = None
    kv_cache: int | None = None
    activations: int | None = None
    graphs: int | None = None
    least_free: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidFor:
    """The devices the answer holds for, the free bytes each must have and must keep.

    Where they differ, `device` and `memory_bytes` are of the first, and `needed_each` is what each
    must have free, in their order.
    """

    device: str
    count: int
    memory_bytes: int
    needed_bytes: int
    budget_bytes: int
    headroom_bytes: int | None = None
    needed_each: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Winner:
    """The configuration to deploy; `argv` starts it, without host, port or keys.

    `left_out` are the names of the user's arguments that belong to the deployment, not to the
    answer.
    """

    argv: tuple[str, ...]
    model: str
    args: dict[str, Value]
    env: dict[str, str]
    rungs: tuple[str, ...]
    gives_up: tuple[str, ...]
    max_model_len: int
    max_num_seqs: int
    kv_cache_tokens: int | None
    memory: Memory
    certificate: Certificate
    startup_seconds: float
    valid_for: ValidFor
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedAlternative:
    """What else could be served, and at what price: by arithmetic, until a launch has `proven` it.

    `command` asks for it, `args` and `env` are what it launches first. Intervals lie between what
    surely and what perhaps fits: tokens of context, and how many sequences of that length the KV
    cache holds. Bits are those of a weight (None where unknown) and of a number in the KV cache.
    """

    name: str
    gives_up: tuple[str, ...]
    command: tuple[str, ...]
    model: str
    args: dict[str, Value]
    env: dict[str, str]
    max_model_len: Interval
    full_length_sequences: Interval
    devices: int
    weight_bits: int | None
    kv_bits: int
    fits: Fits
    predicted: Prediction
    proven: Winner | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedHelp:
    """What is not here and would help, and what would be served with it, as in an alternative."""

    name: str
    what: str
    gives_up: tuple[str, ...]
    max_model_len: Interval
    full_length_sequences: Interval
    devices: int
    weight_bits: int | None
    kv_bits: int
    fits: Fits


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheUse:
    """The key of the answer, and whether it was recalled from the cache."""

    key: str
    hit: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What one run found, and how; `reason` is a sentence on why it ended.

    `busy` are further devices of the same kind that others used, `left_alone` says why these and
    any of another kind were not used.
    """

    schema_version: SchemaVersion = SCHEMA_VERSION
    status: Status
    reason: str
    hint: str = ""
    model: Model
    devices: tuple[Device, ...]
    busy: tuple[Device, ...] = ()
    left_alone: tuple[str, ...] = ()
    versions: Versions
    workload: Workload
    ladder: str
    fixed: dict[str, Value] = field(default_factory=dict)
    winner: Winner | None
    trials: tuple[Trial, ...]
    skipped: tuple[Skip, ...]
    alternatives: tuple[PlannedAlternative, ...] = ()
    would_help: tuple[PlannedHelp, ...] = ()
    launches: int
    elapsed_seconds: float
    cache: CacheUse
    created_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What became of a check: of a report's winner, the `trial`; of a running server, its `url`."""

    schema_version: SchemaVersion = SCHEMA_VERSION
    outcome: Outcome
    trial: Trial | None = None
    url: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """An answer in the cache; `problem` says why it cannot be used, then the rest is unknown."""

    key: str
    age_seconds: float
    problem: str = ""
    device: str | None = None
    count: int | None = None
    model: str | None = None
    vllm: str | None = None
    max_model_len: int | None = None
    max_num_seqs: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What the cache holds."""

    schema_version: SchemaVersion = SCHEMA_VERSION
    answers: tuple[Stored, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """What is printed in place of a report where no run was begun."""

    schema_version: SchemaVersion = SCHEMA_VERSION
    status: Literal["refused"] = "refused"
    reason: str
    hint: str
    winner: None = None
    trials: tuple[()] = ()
