"""What a server must bear, and how hard it is tried."""

from dataclasses import dataclass
from typing import Literal

# Servers are restarted every few days, but not every few hours.
SOAK_HORIZON_HOURS = 24.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How hard a server is tried before it is called stable.

    `soak_minutes` is how long a soak repeats all of it; memory that grows meanwhile must last for
    `soak_horizon_hours`. `file` holds requests of the user's own, `digest` says which. `logprobs`,
    `schema` (an answer by a JSON Schema) and `tool` (a call of one) ask for what is needed only by
    some. `image` is whether answers about images are required; None: they are asked for where the
    model takes images.
    """

    effort: Literal["quick", "standard", "soak"] = "standard"
    soak_minutes: float = 0.0
    soak_horizon_hours: float = SOAK_HORIZON_HOURS
    file: str | None = None
    digest: str | None = None
    logprobs: bool = False
    image: bool | None = None
    schema: bool = False
    tool: bool = False


STANDARD = Effort()


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What the server must bear: lengths in tokens, and how many full-length sequences at once.

    `context` None means the model's own; `min_context` is the shortest the user accepts. With
    `exact`, what is proven is what is deployed, word for word: vLLM chooses no length. At least
    `min_gpus` are to be used.
    """

    context: int | None = None
    min_context: int = 4096
    concurrency: int = 1
    output_tokens: int = 16
    exact: bool = False
    min_gpus: int = 1
    probe: Effort = STANDARD
