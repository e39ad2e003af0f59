"""Which GPUs are used: idle ones, of one kind, well linked; the others are told why not."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.memory_model import GIB, cards
from vllm_autotune.machine.device import Device
from vllm_autotune.machine.selection import Selection, alike, is_busy, select
from vllm_autotune.machine.topology import arranged

FOUR = cards("NVIDIA H100 80GB HBM3", 79.2, (9, 0), 4)
LARGE = tuple(replace(d, uuid=f"L{d.index}") for d in cards("NVIDIA H200", 139.8, (9, 0), 1))


def taken(device: Device, gib: float) -> Device:
    return replace(device, free_bytes=device.free_bytes - int(gib * GIB))


def always(_: Selection) -> str:
    return "yes"


def chosen(*found: Device, keep_busy: bool = False, least: int = 1) -> Selection:
    return select(found, keep_busy=keep_busy, least=least, fits=always)


def test_busy_gpus_are_left_alone_where_others_are_idle() -> None:
    busy = taken(FOUR[1], 60)
    found = chosen(FOUR[0], busy, FOUR[2])
    assert (found.devices, found.busy) == ((FOUR[0], FOUR[2]), (busy,))
    assert found.left_alone == (
        "the GPU NVIDIA H100 80GB HBM3 (GPU-1) is busy: other processes hold 60.4 GiB of 79.2 GiB",
    )


def test_busy_gpus_stay_where_too_few_are_idle_or_they_are_asked_for() -> None:
    busy = tuple(taken(device, 60) for device in FOUR)
    assert chosen(*busy).devices == busy
    assert chosen(FOUR[0], busy[1], least=2).devices == (FOUR[0], busy[1])
    assert chosen(FOUR[0], busy[1], keep_busy=True).devices == (FOUR[0], busy[1])


@pytest.mark.parametrize(("gib", "busy"), [(0, False), (1.4, False), (1.7, True), (70, True)])
def test_a_desktop_does_not_make_a_gpu_busy(gib: float, busy: bool) -> None:
    """Half a GiB is taken from the start."""
    assert is_busy(taken(FOUR[0], gib)) is busy
    assert not is_busy(replace(taken(FOUR[0], gib), unified=True))


def test_of_several_kinds_the_largest_card_that_is_enough() -> None:
    found = chosen(*FOUR, *LARGE)
    assert found.devices == LARGE
    assert len(found.left_alone) == 4
    assert "left alone: not a NVIDIA H200" in found.left_alone[0]


def test_an_idle_card_of_another_kind_comes_before_a_busy_one() -> None:
    assert chosen(FOUR[0], taken(LARGE[0], 60)).devices == FOUR[:1]
    assert chosen(FOUR[0], taken(LARGE[0], 60), keep_busy=True).devices[0].uuid == "L0"


def test_of_several_kinds_the_most_memory_where_nothing_fits_for_sure() -> None:
    found = select((*FOUR, *LARGE), keep_busy=False, least=1, fits=lambda _: "no")
    assert found.devices == FOUR
    fours = select(
        (*LARGE, *FOUR),
        keep_busy=False,
        least=1,
        fits=lambda choice: "yes" if len(choice.devices) > 1 else "no",
    )
    assert fours.devices == FOUR


@given(st.permutations(FOUR), st.sets(st.integers(0, 3)))
def test_every_gpu_is_used_or_told_why_not(found: list[Device], busy: set[int]) -> None:
    devices = [taken(d, 60) if d.index in busy else d for d in (*found, *LARGE)]
    choice = chosen(*devices)
    assert choice.devices
    left = [d for d in devices if d not in choice.devices]
    assert len(choice.left_alone) == len(left)
    for device in left:
        assert any(device.uuid in reason for reason in choice.left_alone)


def linked(*pairs: tuple[int, int]) -> list[int]:
    def distance(one: Device, other: Device) -> float:
        return 0.0 if tuple(sorted((one.index, other.index))) in pairs else 50.0

    return [device.index for device in arranged(FOUR, distance)]


def test_linked_pairs_come_first_and_stay_together() -> None:
    assert set(linked((1, 3))[:2]) == {1, 3}
    order = linked((0, 2), (1, 3))
    assert set(order[:2]) in ({0, 2}, {1, 3})
    assert sorted(order) == [0, 1, 2, 3]


def test_the_freest_come_first_however_well_others_are_linked() -> None:
    devices = [taken(FOUR[0], 20), taken(FOUR[1], 20), FOUR[2], FOUR[3]]
    order = arranged(devices, lambda one, other: float(one.index + other.index != 1))
    assert {device.index for device in order[:2]} == {2, 3}


def test_a_check_takes_gpus_like_those_of_the_report() -> None:
    busy = taken(FOUR[0], 60)
    found = (busy, *LARGE, *FOUR[1:])
    pair = alike(found, (FOUR[0], LARGE[0]))
    assert pair
    assert pair.devices == (FOUR[1], LARGE[0]), "in that order, and an idle one"
    assert alike(found, LARGE * 2) is None
    assert alike(found, ()) is None


def test_several_kinds_together_only_where_none_is_enough() -> None:
    def three(choice: Selection) -> str:
        return "yes" if len(choice.devices) > 2 else "no"

    mixed = (*LARGE, *FOUR[1:3])
    found = select(mixed, keep_busy=False, least=1, fits=three)
    assert found.devices == mixed
    assert found.left_alone == ()
    assert select((*LARGE, *FOUR), keep_busy=False, least=1, fits=three).devices == FOUR
    held = select((*mixed, taken(FOUR[3], 60)), keep_busy=False, least=1, fits=three)
    assert held.devices == mixed
    assert held.busy == (taken(FOUR[3], 60),)
    assert len(held.left_alone) == 1


def test_more_of_several_kinds_where_few_may_not_be_enough() -> None:
    mixed = (*LARGE, *FOUR[1:4])

    def sure_of(count: int) -> Callable[[Selection], str]:
        def fits(choice: Selection) -> str:
            if len(choice.devices) >= count:
                return "yes"
            return "perhaps" if len(choice.devices) == 2 else "no"

        return fits

    for count, used in ((3, mixed[:3]), (4, mixed), (5, mixed[:2])):
        found = select(mixed, keep_busy=False, least=1, fits=sure_of(count))
        assert found.devices == used or (count == 3 and found.devices == FOUR[1:4])
