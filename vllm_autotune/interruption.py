"""Ctrl-C, SIGTERM and a closed terminal: one exception, once; what follows is not waited for."""

import asyncio
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """A signal asked us to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


@contextmanager
def interruptible() -> Iterator[list[int]]:
    """Turn the first two signals into Interrupted, ignore those after them; yield what came.

    The first one stops the trial in good order, the second one kills it. After one, the rest of
    the program is only its last words, and no other disturbs them.
    """
    caught: list[int] = []

    def stop(number: int, _: FrameType | None) -> None:
        caught.append(number)
        if len(caught) >= 2:
            for each in SIGNALS:
                signal.signal(each, signal.SIG_IGN)
        raise Interrupted(number)

    before = {each: signal.signal(each, stop) for each in _heeded()}
    try:
        yield caught
    finally:
        for each, handler in before.items():
            signal.signal(each, signal.SIG_IGN if caught else handler)


def _heeded() -> list[signal.Signals]:
    """Return the signals that end us: not SIGHUP where `nohup` has it ignored."""
    survives = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [each for each in SIGNALS if each != signal.SIGHUP or not survives]


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine; a signal cancels it, and takes its usual effect once it has ended.

    Raised in the middle of a task, an exception would be reported once more by the event loop.
    """
    caught: list[int] = []

    async def cancellable() -> T:
        loop, task = asyncio.get_running_loop(), asyncio.ensure_future(work)

        def cancel(number: int, _: FrameType | None) -> None:
            caught.append(number)
            loop.call_soon_threadsafe(task.cancel)

        before = {each: signal.signal(each, cancel) for each in _heeded()}
        try:
            return await task
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    try:
        return asyncio.run(cancellable())
    finally:
        if caught:
            signal.raise_signal(caught[0])
