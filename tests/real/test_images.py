"""A model that takes images, served by a real vLLM."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.adapters import make_adapter, tensors_of
from tests.support.real import Place
from tests.support.tiny_image_model import INNER, LAYERS, WIDTH, make_tiny_image_model
from vllm_autotune.checkpoint import read_checkpoint
from vllm_autotune.memory.images import image_sizes

pytestmark = [pytest.mark.real, pytest.mark.timeout(2400)]

FIXED = ("--dtype", "float32", "--max-num-seqs", "8")
LARGE = ("--memory-limit", "2500MiB", "--max-launches", "1", "--json")
CONTEXT = 2048
# Four tiles and the whole, 16 tokens each, with what stands between them.
TOKENS = 5 * 16


@pytest.fixture
def place(tmp_path: Path, vllm_python: str) -> Place:
    model = make_tiny_image_model(tmp_path / "tiny-idefics3", context=CONTEXT)
    return Place(tmp_path, model, vllm_python)


def winner_of(place: Place, *options: str, fixed: tuple[str, ...] = ()) -> dict[str, Any]:
    done = place.run(*LARGE, *options, fixed=(*FIXED, *fixed))
    assert done.returncode == 0, done.stderr
    winner: dict[str, Any] = json.loads(done.stdout)["winner"]
    return winner


def test_images_are_answered_beside_text_and_one_that_is_too_large_is_refused(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody asked for images: the model takes them."""
    monkeypatch.setenv("VLLM_MAX_IMAGE_PIXELS", str(1500 * 1500))
    winner = winner_of(place)
    checks = {check["name"]: check for check in winner["certificate"]["checks"]}
    beside = checks["images beside text"]
    assert beside["requests"] > 8
    assert beside["prompt_tokens"] > 0.9 * CONTEXT
    words = beside["note"].split()
    assert words[1:6] == ["of", "64", "x", "64", "pixels,"]
    assert TOKENS < int(words[6]) < 1.3 * TOKENS
    assert checks["odd images"]["note"] == "3 more were refused"
    # The image of 2,048 pixels to a side, three that are none, and one beside too long a text.
    (log,) = place.results.rglob("trial-01.log")
    assert log.read_text().count('/v1/chat/completions HTTP/1.1" 400') == 5


def test_what_makes_images_smaller_and_fewer_does_so_and_adapters_are_asked(
    place: Place,
) -> None:
    """An adapter of the largest rank that is allowed joins the one that is given."""
    smallest = image_sizes(read_checkpoint(str(place.model)))[-1]
    sizes = {"self_attn.q_proj": (WIDTH, WIDTH), "mlp.down_proj": (INNER, WIDTH)}
    tensors = tensors_of(LAYERS, 8, sizes, "model.text_model")
    adapter = make_adapter(place.folder / "adapter", 8, tensors)
    fixed = (
        *("--limit-mm-per-prompt", '{"image": 2}', "--mm-processor-kwargs", smallest.kwargs),
        *("--enable-lora", "--max-lora-rank", "16", "--lora-modules", f"small={adapter}"),
    )
    checks = {c["name"]: c for c in winner_of(place, fixed=fixed)["certificate"]["checks"]}
    words = checks["images beside text"]["note"].split()
    assert words[:2] == ["2", "of"]
    assert smallest.tokens <= int(words[6]) < TOKENS / 3
    assert "an image too many" in checks
    assert checks["adapters"]["requests"] == 4  # each alone, then both
    (log,) = place.results.rglob("trial-01.log")
    assert "autotune-largest-rank" in log.read_text()
