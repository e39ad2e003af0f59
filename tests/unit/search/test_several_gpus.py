"""Several GPUs: which way a model is spread over them, how many are used, and what comes first."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.bench.several_gpus import run
from tests.support.memory_model import cards, default_ladder, engine, gather, install
from tests.support.paths import SHAPES
from vllm_autotune.checkpoint import Checkpoint, read_checkpoint
from vllm_autotune.search.facts import Facts
from vllm_autotune.search.fit import PIPELINE, TENSOR
from vllm_autotune.search.step import next_step, prospects
from vllm_autotune.search.trial import Candidate
from vllm_autotune.vllm.config import Value
from vllm_autotune.workload import Workload

STANDARD = Workload()
QUANTIZING = ("quantized-checkpoint", "fp8-weights", "4bit-weights")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp("site"))


class Host:
    """GPUs of one kind, and what is asked of them."""

    def __init__(self, site: Path, folder: Path) -> None:
        self.site, self.folder = site, folder

    def shape(self, name: str) -> Checkpoint:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text((SHAPES / f"{name}.json").read_text())
        return read_checkpoint(str(folder), weights_required=False)

    def facts(
        self,
        shape: str | Checkpoint,
        count: int,
        gib: float = 139.8,
        *,
        ladder: str = "default",
        skip: Sequence[str] = (),
        fixed: dict[str, Value] = {},
        workload: Workload = STANDARD,
    ) -> Facts:
        checkpoint = self.shape(shape) if isinstance(shape, str) else shape
        devices = cards("NVIDIA H200", gib, (9, 0), count)
        rungs = default_ladder(ladder).without(skip)
        vllm = engine(self.site)
        return gather(checkpoint, devices, workload, vllm, ladder=rungs, fixed=fixed)


@pytest.fixture
def host(site: Path, tmp_path: Path) -> Host:
    return Host(site, tmp_path)


def first(facts: Facts) -> Candidate:
    candidate = next_step(facts, ()).candidate
    assert candidate
    return candidate


def split(facts: Facts) -> tuple[int, int]:
    config = first(facts).config
    return config.tensor_parallel, config.pipeline_parallel


@pytest.mark.parametrize(
    ("gpus", "wanted"),
    [(1, (1, 1)), (2, (2, 1)), (3, (1, 3)), (4, (4, 1)), (5, (1, 5)), (6, (2, 3)), (7, (1, 7)),
     (8, (4, 2))],
)  # fmt: skip
def test_all_gpus_are_used_where_heads_divide_and_where_they_do_not(
    host: Host, gpus: int, wanted: tuple[int, int]
) -> None:
    """28 heads and 4 KV heads: layers are split by 2 and 4, and dealt out for the rest."""
    assert split(host.facts("qwen2.5-7b", gpus, ladder="all-gpus")) == wanted


def test_all_gpus_keep_what_one_gives_up(host: Host) -> None:
    squeezed, spread = (
        first(host.facts("qwen2.5-72b", 2, ladder=ladder)) for ladder in ("default", "all-gpus")
    )
    assert "shorter-context" in [rung.name for rung in squeezed.rungs]
    assert [rung.name for rung in spread.rungs] == ["tensor-parallel"]
    assert spread.predicted.fits == "yes"


def test_idle_gpus_come_before_host_memory(host: Host) -> None:
    found = first(host.facts("qwen2.5-72b", 4, 47.4, skip=QUANTIZING))
    assert found.config.tensor_parallel == 4
    assert found.config.cpu_offload_gib == 0
    assert found.config.max_model_len is None


@pytest.mark.parametrize(
    ("least", "gpus", "wanted"), [(1, 4, (1, 1)), (2, 4, (2, 1)), (3, 4, (4, 1)), (6, 8, (2, 3))]
)
def test_at_least_so_many_gpus_as_asked_for(
    host: Host, least: int, gpus: int, wanted: tuple[int, int]
) -> None:
    assert split(host.facts("qwen2.5-7b", gpus, workload=Workload(min_gpus=least))) == wanted


def test_the_least_number_of_gpus_holds_for_every_candidate(host: Host) -> None:
    facts = host.facts("qwen2.5-72b", 4, 20, workload=Workload(min_gpus=4))
    for _, candidate, _ in prospects(facts):
        assert candidate is None or candidate.config.world_size == 4


def test_both_ways_together_where_neither_is_enough(host: Host) -> None:
    """14 heads and 2 KV heads are split by 2 only; 20 GiB a card need four."""
    odd = replace(host.shape("qwen2.5-32b"), heads=14, kv_heads=2, head_dim=128)
    facts = host.facts(odd, 4, 20, skip=QUANTIZING, workload=Workload(context=4096))
    assert split(facts) == (2, 2)


def test_gpus_that_the_users_own_arguments_use_are_completed(host: Host) -> None:
    fixed: dict[str, Value] = {TENSOR: "2"}
    facts = host.facts("qwen2.5-7b", 4, fixed=fixed, workload=Workload(min_gpus=4))
    assert split(facts) == (2, 2)
    assert first(facts).config.args[TENSOR] == "2"


def test_a_vocabulary_must_divide_too(host: Host) -> None:
    """49,152 padded words are 3 times 16,384, but 49,160 in steps of 64 are 49,216."""
    model = replace(host.shape("qwen2.5-7b"), heads=36, kv_heads=3, intermediate_size=18945)
    even, odd = (replace(model, vocab_size=words) for words in (49_152, 49_160))
    assert split(host.facts(even, 3, ladder="all-gpus")) == (3, 1)
    assert split(host.facts(odd, 3, ladder="all-gpus")) == (1, 3)


def test_experts_are_dealt_out_whole_where_they_cannot_be_divided(host: Host) -> None:
    """2560 over 8 GPUs are 320, and 128 does not divide that (Qwen3-Coder-480B in fp8)."""
    model = replace(
        host.shape("qwen2.5-7b"), heads=96, kv_heads=8, experts=160, expert_size=2560,
        intermediate_size=0, block=128, quantization="fp8",
    )  # fmt: skip
    found = first(host.facts(model, 8, ladder="all-gpus"))
    assert found.config.tensor_parallel == 8
    assert found.config.expert_parallel
    plain = first(host.facts(model, 4, ladder="all-gpus"))
    assert plain.config.tensor_parallel == 4
    assert not plain.config.expert_parallel


def test_every_value_in_a_rung_is_that_of_the_candidate(host: Host) -> None:
    """Whatever a later rung changes of what an earlier one set."""
    for gpus in (2, 4, 6, 8):
        for shape, gib in (("qwen2.5-72b", 24), ("qwen2.5-7b", 10)):
            facts = host.facts(shape, gpus, gib, skip=QUANTIZING)
            for _, candidate, _ in prospects(facts):
                for applied in candidate.rungs if candidate else ():
                    assert candidate
                    assert applied.args.items() <= candidate.config.args.items()


def test_a_pipeline_has_no_more_stages_than_layers(host: Host) -> None:
    short = replace(host.shape("qwen2.5-7b"), layers=3, heads=27, kv_heads=27)
    assert split(host.facts(short, 8, ladder="all-gpus")) == (1, 3)
    assert PIPELINE in first(host.facts(short, 8, ladder="all-gpus")).config.args


@pytest.mark.slow
def test_no_host_regrets_what_it_gave_up() -> None:
    """Of 1, 2, 4 and 8 GPUs, busy ones among them; every 40th cell of what `make bench` walks."""
    found, cells = run(250)
    launched = [cell.launches for cell in cells if cell.launches]
    assert sum(cell.idle < cell.gpus for cell in cells) > 50
    assert sorted(launched)[len(launched) // 2] == 1
    assert sorted(launched)[int(len(launched) * 0.95)] <= 2
    assert max(launched) <= 4
    regrets = found["regrets"]
    assert isinstance(regrets, dict)
    assert "weights on the host, though the GPUs could hold them" not in regrets
    # A hybrid with 0.8 GiB for the states and tokens of eight: what vLLM prints has two decimals.
    assert regrets.get("a shorter context than the same configuration can have", 0) <= 1
    assert regrets.get("a dearer rung than needed", 0) <= len(cells) * 0.05
