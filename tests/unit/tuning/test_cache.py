"""The cache: keys, answers, what launches measured, and what is deleted."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.memory_model import CARDS, cards
from tests.support.reports import STABLE, make_report, trial
from vllm_autotune.errors import BadReport, CannotWrite
from vllm_autotune.files import safe_name
from vllm_autotune.machine.cards import hypothetical_devices, kind_slug
from vllm_autotune.memory import Boot
from vllm_autotune.search.facts import Facts
from vllm_autotune.tuning.cache import MOST_BOOTS, AnswerCache, cache_key
from vllm_autotune.tuning.journal import Run
from vllm_autotune.workload import Effort

KEY = "nvidia-l4-23g-x1/model@local/0123456789abcdef"


def devices(facts: Facts, **changed: Any) -> Facts:
    return replace(facts, devices=tuple(replace(d, **changed) for d in facts.devices))


def probe(facts: Facts, **how: Any) -> Facts:
    return replace(facts, workload=replace(facts.workload, probe=Effort(**how)))


CHANGES: dict[str, Callable[[Facts], Facts]] = {
    "the weights": lambda f: replace(
        f, checkpoints={f.model: replace(f.checkpoint, digest="other")}
    ),
    "a sibling": lambda f: replace(f, checkpoints={**f.checkpoints, "m-AWQ": f.checkpoint}),
    "the context": lambda f: replace(f, workload=replace(f.workload, context=2048)),
    "the shortest context": lambda f: replace(f, workload=replace(f.workload, min_context=9)),
    "the concurrency": lambda f: replace(f, workload=replace(f.workload, concurrency=2)),
    "how hard it is tried": lambda f: probe(f, effort="quick"),
    "a longer soak": lambda f: probe(f, effort="soak", soak_minutes=20),
    "the user's requests": lambda f: probe(f, file="own.jsonl", digest="1"),
    "an image": lambda f: probe(f, image=True),
    "a schema": lambda f: probe(f, schema=True),
    "a tool": lambda f: probe(f, tool=True),
    "no choice of vLLM's": lambda f: replace(f, workload=replace(f.workload, exact=True)),
    "a fixed argument": lambda f: replace(f, fixed={"dtype": "half"}),
    "a variable of vLLM": lambda f: replace(f, env={"VLLM_X": "1"}),
    "the ladder": lambda f: replace(f, ladder=replace(f.ladder, text="other")),
    "a skipped rung": lambda f: replace(f, ladder=f.ladder.without(["fp8-weights"])),
    "the headroom": lambda f: replace(f, headroom_bytes=1),
    "vLLM": lambda f: replace(f, engine=replace(f.engine, version="0.27.0")),
    "the memory": lambda f: devices(f, memory_bytes=2**35),
    "the limit": lambda f: devices(f, limit_bytes=2**33),
    "MIG": lambda f: devices(f, mig=True),
    "the card": lambda f: devices(f, name="NVIDIA L40"),
    "the count": lambda f: replace(f, devices=f.devices[:1]),
}
SAME: dict[str, Callable[[Facts], Facts]] = {
    "nothing": lambda f: f,
    "which card of its kind": lambda f: devices(f, uuid="GPU-9", index=7),
    "what is free": lambda f: devices(f, free_bytes=2**30),
    "the driver": lambda f: devices(f, driver="580.1"),
    "what a driver leaves of the memory": lambda f: devices(f, memory_bytes=22 * 2**30),
    "torch": lambda f: replace(f, engine=replace(f.engine, torch="3.0")),
    "the build of vLLM": lambda f: replace(
        f, engine=replace(f.engine, version=f"{f.engine.version}+cu130")
    ),
    "the host's memory": lambda f: replace(f, host_free_bytes=1),
    "what is not written down": lambda f: replace(f, withheld={"hf-token": "hf_secret"}),
}


@pytest.mark.parametrize("what", CHANGES)
def test_the_key_changes_with_what_could_change_the_answer(facts: Facts, what: str) -> None:
    assert cache_key(CHANGES[what](facts)) != cache_key(facts)


@pytest.mark.parametrize("what", SAME)
def test_the_key_does_not_change_with_anything_else(facts: Facts, what: str) -> None:
    assert cache_key(SAME[what](facts)) == cache_key(facts)


@pytest.mark.parametrize("card", CARDS, ids=[card[0] for card in CARDS])
def test_the_key_is_the_same_for_a_gpu_that_is_not_here(
    facts: Facts, card: tuple[str, float, tuple[int, int], int]
) -> None:
    here = replace(facts, devices=cards(*card))
    elsewhere = hypothetical_devices(f"{card[3]} x {card[0]}", None, None)
    assert cache_key(replace(facts, devices=tuple(elsewhere))) == cache_key(here)


def test_a_slice_of_a_card_and_a_card_of_another_size_are_no_such_card() -> None:
    """A name alone says too little."""
    (device,) = hypothetical_devices("H100", None, None)
    mig = replace(device, name="NVIDIA H100 80GB HBM3 MIG 1g.10gb", memory_bytes=10 * 2**30)
    smaller = replace(device, memory_bytes=64 * 2**30)
    assert kind_slug(device) == "nvidia-h100-79g"
    assert kind_slug(mig) == mig.slug == "nvidia-h100-80gb-hbm3-mig-1g-10gb-10g"
    assert kind_slug(smaller) == "h100-64g"


def test_fixed_arguments_have_no_order(facts: Facts) -> None:
    one = replace(facts, fixed={"dtype": "half", "seed": "1"})
    assert cache_key(one) == cache_key(replace(facts, fixed={"seed": "1", "dtype": "half"}))


def test_the_key_can_be_read(facts: Facts) -> None:
    gpu, model, digest = cache_key(facts).split("/")
    assert (gpu, model) == ("nvidia-l4-22g-x2", "tiny-qwen2@local")
    assert len(digest) == 16


TRICKS = ("../../etc", "..", "/", "", ".", "a/../../b", "~root", "a\nb", "-rf", "\0")


@pytest.mark.parametrize("name", [*TRICKS, "é" * 300, "x" * 300])
def test_no_name_leads_out_of_the_results_folder(facts: Facts, tmp_path: Path, name: str) -> None:
    tricked = replace(
        facts,
        model=name,
        checkpoints={name: replace(facts.checkpoint, revision=name)},
        devices=tuple(replace(d, name=name) for d in facts.devices),
    )
    results = tmp_path / "results"
    key = cache_key(tricked)
    run = Run.create(results, key, "2026-01-01T00:00:00+00:00")
    assert run.folder.resolve().is_relative_to(results.resolve())
    assert len(run.folder.relative_to(results).parts) == 3
    AnswerCache(tmp_path / "cache").remember(key, make_report())
    assert AnswerCache(tmp_path / "cache").keys() == [key]
    assert safe_name(name)


def test_an_answer_is_recalled_as_it_was_kept(tmp_path: Path) -> None:
    cache, report = AnswerCache(tmp_path / "cache"), make_report(trial(STABLE))
    assert cache.recall(KEY) is None
    cache.remember(KEY, report)
    assert cache.recall(KEY) == report
    assert cache.keys() == [KEY]
    assert cache.clear() == 1
    assert cache.keys() == []
    assert cache.recall(KEY) is None


def test_a_cache_is_tagged_and_private(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    AnswerCache(folder).remember(KEY, make_report())
    tag = (folder / "CACHEDIR.TAG").read_text()
    assert tag.startswith("Signature: 8a477f597d28d172789f06886806bc55")
    assert folder.stat().st_mode & 0o077 == 0


def test_a_folder_that_is_no_cache_is_not_cleared(tmp_path: Path) -> None:
    entry = tmp_path / "photos" / "2026" / "index.json"
    entry.parent.mkdir(parents=True)
    entry.write_text("{}")
    for forget in (AnswerCache(tmp_path).clear, lambda: AnswerCache(tmp_path).prune(0)):
        with pytest.raises(CannotWrite, match=r"CACHEDIR\.TAG"):
            forget()
    assert entry.exists()


def test_old_answers_and_broken_ones_are_pruned(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path / "cache")
    new, old, broken = (KEY.replace("model", name) for name in ("new", "old", "broken"))
    for key in (new, old, broken):
        cache.remember(key, make_report())
    (cache.folder / f"{broken}.json").write_text("{")
    os.utime(cache.folder / f"{old}.json", (0, 0))
    assert cache.prune(90) == [broken, old]
    assert cache.keys() == [new]


@pytest.mark.parametrize("key", ["", "a/b", "../../b/0123456789abcdef", "a/../0123456789abcdef"])
def test_an_answer_is_kept_under_a_key_of_ours_only(tmp_path: Path, key: str) -> None:
    with pytest.raises(BadReport, match="is not the key of an answer"):
        AnswerCache(tmp_path / "cache").remember(key, make_report())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "{", "null", '{"schema_version": 1}', "\ud800"])
def test_an_entry_that_is_broken_is_ignored_with_a_reason(tmp_path: Path, text: str) -> None:
    path = tmp_path / f"{KEY}.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    answer = AnswerCache(tmp_path).recall(KEY)
    assert isinstance(answer, str)
    assert "is ignored" in answer


MEASURED = Boot(
    model="digest",
    architecture="Qwen2ForCausalLM",
    args={"max-num-seqs": 64, "enforce-eager": True, "middleware": ("a", "b"), "dtype": "half"},
    env={"VLLM_USE_V2_MODEL_RUNNER": "0"},
    weights=5.0,
    overhead=None,
)


def notes(cache: AnswerCache, facts: Facts) -> tuple[Facts, list[str]]:
    said: list[str] = []
    return cache.with_boots(facts, said.append), said


def test_measurements_are_kept_for_one_kind_of_device_and_vllm(
    tmp_path: Path, facts: Facts
) -> None:
    cache = AnswerCache(tmp_path / "cache")
    assert notes(cache, facts) == (facts, [])
    cache.prepare()
    cache.add_boot(facts, MEASURED)
    cache.add_boot(facts, replace(MEASURED, weights=6.0))
    learned, said = notes(cache, facts)
    assert [m.weights for m in learned.boots] == [5.0, 6.0]
    assert learned.boots[0] == MEASURED
    assert said == []
    assert cache_key(learned) == cache_key(facts)
    for other in (
        devices(facts, name="NVIDIA L40"),
        replace(facts, engine=replace(facts.engine, version="0.27.0")),
    ):
        assert notes(cache, other)[0].boots == ()


def test_the_oldest_measurements_are_forgotten(tmp_path: Path, facts: Facts) -> None:
    cache = AnswerCache(tmp_path / "cache")
    for number in range(MOST_BOOTS + 3):
        cache.add_boot(facts, replace(MEASURED, weights=float(number)))
    kept = [m.weights for m in notes(cache, facts)[0].boots]
    assert kept == [float(number) for number in range(3, MOST_BOOTS + 3)]


@pytest.mark.parametrize("text", ["", "{", "[1]", '[{"model": "x"}]', "\x00"])
def test_broken_measurements_are_left_aside_with_a_note_and_replaced(
    tmp_path: Path, facts: Facts, text: str
) -> None:
    cache = AnswerCache(tmp_path / "cache")
    cache.add_boot(facts, MEASURED)
    (path,) = (tmp_path / "cache" / "measured").iterdir()
    path.write_text(text)
    learned, (note,) = notes(cache, facts)
    assert learned == facts
    assert str(path) in note
    cache.add_boot(facts, MEASURED)
    assert notes(cache, facts)[0].boots == (MEASURED,)


def test_measurements_are_cleared_with_the_answers(tmp_path: Path, facts: Facts) -> None:
    cache = AnswerCache(tmp_path / "cache")
    cache.add_boot(facts, MEASURED)
    with pytest.raises(CannotWrite, match="may not be a cache"):
        cache.clear()
    cache.prepare()
    cache.remember(KEY, make_report())
    assert cache.keys() == [KEY]
    assert cache.clear() == 1
    assert notes(cache, facts)[0].boots == ()
