"""What a plan costs: counted, so that it says the same on every machine."""

from pathlib import Path

import pytest

from tests.support.command import child
from tests.support.memory_model import cards, checkpoints, default_ladder, engine, gather, install
from tests.support.planning import DUMMY, model, site
from tests.support.small_model import WEIGHTS, Tensors, make
from tests.support.work import counted
from vllm_autotune.checkpoint import Checkpoint, read_checkpoint
from vllm_autotune.checkpoint.tensors import read_header, role_of
from vllm_autotune.memory.footprint import estimate
from vllm_autotune.report.plan import make_plan
from vllm_autotune.search.build import build
from vllm_autotune.search.facts import Facts
from vllm_autotune.vllm.engine import Engine
from vllm_autotune.workload import Workload

__all__ = ["model", "site"]

LOADS = """
import sys
from contextlib import suppress
from vllm_autotune.cli import main
with suppress(SystemExit):
    main()
needless = ("httpx", "asyncio", "psutil", "huggingface_hub", "torch", "vllm", "yaml")
rooms = ("launch.launch", "certificate", "diagnose", "server.server", "deploy")
names = (*needless, *(f"vllm_autotune.{room}" for room in rooms))
print([name for name in names if sys.modules.get(name)])
"""


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    return checkpoints(tmp_path_factory.mktemp("shapes"))


@pytest.fixture(scope="module")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return engine(install(tmp_path_factory.mktemp("site")))


def on_many(checkpoint: Checkpoint, vllm: Engine, count: int) -> Facts:
    """The facts of a model that only a few of these GPUs together can hold."""
    devices = cards("NVIDIA H100 80GB HBM3", 79.2, (9, 0), count)
    return gather(checkpoint, devices, Workload(), vllm, ladder=default_ladder())


@pytest.mark.parametrize("shape", ["deepseek-v3", "llama-3.1-70b"])
def test_each_estimate_is_worked_out_once(
    shapes: dict[str, Checkpoint], vllm: Engine, shape: str
) -> None:
    """A plan over eight GPUs asks for some 1,600, most of them again."""
    facts = on_many(shapes[shape], vllm, 8)
    estimate.cache_clear()
    with counted(estimate, build) as runs:
        make_plan(facts)
    assert 0 < runs["build"] <= 300
    assert 0 < runs["estimate"] <= 600
    with counted(estimate) as again:
        make_plan(facts)
    assert not again


def test_twice_as_many_gpus_do_not_take_twice_the_candidates(
    shapes: dict[str, Checkpoint], vllm: Engine
) -> None:
    built = []
    for count in (16, 32):
        with counted(build) as runs:
            make_plan(on_many(shapes["deepseek-v3"], vllm, count))
        built.append(runs["build"])
    assert built[1] < 1.5 * built[0]


def test_experts_are_many_and_looked_at_together(tmp_path: Path) -> None:
    seen = {}
    for experts in (4, 64):
        more: Tensors = {
            f"model.layers.{layer}.mlp.experts.{number}.up_proj.weight": ("BF16", [32, 64])
            for layer in (0, 1)
            for number in range(experts)
        }
        folder = make(tmp_path / str(experts), tensors={**WEIGHTS, **more})
        with counted(role_of, read_header) as runs:
            found = read_checkpoint(str(folder))
        assert found.weights is not None
        assert found.weights.expert_bytes == 2 * experts * 2 * 32 * 64
        seen[experts] = runs
    assert seen[4] == seen[64]
    assert seen[64]["read_header"] == 1


def test_a_plan_loads_nothing_that_only_a_launch_or_a_deployment_needs(
    model: Path, site: Path
) -> None:
    ended = child("plan", "--model", str(model), "--device", "8 x H200", *DUMMY, code=LOADS)
    assert ended.out.endswith("\n[]\n"), ended.out + ended.err
