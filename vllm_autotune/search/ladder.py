"""The ladder: rungs from the one that gives up least to the one that gives up most."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, StrictBool, StrictInt

from ..errors import BadLadder, did_you_mean
from ..outcome import Ailment
from ..units import parse_capability
from ..vllm.config import Value
from ..vllm.flags import PARALLEL


def _value(value: Any) -> Value:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    if isinstance(value, str | int | float):
        return value
    raise ValueError("text, a number, true, false or a list of texts")


def _spelled(args: Mapping[str, Value]) -> Mapping[str, Value]:
    return {name.lstrip("-").replace("_", "-"): value for name, value in args.items()}


# What a fit solves that is not named like its flag; the weights and the swap space have several.
SOLVED: Mapping[str, tuple[str, ...]] = {
    "checkpoint": (),
    "swap": (),
    "full-sequences": ("max-num-seqs",),
}

# How a file writes them.
ComputeCapability = Annotated[tuple[int, int], BeforeValidator(parse_capability)]
Args = Annotated[Mapping[str, Annotated[Value, BeforeValidator(_value)]], AfterValidator(_spelled)]
Env = Mapping[str, Annotated[str, BeforeValidator(str)]]


@dataclass(frozen=True, slots=True, kw_only=True)
class When:
    """What must hold for a rung to apply; None asks nothing.

    Capabilities bind on NVIDIA GPUs only. `dtype` is the checkpoint's; `images` is whether it takes
    any.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    device: str | None = None
    min_capability: ComputeCapability | None = None
    max_capability: ComputeCapability | None = None
    quantized: StrictBool | None = None
    dtype: str | None = None
    min_gpus: StrictInt | None = None
    images: StrictBool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """One strategy: what it can cure (phases of running out of memory), its price, what it sets.

    `fit` names a value that is solved from numbers (the table in `fit`) instead of set. A rung
    with `start` belongs to the first candidate already; where it is about several GPUs, it uses
    all of them.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: str
    gives_up: str
    cures: tuple[Ailment, ...] = ()
    start: StrictBool = False
    when: When = When()
    args: Annotated[Args, Field(alias="set")] = field(default_factory=dict)
    env: Env = field(default_factory=dict)
    fit: str | None = None

    def flags(self) -> set[str]:
        """Return the vLLM flags the rung touches."""
        return {*self.args, *(SOLVED.get(self.fit, (self.fit,)) if self.fit else ())}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ladder:
    """The rungs of a ladder file, and its text."""

    name: str
    rungs: tuple[Rung, ...]
    text: str

    @property
    def spreads(self) -> bool:
        """Whether it uses all GPUs from the start."""
        return any(rung.start and rung.fit in PARALLEL for rung in self.rungs)

    def without(self, names: Iterable[str]) -> "Ladder":
        """Return the ladder without the rungs the user skips.

        Raises BadLadder for a name it does not have.
        """
        skipped = set(names)
        known = [rung.name for rung in self.rungs]
        for name in sorted(skipped.difference(known)):
            raise BadLadder(
                f"--skip {name}: the ladder `{self.name}` has no rung of this name",
                did_you_mean(name, known) or f"its rungs are: {', '.join(known)}",
            )
        return replace(self, rungs=tuple(r for r in self.rungs if r.name not in skipped))
