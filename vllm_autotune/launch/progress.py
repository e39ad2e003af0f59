"""How far a launch has come."""

from dataclasses import dataclass

from ..outcome import Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class UsualTimes:
    """The seconds that earlier launches took to get ready and to be probed, in the median."""

    start: float
    probe: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What a waiting person is shown: the phase, the seconds so far, the last useful log line.

    `item` is the item of the certificate that runs now, None before the server is ready.
    """

    phase: Phase
    seconds: float
    line: str
    free_bytes: int | None
    item: str | None = None
