"""A model that takes images, on a device that has no room for the largest: what is given up."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.memory_model import FLAGS, install
from tests.support.tiny_image_model import make_tiny_image_model
from tests.support.tuning import SERVING, Place

MULTIMODAL = ("limit-mm-per-prompt", "mm-processor-kwargs", "language-model-only")
ROOMY = ("--memory-limit", "3GiB", "--min-context", "1024")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place.make(tmp_path, make_tiny_image_model(tmp_path / "tiny-idefics3"))
    install(tmp_path / "site", (*FLAGS, *SERVING, *MULTIMODAL), "0.32.0")
    yield place
    shutil.rmtree(place.temporary)


def tuned(place: Place, *options: str, **script: Any) -> dict[str, Any]:
    done = place.run(*ROOMY, *options, kv_bytes_per_token=8192, **script)
    report = place.report()
    assert (done.returncode == 0) == (report["status"] == "stable"), done.stderr
    return report


def rungs_of(report: dict[str, Any]) -> set[str]:
    return set(report["winner"]["rungs"]) - {"utilization", "shorter-context"}


def test_videos_that_are_too_large_to_try_out_are_given_up_first(place: Place) -> None:
    report = tuned(place, image_tokens=3000, video_tokens=9000, media_limit=4000)
    first, second = report["trials"]
    assert (first["outcome"]["cause"], first["outcome"]["phase"]) == (
        "images_out_of_memory",
        "profile",
    )
    assert first["readings"]["modality"] == "video"
    assert rungs_of(report) == {"fewer-images"}
    assert json.loads(report["winner"]["args"]["limit-mm-per-prompt"]) == {"image": 1, "video": 0}
    assert second["readings"]["modality"] == "image"


def test_images_that_are_too_large_are_made_smaller(place: Place) -> None:
    report = tuned(place, image_tokens=9000, media_limit=4000)
    assert len(report["trials"]) == 2
    assert rungs_of(report) == {"smaller-images"}
    args = report["winner"]["args"]
    assert json.loads(args["mm-processor-kwargs"]) == {"size": {"longest_edge": 224}}
    skipped = {skip["rung"]: skip["reason"] for skip in report["skipped"]}
    assert "a step would have 1 image from" in skipped["fewer-images"]


def test_where_not_even_the_smallest_image_fits_text_alone_is_served(place: Place) -> None:
    report = tuned(place, image_tokens=9000, media_limit=100)
    assert rungs_of(report) == {"text-only"}
    assert report["winner"]["args"]["language-model-only"] is True
    assert "images" in " ".join(report["winner"]["gives_up"])
    checks = [check["name"] for check in report["winner"]["certificate"]["checks"]]
    assert "an image too many" in checks
    assert "image" not in checks


def test_text_alone_is_no_answer_for_who_asks_for_images(place: Place) -> None:
    report = tuned(place, "--probe-image", image_tokens=9000, media_limit=100)
    assert report["status"] == "exhausted"
    skipped = {skip["rung"]: skip["reason"] for skip in report["skipped"]}
    assert skipped["text-only"] == "you ask for answers about images: --probe-image"


def test_what_fits_gives_no_image_up(place: Place) -> None:
    report = tuned(place, image_tokens=3000, media_limit=4000)
    assert len(report["trials"]) == 1
    assert rungs_of(report) == set()
