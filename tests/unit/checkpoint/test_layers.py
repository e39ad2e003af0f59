"""What the layers of a model keep in memory."""

from pathlib import Path

from tests.support.small_model import SMALL, make, of_shape
from vllm_autotune.checkpoint import read_checkpoint


def test_an_unknown_architecture_is_said_to_be_unknown(tmp_path: Path) -> None:
    config = {**SMALL, "model_type": "from_the_future", "architectures": ["FutureLM"]}
    found = read_checkpoint(str(make(tmp_path, config)))
    assert found.layer_groups is None
    assert found.weight_bytes


def test_layer_types_that_are_written_out_are_those_of_the_default_pattern(tmp_path: Path) -> None:
    written = of_shape(tmp_path / "written", "gpt-oss-20b")
    default = of_shape(tmp_path / "default", "gpt-oss-20b", layer_types=None)
    assert {group.kind for group in written.layer_groups or ()} == {"sliding", "full"}
    assert default.layer_groups == written.layer_groups


def test_qwen_has_a_window_only_from_the_layer_it_names(tmp_path: Path) -> None:
    window = {"sliding_window": 1024, "max_window_layers": 8}
    for used, groups in ((False, {"full": 28}), (True, {"full": 8, "sliding": 20})):
        found = of_shape(tmp_path / str(used), "qwen2.5-7b", use_sliding_window=used, **window)
        assert {group.kind: group.count for group in found.layer_groups or ()} == groups
