"""Signals: the work is cancelled and cleans up, then the signal has its usual effect."""

import asyncio
import os
import signal
import threading
from collections.abc import Iterator

import pytest

from vllm_autotune.interruption import SIGNALS, Interrupted, interruptible, run

SLEEP = 60.0


@pytest.fixture(autouse=True)
def handlers_are_put_back() -> Iterator[None]:
    before = [signal.getsignal(each) for each in SIGNALS]
    yield
    after = [signal.getsignal(each) for each in SIGNALS]
    for each, handler in zip(SIGNALS, before, strict=True):
        signal.signal(each, handler)
    assert signal.set_wakeup_fd(-1) == -1
    assert after == before or after == [signal.SIG_IGN] * len(SIGNALS)


def strike(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


async def struck(number: signal.Signals, cleaned: list[bool]) -> None:
    """Wait, be struck by a signal meanwhile, and clean up with the event loop still running."""
    asyncio.get_running_loop().call_later(0.01, strike, number)
    try:
        await asyncio.sleep(SLEEP)
    finally:
        await asyncio.sleep(0)
        cleaned.append(True)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_cancels_the_work_and_then_interrupts(number: signal.Signals) -> None:
    cleaned: list[bool] = []
    with pytest.raises(Interrupted) as ended, interruptible() as caught:
        run(struck(number, cleaned))
    assert cleaned
    assert caught == [number]
    assert ended.value.exit_code == 128 + number


def test_work_that_nobody_interrupts_returns_its_result_and_the_handlers_are_back() -> None:
    with interruptible() as caught:
        ours = [signal.getsignal(each) for each in SIGNALS]
        assert run(asyncio.sleep(0, "done")) == "done"
        assert [signal.getsignal(each) for each in SIGNALS] == ours
    assert not caught


def test_an_error_of_the_work_is_raised_as_it_is() -> None:
    async def fails() -> None:
        raise ValueError("its own")

    with pytest.raises(ValueError, match="its own"), interruptible():
        run(fails())


def test_a_signal_in_the_last_step_of_the_work_is_not_lost() -> None:
    async def ends() -> None:
        await asyncio.sleep(0)
        strike(signal.SIGTERM)

    with pytest.raises(Interrupted), interruptible():
        run(ends())


def test_an_ignored_hangup_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

    async def outlives() -> str:
        strike(signal.SIGHUP)
        await asyncio.sleep(0.01)
        return "done"

    try:
        with interruptible() as caught:
            assert run(outlives()) == "done"
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert not caught
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def test_a_third_signal_is_ignored() -> None:
    def cleans_up() -> None:
        try:
            strike(signal.SIGINT)
        finally:
            strike(signal.SIGTERM)

    with pytest.raises(Interrupted, match="SIGTERM"), interruptible() as caught:
        cleans_up()
    assert caught == [signal.SIGINT, signal.SIGTERM]
    strike(signal.SIGTERM)


def test_a_signal_ends_work_that_waits_in_another_thread() -> None:
    released = threading.Event()

    async def waits() -> None:
        asyncio.get_running_loop().call_later(0.01, strike, signal.SIGINT)
        try:
            await asyncio.to_thread(released.wait, SLEEP)
        finally:
            released.set()

    with pytest.raises(Interrupted), interruptible():
        run(waits())
