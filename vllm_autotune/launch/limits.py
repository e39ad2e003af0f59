"""What a launch may take."""

from dataclasses import dataclass, field

from ..probe.target import Patience


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long a launch may take, the monotonic time when everything must end, allowed ports."""

    launch_seconds: float = 1800.0
    until: float | None = None
    ports: range | None = None
    patience: Patience = field(default_factory=Patience)
