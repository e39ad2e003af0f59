"""How to tune, and who watches."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..launch.limits import Limits
from ..launch.progress import Progress
from ..search.trial import Candidate, Trial


class Audience(Protocol):
    """Who watches a tuning: notes that stop nothing, and launches that begin, go on and end.

    `progress` is called several times a second.
    """

    def note(self, text: str) -> None: ...
    def begin(self, number: int, candidate: Candidate) -> None: ...
    def progress(self, progress: Progress) -> None: ...
    def end(self, trial: Trial) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(Limits):
    """How to run: the limits of every launch, where results and cache are, what else is allowed.

    `wait` is how many seconds to wait for another tuning on the same device. `resume` continues
    the newest unfinished run; `cached_only` launches nothing; `allow_busy` tunes on devices that
    other programs use as well. `also` are the alternatives to prove after the winner.
    """

    results: Path
    cache: Path
    refresh: bool = False
    cached_only: bool = False
    max_launches: int = 12
    wait: float = 0.0
    resume: bool = False
    allow_busy: bool = False
    also: tuple[str, ...] = ()
