"""Look at the engine, the devices and the model, and gather the facts of a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .checkpoint import Checkpoint, read_checkpoint
from .config import STANDARD, LaunchConfig, Probe, Value, Workload, parse_arguments
from .device import detect, host_free_bytes
from .engine import locate
from .errors import BadUsage
from .facts import Facts, expect
from .ladder import Ladder
from .memory import Calibration, format_bytes

# Arguments of serving that a trial sets itself, or that have no place in a report.
SERVING = frozenset(
    {
        *("host", "port", "uds", "api-key", "served-model-name", "root-path", "model"),
        *("ssl-keyfile", "ssl-certfile", "ssl-ca-certs", "ssl-cert-reqs", "allowed-origins"),
    }
)

# The shortest context worth serving when the user names none.
MIN_CONTEXT = 4096

# What must stay free: room for kernels and libraries that vLLM loads after it has profiled.
HEADROOM = {"cuda": 512 * 2**20, "cpu": 2**30}

# On a CPU the whole KV cache is touched at start-up: take what this many sequences need.
CPU_SEQUENCES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the user asked for; bytes and tokens as numbers, None where nothing was said."""

    model: str
    ladder: Ladder
    revision: str | None = None
    context: int | None = None
    min_context: int | None = None
    concurrency: int = 1
    probe: Probe = STANDARD
    gpus: str | None = None
    memory_limit: int | None = None
    headroom: int | None = None
    fixed: Sequence[str] = ()
    vllm_python: str | None = None
    vllm_command: str | None = None


def survey(request: Request) -> Facts:
    """Return the facts.

    Raises a Refusal for whatever is missing, broken or contradictory.
    """
    if Path(request.model).exists():  # what is deployed starts from any folder
        request = replace(request, model=str(Path(request.model).resolve()))
    arguments = parse_arguments(request.fixed)
    fixed = {name: value for name, value in arguments.items() if name not in SERVING}
    if request.revision and "revision" not in fixed:
        fixed["revision"] = request.revision
    dummy = fixed.get("load-format") == "dummy"
    checkpoint = read_checkpoint(request.model, request.revision, weights_required=not dummy)
    workload = _workload(request, checkpoint, fixed)
    engine = locate(request.vllm_python, request.vllm_command)
    devices = detect(engine.platform, request.gpus)
    checkpoints = {request.model: checkpoint}
    if checkpoint.quantization is None:
        for sibling in checkpoint.siblings:
            checkpoints[sibling.model] = read_checkpoint(sibling.model)
    facts = Facts(
        model=request.model,
        checkpoints=checkpoints,
        devices=tuple(replace(d, limit_bytes=request.memory_limit) for d in devices),
        engine=engine,
        workload=workload,
        ladder=request.ladder,
        fixed=fixed,
        headroom_bytes=(
            HEADROOM[engine.platform] if request.headroom is None else request.headroom
        ),
        host_free_bytes=host_free_bytes(),
    )
    free_choice = not request.memory_limit and "gpu-memory-utilization" not in fixed
    return _frugal(facts) if engine.platform == "cpu" and free_choice else facts


def _workload(request: Request, checkpoint: Checkpoint, fixed: Mapping[str, Value]) -> Workload:
    context, shortest = request.context, request.min_context
    longest = checkpoint.context
    given = LaunchConfig(request.model, fixed).number("max-model-len")
    for option, tokens in (("--context", context), ("--min-context", shortest)):
        if tokens is not None and tokens > longest:
            raise BadUsage(
                f"{option} {tokens:,} is more than the model's {longest:,} tokens",
                f"ask for at most {longest}",
            )
    if context is not None and given is not None and given != context:
        raise BadUsage(
            f"--context {context} and the fixed --max-model-len {given:.0f} contradict each other",
            "leave one of them away",
        )
    wanted = context or int(given or checkpoint.default_context)
    if shortest is not None and shortest > wanted:
        raise BadUsage(
            f"--min-context {shortest:,} is more than the {wanted:,} tokens wanted",
            "raise --context or lower --min-context",
        )
    if shortest is None:  # a length that was asked for is meant
        shortest = context or min(MIN_CONTEXT, max(1, wanted // 2))
    return Workload(
        context=context,
        min_context=shortest,
        concurrency=request.concurrency,
        probe=request.probe,
    )


def _frugal(facts: Facts) -> Facts:
    """Limit a CPU to what the workload needs, not to all the memory of the host."""
    config = facts.base()
    expected = expect(facts, Calibration(), config)
    sequences = max(CPU_SEQUENCES, facts.workload.concurrency)
    most = expected.overhead + expected.kv_bytes(facts.length(config), sequences)
    if not most.known:
        return facts
    device = facts.devices[0]
    return replace(facts, devices=(replace(device, limit_bytes=int(most.high)),))


def describe(facts: Facts) -> str:
    """Return in a line what is tuned on what."""
    device, checkpoint, engine = facts.devices[0], facts.checkpoint, facts.engine
    count = f"{len(facts.devices)} x " if len(facts.devices) > 1 else ""
    weights = format_bytes(checkpoint.weight_bytes) if checkpoint.weight_bytes else "unknown size"
    limit = f", limited to {format_bytes(device.limit_bytes)}" if device.limit_bytes else ""
    return (
        f"{checkpoint.architecture} ({weights}, {checkpoint.context:,} tokens) on {count}"
        f"{device.name} ({format_bytes(device.free_bytes)} of {format_bytes(device.memory_bytes)} "
        f"free{limit}), vLLM {engine.version}"
    )
