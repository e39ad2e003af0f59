"""The largest rank that `--max-lora-rank` allows is tried, too."""

import json
from pathlib import Path

import pytest

from tests.support.adapters import make_adapter, tensors_of
from vllm_autotune.checkpoint.tensors import read_tensors
from vllm_autotune.launch.adapter import largest_rank
from vllm_autotune.vllm.config import LaunchConfig, Value

SIZES = {"self_attn.q_proj": (64, 96), "mlp.down_proj": (128, 64)}


def adapter(folder: Path, rank: int = 4, **settings: object) -> Path:
    return make_adapter(folder, rank, tensors_of(2, rank, SIZES), **settings)


def config(*modules: str, rank: int | None = 16) -> LaunchConfig:
    args: dict[str, Value] = {"enable-lora": True, "lora-modules": modules}
    return LaunchConfig("m", args | ({} if rank is None else {"max-lora-rank": str(rank)}))


@pytest.mark.parametrize("as_json", [False, True])
def test_a_larger_one_is_written_beside_the_adapters_that_are_given(
    tmp_path: Path, as_json: bool
) -> None:
    small = adapter(tmp_path / "small", rank_pattern={"q_proj": 8}, lora_dropout=0.1)
    word = json.dumps({"name": "small", "path": str(small)}) if as_json else f"small={small}"
    with largest_rank(config("other=some/name", word)) as found:
        modules = found.args["lora-modules"]
        assert isinstance(modules, tuple)
        *given, added = modules
        assert given == ["other=some/name", word]
        name, _, path = added.partition("=")
        assert name == "autotune-largest-rank"
        settings = json.loads((Path(path) / "adapter_config.json").read_text())
        assert (settings["r"], settings["lora_dropout"]) == (16, 0.1)
        assert "rank_pattern" not in settings
        tensors, _ = read_tensors(Path(path) / "adapter_model.safetensors")
    assert {name: tensor.shape for name, tensor in tensors.items()} == tensors_of(2, 16, SIZES)
    assert not Path(path).exists()


def test_nothing_is_written_where_it_would_not_be_larger(tmp_path: Path) -> None:
    small = adapter(tmp_path / "small")
    large = adapter(tmp_path / "large", rank=16)
    mixed = adapter(tmp_path / "mixed", rank_pattern={"q_proj": 16})
    for given in (
        config(f"small={small}", rank=None),  # vLLM's own, which nobody asked for
        config(f"small={small}", rank=4),
        config(f"small={small}", f"large={large}"),
        config(f"mixed={mixed}"),
    ):
        with largest_rank(given) as found:
            assert found == given


def test_an_adapter_that_cannot_be_read_is_left_to_vllm(tmp_path: Path) -> None:
    cut = adapter(tmp_path / "cut")
    (cut / "adapter_model.safetensors").write_bytes(b"\0" * 9)
    more = {"base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector": (64, 1)}
    odd = make_adapter(tmp_path / "odd", 4, {**tensors_of(2, 4, SIZES), **more})
    for word in (
        f"a={tmp_path / 'none'}",
        f"a={cut}",
        f"a={odd}",
        "a=hub/name",
        "{",
        '{"name": 1}',
    ):
        given = config(word)
        with largest_rank(given) as found:
            assert found == given
