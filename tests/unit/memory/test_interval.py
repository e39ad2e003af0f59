"""The arithmetic of intervals."""

from hypothesis import given
from hypothesis import strategies as st

from vllm_autotune.memory import Interval

NUMBERS = st.floats(-1e15, 1e15)


INTERVALS = st.tuples(NUMBERS, NUMBERS).map(lambda ends: Interval(min(ends), max(ends)))


@given(one=INTERVALS, other=INTERVALS, factor=st.floats(0, 100))
def test_interval_arithmetic_keeps_what_it_holds(
    one: Interval, other: Interval, factor: float
) -> None:
    assert one.low + other.high in one + other
    assert one.low - other.high in one - other
    assert one.high * factor in one * factor
    assert one + 0.0 == 0.0 + one == one
    assert 1.0 - one.low in 1.0 - one
