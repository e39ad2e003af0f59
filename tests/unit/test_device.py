"""Devices: names, what a child may see, and the CPU of this machine."""

from dataclasses import replace

import pytest

from tests.unit.memory_model import cards
from vllm_autotune.device import detect, refreshed, visible_environment
from vllm_autotune.errors import BadUsage

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
    assert 0 < cpu.free_bytes <= cpu.shared_out <= cpu.memory_bytes
    assert visible_environment([cpu]) == {}


def test_gpus_cannot_be_picked_on_a_cpu() -> None:
    with pytest.raises(BadUsage, match="--gpus 0"):
        detect("cpu", "0")


def test_a_little_more_or_less_free_memory_is_the_same_device() -> None:
    (cpu,) = detect("cpu")
    roomy = replace(cpu, free_bytes=2**60)
    assert refreshed(roomy).free_bytes < 2**50
    assert refreshed(roomy).limit_bytes == roomy.limit_bytes
