"""Examine the engine, the devices and the model, and gather the facts of a run."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..checkpoint import Checkpoint, read_checkpoint
from ..errors import BadModel, BadUsage, NoEngine
from ..files import user_path
from ..machine.cards import hypothetical_devices
from ..machine.device import (
    Device,
    counted,
    detect,
    differ,
    host_free_bytes,
    shared_free_bytes,
)
from ..machine.selection import Selection, alike, select
from ..memory import estimate
from ..memory.speculation import has_draft, speculation
from ..search.facts import Facts
from ..search.ladder import Ladder
from ..search.trial import Fits
from ..server.environment import TRIAL_ENV
from ..units import format_bytes
from ..vllm.config import LaunchConfig, Value, parse_arguments
from ..vllm.credentials import is_credential
from ..vllm.engine import Engine, assumed
from ..vllm.flags import EXTENDING, SERVING
from ..vllm.installation import locate
from ..vllm.untrusted import forbidden
from ..workload import STANDARD, Effort, Workload
from .impossible import refuse_impossible

# The shortest context worth serving when the user gives none.
MIN_CONTEXT = 4096
# What must stay free: room for kernels and libraries that vLLM loads after it has profiled; on the
# host, room for all programs.
HEADROOM_BYTES = 256 * 2**20
HOST_HEADROOM_BYTES = 2**30
# On a CPU the whole KV cache is touched at start-up: take what this many sequences need.
CPU_SEQUENCES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the user asked for; None where nothing was given.

    `device` describes a GPU that is not here, and so does a `capability` with a memory limit.
    `vllm_version` is that of a vLLM that is not here.
    `asked` is the same as words, as in Facts. Busy GPUs are left alone where others are idle, but
    with `keep_busy`. GPUs `like` these are taken, where they are here.
    """

    model: str
    ladder: Ladder
    revision: str | None = None
    context: int | None = None
    min_context: int | None = None
    concurrency: int = 1
    exact: bool = False
    probe: Effort = STANDARD
    gpus: str | None = None
    min_gpus: int = 1
    memory_limit: int | None = None
    headroom: int | None = None
    fixed: Sequence[str] = ()
    vllm_python: str | None = None
    vllm_command: str | None = None
    vllm_version: str | None = None
    device: str | None = None
    capability: tuple[int, int] | None = None
    asked: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    keep_busy: bool = False
    like: Sequence[Device] = ()

    @property
    def hypothetical(self) -> bool:
        return self.device is not None or self.capability is not None


def gather_facts(request: Request) -> Facts:
    """Return the facts; raise a Refusal for whatever is missing, broken or contradictory.

    Contradictions between options are found before the model and the machine are examined.
    """
    given = _tuned(parse_arguments(request.fixed))
    _refuse_contradictions(request, given)
    local = user_path(request.model)
    if local.exists():  # the deployed command must start from any folder
        request = replace(request, model=str(local.resolve()))
    dummy = given.get("load-format") == "dummy"
    checkpoint = read_checkpoint(request.model, request.revision, weights_required=not dummy)
    engine = _engine(request)
    everything = arguments(request.fixed, engine)  # shortened flags have their full names now
    given = _tuned(everything)
    _refuse_contradictions(request, given)
    withheld = {name: value for name, value in given.items() if is_credential(name, value)}
    fixed = {name: value for name, value in given.items() if name not in withheld}
    if request.revision and "revision" not in fixed:
        fixed["revision"] = request.revision
    devices = _devices(request, engine)
    checkpoints = {request.model: checkpoint}
    if checkpoint.quantization is None:
        for sibling in checkpoint.siblings:
            checkpoints[sibling] = read_checkpoint(sibling)
    usual = HOST_HEADROOM_BYTES if devices[0].uses_host_memory else HEADROOM_BYTES
    facts = Facts(
        model=request.model,
        checkpoints=checkpoints,
        devices=devices,
        engine=engine,
        workload=_workload(request, checkpoint, fixed),
        ladder=request.ladder,
        fixed=fixed,
        headroom_bytes=usual if request.headroom is None else request.headroom,
        host_free_bytes=host_free_bytes(),
        shared_free_bytes=shared_free_bytes(),
        env=_environment(),
        withheld=withheld,
        left_out=tuple(sorted(everything.keys() - fixed.keys())),
        asked=request.asked,
        draft=_draft(LaunchConfig(request.model, fixed)),
    )
    facts = _selected(facts, request)
    refuse_impossible(facts)
    free_choice = not request.memory_limit and "gpu-memory-utilization" not in fixed
    return _limited_to_need(facts) if engine.platform == "cpu" and free_choice else facts


def _selected(facts: Facts, request: Request) -> Facts:
    """Return the facts with the GPUs to use of those that may be used."""

    def narrowed(chosen: Selection) -> Facts:
        return replace(
            facts, devices=chosen.devices, busy=chosen.busy, left_alone=chosen.left_alone
        )

    def fits(chosen: Selection) -> Fits:
        from ..search.step import next_step  # noqa: PLC0415  an answer is recalled quicker without

        candidate = next_step(narrowed(chosen), ()).candidate
        if candidate is None or candidate.config.cpu_offload_gib:
            return "no"
        return candidate.predicted.fits

    if same := alike(facts.devices, request.like):
        return narrowed(same)
    keep = request.keep_busy or request.gpus is not None or facts.devices[0].imagined
    least = max(request.min_gpus, facts.base().world_size)
    return narrowed(select(facts.devices, keep_busy=keep, least=least, fits=fits))


def _draft(config: LaunchConfig) -> Checkpoint | None:
    """Return the model that drafts tokens, None without one, and for one that cannot be read."""
    model = speculation(config).get("model")
    if not has_draft(config) or not isinstance(model, str):
        return None
    try:
        return read_checkpoint(model, weights_required=False)
    except BadModel:
        return None  # vLLM will say what is wrong with it


def arguments(fixed: Sequence[str], engine: Engine) -> dict[str, Value]:
    """Return the user's own vLLM arguments by their full flag names, or raise BadUsage."""
    return {engine.spelled_out(n): value for n, value in parse_arguments(fixed).items()}


def _tuned(given: Mapping[str, Value]) -> dict[str, Value]:
    """Return the user's arguments without those that belong to the deployment."""
    if "config" in given:
        hint = "write the settings as arguments: -- --dtype half --trust-remote-code"
        raise BadUsage(f"--config {given['config']}: vLLM config files are not read", hint)
    if "model" in given:
        hint = f"name the model before `--`, and drop --model {given['model']} after it"
        raise BadUsage("do not repeat --model after `--`", hint)
    return {name: value for name, value in given.items() if name not in SERVING}


def _refuse_contradictions(request: Request, given: Mapping[str, Value]) -> None:
    config = LaunchConfig(request.model, given)
    context, shortest, length = request.context, request.min_context, config.max_model_len
    if request.hypothetical and request.gpus is not None:
        hint = "drop --gpus; for two GPUs write --device '2 x A100 80GB'"
        raise BadUsage("--gpus selects GPUs of this machine, but the plan is for another GPU", hint)
    if context is not None and length is not None and length != context:
        both = f"--context {context} and the fixed --max-model-len {length}"
        raise BadUsage(f"{both} contradict each other", "drop one of them")
    wanted = context or length
    if shortest is not None and wanted is not None and shortest > wanted:
        raise _context_below_minimum(shortest, wanted)
    most, asked = config.max_num_seqs, request.concurrency
    if most is not None and most < asked:
        reason = f"--concurrency {asked} is more than the {most} sequences of your --max-num-seqs"
        raise BadUsage(reason, "drop one of them")


def _context_below_minimum(shortest: int, wanted: int) -> BadUsage:
    return BadUsage(
        f"--min-context {shortest:,} is more than the {wanted:,} tokens wanted",
        "raise --context or lower --min-context",
    )


def _environment() -> dict[str, str]:
    """Return the variables that vLLM reads, without secrets and paths of this machine."""
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith("VLLM_") and name not in TRIAL_ENV
        if not is_credential(name, value) and forbidden({}, {name: value}) is None
    }


def _engine(request: Request) -> Engine:
    """Return the installed vLLM, an assumed one when planning for a GPU that is not here."""
    if request.vllm_version is not None:
        return assumed(request.vllm_version)
    try:
        engine = locate(request.vllm_python, request.vllm_command)
    except NoEngine:
        if request.hypothetical and request.vllm_python is None:
            return assumed()
        raise
    if not request.hypothetical:
        return engine
    return replace(engine, platform="cuda", stands_in=engine.platform == "cpu")


def _devices(request: Request, engine: Engine) -> tuple[Device, ...]:
    limit = request.memory_limit
    if not request.hypothetical:
        found = detect(engine.platform, request.gpus)
    else:
        found = hypothetical_devices(request.device, limit, request.capability)
        if request.device is None:
            limit = None  # it is the size of the card
    return tuple(replace(device, limit_bytes=limit) for device in found)


def _workload(request: Request, checkpoint: Checkpoint, fixed: Mapping[str, Value]) -> Workload:
    context, shortest, longest = request.context, request.min_context, checkpoint.context
    allowed = os.environ.get("VLLM_ALLOW_LONG_MAX_MODEL_LEN", "0") == "1"
    extends = allowed or not EXTENDING.isdisjoint(fixed)
    for option, tokens in (("--context", context), ("--min-context", shortest)):
        if tokens is not None and tokens > longest and not extends:
            raise BadUsage(
                f"{option} {tokens:,} is more than the model's {longest:,} tokens",
                f"ask for at most {longest}, or extend it: -- --hf-overrides '{{...}}'",
            )
    length = LaunchConfig(request.model, fixed).max_model_len
    wanted = context or length or checkpoint.default_context
    if shortest is not None and shortest > wanted:
        raise _context_below_minimum(shortest, wanted)
    if shortest is None:  # a context that the user gave must not become shorter
        shortest = context or min(MIN_CONTEXT, max(1, wanted // 2))
    return Workload(
        context=context,
        min_context=shortest,
        concurrency=request.concurrency,
        exact=request.exact,
        min_gpus=request.min_gpus,
        probe=request.probe,
    )


def _limited_to_need(facts: Facts) -> Facts:
    """Limit a CPU to what the workload needs, not to all the memory of the host."""
    config = facts.base()
    expected = estimate(facts.setup(config))
    sequences = max(CPU_SEQUENCES, facts.workload.concurrency)
    most = expected.overhead + expected.kv_bytes(facts.length(config), sequences)
    if not most.known:
        return facts
    return replace(facts, devices=(replace(facts.devices[0], limit_bytes=int(most.high)),))


def describe(facts: Facts) -> str:
    """Return a line that names the model, the devices and vLLM."""
    device, checkpoint, engine = facts.devices[0], facts.checkpoint, facts.engine
    weights = format_bytes(checkpoint.weight_bytes) if checkpoint.weight_bytes else "unknown size"
    limit = f", limited to {format_bytes(device.limit_bytes)}" if device.limit_bytes else ""
    size, left, in_all = device.memory_bytes, device.free_bytes, ""
    if differ(facts.devices):
        size = sum(each.memory_bytes for each in facts.devices)
        left, in_all = sum(each.free_bytes for each in facts.devices), " in all"
    free = f"{format_bytes(left)} of {format_bytes(size)} free{in_all}"
    runs = f"vLLM {engine.version}"
    if device.imagined:
        free = f"{format_bytes(size)}{in_all}"
        runs = f"as {'the installed ' if engine.installed else ''}{runs} would run it"
    names = counted(facts.devices) if len(facts.devices) > 1 else device.name
    return (
        f"{checkpoint.architecture} ({weights}, {checkpoint.context:,} tokens) on {names} "
        f"({free}{limit}), {runs}"
    )
