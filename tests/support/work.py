"""Work that was done: it does not depend on what else a machine does, as seconds do."""

import inspect
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def counted(*functions: Callable[..., Any]) -> Iterator[Counter[str]]:
    """Count how often functions run, by their names; an answer from a cache is no run."""
    names = {inspect.unwrap(each).__code__: each.__qualname__ for each in functions}
    runs: Counter[str] = Counter()

    def seen(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code in names:
            runs[names[frame.f_code]] += 1

    before = sys.getprofile()
    sys.setprofile(seen)
    try:
        yield runs
    finally:
        sys.setprofile(before)
