"""GPUs that are not here: named as people name them, never guessed between two."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_autotune.errors import BadUsage
from vllm_autotune.machine.cards import CARDS, Card, find_card, hypothetical_devices
from vllm_autotune.machine.device import Device, counted
from vllm_autotune.units import GIB
from vllm_autotune.vllm.capability import GENERATIONS


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("4090", "RTX 4090"),
        ("rtx4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("H100-80G", "H100"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("h100 nvl", "H100 NVL"),
        ("a100 80gb", "A100 80GB"),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB"),
        ("A100-PCIE-40GB", "A100 40GB"),
        ("Tesla V100-SXM2-32GB", "V100 32GB"),
        ("4060", "RTX 4060"),
        ("4060ti", "RTX 4060 Ti"),
        ("3090 24 GB", "RTX 3090"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTX PRO 6000"),
        ("DGX Spark", "GB10 Spark"),
        ("gb10", "GB10 Spark"),
    ],
)
def test_a_card_is_found_by_what_people_call_it(name: str, meant: str) -> None:
    assert str(find_card(name)) == meant


def test_the_table_holds_what_can_be() -> None:
    assert len({(card.name, card.size) for card in CARDS}) == len(CARDS)
    for card in CARDS:
        size = int(card.size.removesuffix("GB"))
        assert 0.9 * size < card.gib < size, card  # a little less than its name says
        assert {c.capability for c in CARDS if c.name == card.name} == {card.capability}
        assert max(known for known in GENERATIONS if known <= card.capability) >= (7, 0), card


@given(
    st.sampled_from(CARDS),
    st.sampled_from(["", "NVIDIA ", "nvidia-", "NVIDIA GeForce ", "Tesla "]),
    st.sampled_from([" ", "-", "_", "  "]),
    st.sampled_from(["", "PCIe", "SXM4", "HBM2e", "Graphics"]),
    st.sampled_from(["GB", "G", " GB", "GiB", " gib"]),
    st.booleans(),
)
def test_a_card_is_found_however_its_full_name_is_written(
    card: Card, maker: str, gap: str, form: str, unit: str, loud: bool
) -> None:
    size = card.size.removesuffix("GB") + unit
    name = maker + gap.join(filter(None, [*card.name.split(), form, size]))
    assert find_card(name.upper() if loud else name) == card


@given(st.lists(st.sampled_from(sorted({w for c in CARDS for w in f"{c} {c.size}".split()}))))
def test_a_card_that_is_found_has_every_word_that_was_said(words: list[str]) -> None:
    try:
        card = find_card(" ".join(words))
    except BadUsage:
        return
    said = {word for word in words if word != "RTX"}  # which tells no card from another
    assert said
    assert said <= {*card.name.split(), card.size}


@pytest.mark.parametrize(
    ("name", "choices"),
    [("a100", ("A100 40GB", "A100 80GB")), ("6000", ("RTX 6000 Ada", "RTX PRO 6000"))],
)
def test_a_name_that_two_cards_have_is_refused(name: str, choices: tuple[str, str]) -> None:
    with pytest.raises(BadUsage) as refused:
        find_card(name)
    assert all(choice in refused.value.message for choice in choices)


@pytest.mark.parametrize(
    ("name", "near"), [("RTX 4070", "RTX 4080"), ("NVIDIA L40", "L40S"), ("rtx", "RTX 5090")]
)
def test_an_unknown_card_is_refused_with_those_nearest(name: str, near: str) -> None:
    with pytest.raises(BadUsage, match=name) as refused:
        find_card(name)
    assert near in refused.value.hint
    assert "--capability" in refused.value.hint


def test_a_size_the_card_does_not_come_in_is_another_card() -> None:
    with pytest.raises(BadUsage, match="4090 48GB"):
        find_card("4090 48GB")


def test_several_cards_are_as_many_idle_devices() -> None:
    devices = hypothetical_devices("2 x A100 80GB", None, None)
    assert [device.index for device in devices] == [0, 1]
    assert len({device.uuid for device in devices}) == 2
    assert all(device.imagined and device.free_bytes == device.memory_bytes for device in devices)
    assert hypothetical_devices("2xA100-80G", None, None) == devices


def test_several_kinds_are_in_the_order_they_are_named_in() -> None:
    devices = hypothetical_devices("L40S + 2 x RTX 3090", None, None)
    assert counted(devices) == "1 x L40S + 2 x RTX 3090"
    assert [device.index for device in devices] == [0, 1, 2]
    assert len({device.uuid for device in devices}) == 3
    assert hypothetical_devices(counted(devices), None, None) == devices


def test_a_card_without_a_name_has_the_size_that_was_given() -> None:
    (device,) = hypothetical_devices(None, 24 * GIB, (8, 9))
    assert isinstance(device, Device)
    assert (device.memory_bytes, device.capability) == (24 * GIB, (8, 9))


@pytest.mark.parametrize(
    ("device", "memory", "capability", "reason"),
    [
        (None, None, (8, 9), "its memory is missing"),
        ("4090", None, (9, 0), "RTX 4090 has 8.9"),
        ("0 x 4090", None, None, "the GPU count must be 1 to 64"),
        ("65 x 4090", None, None, "the GPU count must be 1 to 64"),
        ("", None, None, "unknown GPU"),
        ("L40S +", None, None, "unknown GPU"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    device: str | None, memory: int | None, capability: tuple[int, int] | None, reason: str
) -> None:
    with pytest.raises(BadUsage, match=reason) as refused:
        hypothetical_devices(device, memory, capability)
    assert refused.value.hint
