"""Ctrl-C, SIGTERM and a closed terminal become one exception; a second signal ends us faster."""

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
    """Turn the first two signals into Interrupted and ignore later ones; yield those caught.

    The first signal stops the trial in good order, the second one kills it. After the block, a
    program that was interrupted only reports, and no further signal disturbs that.
    """
    caught: list[int] = []

    def stop(number: int, _: FrameType | None) -> None:
        caught.append(number)
        if len(caught) >= 2:
            for each in SIGNALS:
                signal.signal(each, signal.SIG_IGN)
        raise Interrupted(number)

    before = {each: signal.signal(each, stop) for each in _ending_signals()}
    try:
        yield caught
    finally:
        for each, handler in before.items():
            signal.signal(each, signal.SIG_IGN if caught else handler)


def _ending_signals() -> list[signal.Signals]:
    """Return the signals that end us: not SIGHUP where `nohup` made it ignored."""
    nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [each for each in SIGNALS if each != signal.SIGHUP or not nohup]


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine; a signal cancels it, and takes its usual effect once it has ended.

    An exception that a signal handler raises inside a task is reported twice by the event loop.
    """
    caught: list[signal.Signals] = []
    import asyncio  # noqa: PLC0415  an answer is recalled quicker without

    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        task = loop.create_task(work)

        def cancel(number: signal.Signals) -> None:
            caught.append(number)
            task.cancel()

        before = {each: signal.getsignal(each) for each in _ending_signals()}
        for each in before:
            loop.add_signal_handler(each, cancel, each)
        try:
            return loop.run_until_complete(task)
        finally:
            loop.run_until_complete(asyncio.sleep(0))  # hear a signal that came in the last step
            for each, handler in before.items():
                loop.remove_signal_handler(each)
                signal.signal(each, handler)
            if caught:
                signal.raise_signal(caught[0])
