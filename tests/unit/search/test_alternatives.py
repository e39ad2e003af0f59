"""What else could be served: true to its command, different from the answer, and listed once."""

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.command import Autotune
from tests.support.memory_model import (
    CARDS,
    WORKLOADS,
    cards,
    checkpoints,
    default_ladder,
    engine,
    gather,
    install,
)
from tests.support.planning import DUMMY, model, site
from vllm_autotune.checkpoint import Checkpoint
from vllm_autotune.machine.device import Device
from vllm_autotune.search.alternatives import Alternative, Change, Served, alternatives, served_by
from vllm_autotune.search.facts import Facts
from vllm_autotune.search.step import next_step
from vllm_autotune.vllm.engine import Engine
from vllm_autotune.workload import Workload

__all__ = ["model", "site"]

World = tuple[dict[str, Checkpoint], Engine]
SHAPES = ("qwen2.5-7b", "qwen2.5-72b", "qwen3-30b-a3b", "gemma-2-9b", "deepseek-v2-lite", "phi-4")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    vllm = engine(install(tmp_path_factory.mktemp("site")))
    return checkpoints(tmp_path_factory.mktemp("shapes")), vllm


def found_by(facts: Facts) -> Served | None:
    candidate = next_step(facts, ()).candidate
    return served_by(facts, candidate.config, candidate.predicted) if candidate else None


def listed(facts: Facts) -> dict[str, Alternative]:
    return {a.name: a for a in alternatives(facts, found_by(facts))}


def h200s(world: World, shape: str, count: int, ladder: str = "default") -> Facts:
    devices = cards("NVIDIA H200", 139.8, (9, 0), count)
    shapes, vllm = world
    return gather(shapes[shape], devices, Workload(), vllm, ladder=default_ladder(ladder))


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
@given(
    shape=st.sampled_from(SHAPES),
    card=st.sampled_from(CARDS),
    count=st.sampled_from((1, 2, 3, 4, 8)),
    workload=st.sampled_from(WORKLOADS),
    ladder=st.sampled_from(("default", "long-context", "low-latency", "all-gpus")),
)
def test_each_is_another_answer_and_none_beats_the_one_that_was_found(
    world: World,
    shape: str,
    card: tuple[str, float, tuple[int, int], int],
    count: int,
    workload: Workload,
    ladder: str,
) -> None:
    shapes, vllm = world
    devices = cards(*card[:3], count)
    facts = gather(shapes[shape], devices, workload, vllm, ladder=default_ladder(ladder))
    found = found_by(facts)
    others = alternatives(facts, found)
    assert len({a.name for a in others}) == len(others)
    assert len({a.candidate.config.fingerprint() for a in others}) == len(others)
    for one, other in combinations([a.served for a in others], 2):
        assert not one.is_like(other)
    for alternative in others:
        assert alternative.candidate.predicted.fits in ("yes", "perhaps")
        assert alternative.candidate.config.cpu_offload_gib == 0
        assert alternative.served.devices <= count
        assert next_step(alternative.facts, ()).candidate == alternative.candidate
        if found:
            assert not alternative.served.is_as_good(found)
            assert not found.is_as_good(alternative.served)
            assert not found.is_like(alternative.served)


@pytest.mark.parametrize("model", ["qwen2.5-7b", "qwen2.5-72b", "qwen3-30b-a3b"], indirect=True)
@pytest.mark.parametrize(
    "asked",
    [
        ("--device", "2 x H200"),
        ("--device", "4 x RTX 4090", "--min-context", "2k"),
        ("--device", "8 x RTX 3090", "--context", "16384", "--concurrency", "16"),
        ("--device", "A100 80GB", "--memory-limit", "40GiB", "--headroom", "1GiB", "--exact"),
        ("--device", "L40S", "--ladder", "long-context", "--skip", "fp8-weights"),
        ("--device", "T4", "--context", "4096", "--skip", "cpu-offload", "--probe-logprobs"),
    ],
)
def test_the_command_of_an_alternative_gives_the_numbers_it_promised(
    autotune: Autotune, model: Path, asked: Sequence[str]
) -> None:
    planned = json.loads(autotune("plan", "--json", "--model", model, *asked, *DUMMY).out)
    for other in planned["alternatives"]:
        program, *words = other["command"]
        assert program == "autotune"
        again = json.loads(autotune(words[0], "--json", *words[1:]).out)["first"]
        assert again, other["command"]
        proposal = again["proposal"]
        assert proposal["predicted"] == other["predicted"], other["command"]
        assert (proposal["fits"], proposal["devices"]) == (other["fits"], other["devices"])
        assert proposal["flags"] == flags_of(other["args"])


def flags_of(args: dict[str, object]) -> list[str]:
    words = []
    for name, value in args.items():
        words += [f"--{name}", *([] if value is True else [str(value)])]
    return words


def test_gpus_of_this_machine_are_named_by_their_indices(world: World) -> None:
    facts = h200s(world, "qwen2.5-72b", 4, "all-gpus")
    here: tuple[Device, ...] = tuple(replace(d, index=7 - d.index) for d in facts.devices)
    command = " ".join(listed(replace(facts, devices=here))["fewest-gpus"].command)
    assert command.startswith(f"autotune tune --model {facts.model} --gpus 7")


def test_one_card_that_is_squeezed_hears_of_the_second(world: World) -> None:
    """72B in bfloat16 on one of two idle H200s."""
    others = listed(h200s(world, "qwen2.5-72b", 2))
    both = others["all-gpus"].served
    assert (both.devices, both.weight_bits, both.tokens.low) == (2, 16, 32768)
    assert others["longest-context"].served.tokens.low == 32768
    assert "replicas" not in others  # one alone gives up context


def test_a_model_that_fits_on_one_gpu_can_be_copied(world: World) -> None:
    copied = listed(h200s(world, "qwen2.5-7b", 4))["replicas"]
    assert copied.served.replicas == copied.served.devices == 4
    assert "--data-parallel-size 4" in " ".join(copied.command)


def test_all_gpus_hear_of_fewer(world: World) -> None:
    fewest = listed(h200s(world, "qwen2.5-72b", 4, "all-gpus"))["fewest-gpus"]
    assert fewest.served.devices == 1


def test_what_does_not_fit_is_told_what_would(world: World) -> None:
    """16 sequences of 16,384 tokens in 24 GiB: fewer of them, or shorter ones."""
    shapes, vllm = world
    workload = Workload(context=16384, min_context=16384, concurrency=16)
    devices = cards("NVIDIA GeForce RTX 3090", 23.6, (8, 6), 1)
    facts = gather(shapes["qwen2.5-14b"], devices, workload, vllm)
    others = alternatives(facts, found_by(facts))
    fewer, shorter = (
        {a.name: a for a in others}[name] for name in ("most-sequences", "longest-context")
    )
    assert 0 < fewer.facts.workload.concurrency < 16
    assert fewer.served.tokens.low == 16384
    assert 0 < shorter.served.tokens.low < 16384
    assert shorter.facts.workload.concurrency == 16
    assert any(text.startswith("context: ") for text in shorter.gives_up)
    assert any(text.startswith("requests at once: ") for text in fewer.gives_up)


def test_quantized_weights_hear_of_whole_ones(world: World) -> None:
    shapes, vllm = world
    devices = cards("NVIDIA RTX 6000 Ada", 47.4, (8, 9), 4)
    others = listed(gather(shapes["qwen2.5-72b"], devices, Workload(), vllm))
    whole = others["nothing-quantized"].served
    assert (whole.weight_bits, whole.kv_bits, whole.devices) == (16, 16, 4)


def test_what_the_user_fixed_or_skipped_stays_so(world: World) -> None:
    facts = h200s(world, "qwen2.5-72b", 2)
    alone = replace(facts, ladder=facts.ladder.without(("tensor-parallel", "pipeline-parallel")))
    assert "all-gpus" not in listed(alone)
    fixed = replace(facts, fixed={"max-model-len": "2048", "max-num-seqs": "4"})
    assert not {"longest-context", "most-sequences"} & listed(fixed).keys()


def test_a_change_is_what_its_command_says(world: World) -> None:
    asked = {"model": ("m",), "skip": ("no-graphs",), "exact": ("",), "min-context": ("9",)}
    facts = replace(h200s(world, "qwen2.5-7b", 2), model="m", asked=asked, fixed={"dtype": "half"})
    command = Change(context=512, min_gpus=2, skip=("cpu-offload",)).command(facts)
    assert " ".join(command) == (
        "autotune tune --model m --skip no-graphs --skip cpu-offload --exact --context 512 "
        "--min-gpus 2 -- --dtype half"
    )
