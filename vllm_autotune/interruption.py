"""Ctrl-C, SIGTERM and a closed terminal: one exception, once; what follows is not waited for."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """A signal asked us to stop; asyncio lets a KeyboardInterrupt through as it is."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


@contextmanager
def interruptible() -> Iterator[None]:
    """Turn the first two signals into Interrupted, and ignore those after them.

    The first one stops the trial in good order, the second one kills it.
    """
    count = 0

    def stop(number: int, _: FrameType | None) -> None:
        nonlocal count
        count += 1
        if count >= 2:
            for each in SIGNALS:
                signal.signal(each, signal.SIG_IGN)
        raise Interrupted(number)

    before = {each: signal.signal(each, stop) for each in SIGNALS}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
