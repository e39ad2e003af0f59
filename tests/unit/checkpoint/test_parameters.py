"""How many parameters a model has, from its config.json alone."""

from pathlib import Path

import pytest

from tests.support.small_model import of_shape


def test_packed_shapes_come_to_the_size_of_their_published_files(tmp_path: Path) -> None:
    gpt_oss = of_shape(tmp_path / "gpt-oss", "gpt-oss-20b")
    assert gpt_oss.weight_bytes == pytest.approx(13.76e9, rel=0.01)
    deepseek = of_shape(tmp_path / "deepseek", "deepseek-v3")
    assert deepseek.weight_bytes == pytest.approx(671.03e9 + 1.85e9, rel=0.01)


def test_every_second_layer_is_sparse_beginning_with_the_second(tmp_path: Path) -> None:
    sizes = {"num_hidden_layers": 3, "intermediate_size": 9999}
    by_step = of_shape(tmp_path / "step", "qwen3-30b-a3b", **sizes, decoder_sparse_step=2)
    by_name = of_shape(tmp_path / "name", "qwen3-30b-a3b", **sizes, mlp_only_layers=[0, 2])
    assert by_step.weights == by_name.weights
