"""Where a model is on disk: beside which others, or in the cache of the Hub."""

from pathlib import Path

import pytest

from tests.support.small_model import QUANTIZED, SMALL, make
from vllm_autotune.checkpoint import read_checkpoint
from vllm_autotune.checkpoint.local import neighbours
from vllm_autotune.errors import BadModel


@pytest.mark.parametrize(
    ("name", "quantized"),
    [
        *((f"M{rest}", True) for rest in ("-AWQ", "-GPTQ-Int4", "-FP8-dynamic", "_fp8", ".w8a8")),
        *((f"M{rest}", True) for rest in ("-quantized.w4a16", "-bnb-4bit", "-NVFP4A16")),
        *((f"M{rest}", False) for rest in ("", "-Instruct", "-Instruct-AWQ", "-v2", "-1.5-AWQ")),
        ("m-awq", True),
        ("Mistral-AWQ", False),
    ],
)
def test_only_words_of_quantization_make_a_name_the_same_model(
    tmp_path: Path, name: str, quantized: bool
) -> None:
    for folder in {"M", name}:
        (tmp_path / folder).mkdir()
    found = [path.name for _, path in neighbours(tmp_path / "M")]
    assert found == ([name] if quantized else [])


def test_a_name_is_looked_up_in_the_hub_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    for name, config in (
        ("org--Tiny", SMALL),
        ("org--Tiny-AWQ", QUANTIZED),
        ("org--Tiny-GPTQ", {**QUANTIZED, "vocab_size": 7}),
        ("other--Tiny-FP8", {**QUANTIZED, "architectures": ["Qwen2ForClassification"]}),
    ):
        repository = tmp_path / f"models--{name}"
        make(repository / "snapshots" / "abc123", config)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text("abc123")
    found = read_checkpoint("org/Tiny")
    assert found.revision == "abc123"
    assert found.siblings == ("org/Tiny-AWQ",)
    assert read_checkpoint("org/Tiny", "abc123").digest == found.digest
    for model, revision in (("org/Other", None), ("org/Tiny", "v2")):
        with pytest.raises(BadModel, match="neither a local folder nor in the Hugging Face cache"):
            read_checkpoint(model, revision)
