"""Devices: names, what a child may see, and the CPU of this machine."""

from dataclasses import replace

import pytest

from tests.support.memory_model import cards
from vllm_autotune.errors import BadUsage
from vllm_autotune.machine import device
from vllm_autotune.machine.device import detect, refreshed, visible_environment

GPUS = cards("NVIDIA H100 80GB HBM3", 79.2, (9, 0), 3)


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("NVIDIA H100 80GB HBM3", "nvidia-h100-80gb-hbm3-79g"),
        ("NVIDIA GeForce RTX 4090", "nvidia-geforce-rtx-4090-79g"),
        ("../../etc", "etc-79g"),
        ("", "cuda-79g"),
        ("®™", "cuda-79g"),
    ],
)
def test_a_device_is_named_for_a_folder(name: str, slug: str) -> None:
    assert replace(GPUS[0], name=name).slug == slug


def test_a_child_sees_exactly_the_chosen_gpus_in_order() -> None:
    chosen = visible_environment([GPUS[2], GPUS[0]])
    assert chosen == {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "2,0"}
    sliced = visible_environment([replace(GPUS[1], mig=True, uuid="MIG-1")])
    assert sliced["CUDA_VISIBLE_DEVICES"] == "MIG-1"


def test_the_cpu_is_there_with_its_memory() -> None:
    (cpu,) = detect("cpu")
    assert cpu.kind == "cpu"
    assert cpu.name
    assert 0 < cpu.free_bytes <= cpu.utilization_base <= cpu.memory_bytes
    assert visible_environment([cpu]) == {}


def test_gpus_cannot_be_picked_on_a_cpu() -> None:
    with pytest.raises(BadUsage, match="--gpus 0"):
        detect("cpu", "0")


@pytest.mark.parametrize(
    ("percent", "same"), [(100, True), (101.9, True), (98.1, True), (102.1, False), (97.9, False)]
)
def test_a_little_more_or_less_free_memory_is_the_same_device(
    monkeypatch: pytest.MonkeyPatch, percent: float, same: bool
) -> None:
    before = replace(GPUS[0], free_bytes=10**10, limit_bytes=11 * 2**30)
    free = int(before.free_bytes * percent / 100)
    monkeypatch.setattr(device, "free_bytes", lambda _: free)
    now = refreshed(before)
    assert (now is before) is same
    assert now == before if same else now == replace(before, free_bytes=free)


def test_another_size_of_a_numa_node_is_a_change_however_small(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (cpu,) = detect("cpu")
    grown = replace(cpu, share_bytes=cpu.utilization_base + 1)
    monkeypatch.setattr(device, "_cpu", lambda: grown)
    assert refreshed(cpu) == grown
