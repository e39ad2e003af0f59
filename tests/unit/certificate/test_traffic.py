"""What is sent: within every bound of the server, and exactly where it matters."""

import math
from dataclasses import replace
from typing import Literal

from hypothesis import given
from hypothesis import strategies as st

from vllm_autotune.certificate.traffic import SHORT_OUTPUT, SHORT_PROMPT, Burst, Sight, Traffic
from vllm_autotune.probe.target import Target
from vllm_autotune.workload import Effort, Workload

SHORT = SHORT_PROMPT + SHORT_OUTPUT
EFFORTS: tuple[Literal["quick", "standard", "soak"], ...] = ("quick", "standard", "soak")
efforts = st.sampled_from(EFFORTS)


def target(length: int, sequences: int = 8, kv: int | None = None, **more: object) -> Target:
    return Target(
        url="http://127.0.0.1:1",
        model="m",
        max_model_len=length,
        max_num_seqs=sequences,
        vocab_size=1000,
        kv_tokens=kv,
        **more,  # type: ignore[arg-type]
    )


@st.composite
def traffics(draw: st.DrawFn) -> Traffic:
    length = draw(st.integers(2, 200_000))
    shared = draw(st.booleans())
    kv = draw(st.none() | st.integers(length, 20 * length))
    return Traffic(
        target=target(
            length,
            draw(st.integers(1, 1024)),
            kv,
            max_num_batched_tokens=draw(st.none() | st.integers(1, 100_000)),
            shared=shared,
        ),
        workload=Workload(
            concurrency=draw(st.integers(1, 16)),
            output_tokens=draw(st.integers(1, 64)),
            probe=Effort(effort=draw(efforts)),
        ),
        tokens_per_second=draw(st.just(math.inf) | st.floats(0.5, 1e6)),
        room=draw(st.integers(2, 2 * length)) if shared else None,
    )


def every(from_: Traffic) -> list[Burst]:
    return [
        from_.one_short(),
        from_.full_context(),
        from_.long_prompts(),
        from_.short_prompts(),
        from_.batch_plus(1),
        from_.batch_plus(-1),
        from_.mixed_lengths(),
        from_.abandoned(),
    ]


@given(traffics())
def test_no_request_is_longer_than_the_context_or_one_too_many(sized: Traffic) -> None:
    for burst in every(sized):
        assert len(burst.requests) <= sized.target.max_num_seqs
        for prompt, output in burst.requests:
            assert prompt >= 1
            assert output >= 1
            assert prompt + output <= sized.target.max_model_len


@given(traffics())
def test_what_is_left_out_says_why(sized: Traffic) -> None:
    for burst in every(sized):
        assert burst.requests or burst.note


@given(traffics())
def test_the_full_context_is_shortened_for_others_alone(sized: Traffic) -> None:
    longest, full = sized.target.max_model_len, sized.full_context()
    assert full.tokens == min(longest, longest if sized.room is None else sized.room)
    assert (full.note is not None) == (full.tokens < longest)


@given(traffics())
def test_the_wanted_concurrency_is_proven_however_slow_it_is(sized: Traffic) -> None:
    asked = min(sized.workload.concurrency, sized.target.max_num_seqs)
    if asked > 1 and sized.room is None:
        at_full_length = [
            r for r in sized.long_prompts().requests if sum(r) == sized.target.max_model_len
        ]
        assert len(at_full_length) >= asked


@given(traffics())
def test_what_arrives_meanwhile_fits_in_beside_the_rest(sized: Traffic) -> None:
    cache = sized.target.kv_tokens or sized.target.max_model_len
    room = cache if sized.room is None else min(cache, sized.room)
    if room >= 9 * SHORT:
        assert sized.mixed_lengths().tokens <= room
        assert sized.abandoned().tokens <= room


def test_a_batch_is_met_to_the_token() -> None:
    sized = Traffic(target=target(2048, kv=16384, max_num_batched_tokens=8192), workload=Workload())
    for more in (-1, 1):
        burst = sized.batch_plus(more)
        assert sum(prompt for prompt, _ in burst.requests) == 8192 + more
        assert len(burst.requests) == 5


def test_a_model_that_pools_writes_nothing() -> None:
    traffic = Traffic(target=target(2048, pooling=True), workload=Workload())
    assert traffic.one_short().requests == ((SHORT, 0),)
    assert traffic.short_prompts().requests == ((SHORT, 0),) * 8


def test_the_cache_is_filled_by_many_or_by_as_many_as_there_is_time_for() -> None:
    roomy = target(1000, sequences=100, kv=10_000)
    fast = Traffic(target=roomy, workload=Workload())
    assert [len(fast.long_prompts().requests), fast.long_prompts().tokens] == [8, 8000]
    assert fast.long_prompts().note == "8 at once instead of 10"
    slow = Traffic(target=roomy, workload=Workload(), tokens_per_second=100)
    assert slow.long_prompts().note == "3 at once instead of 10"
    slower = Traffic(target=roomy, workload=Workload(), tokens_per_second=50)
    assert slower.long_prompts().note == "skipped: would take about 40 s"
    assert slower.full_context().tokens == 1000


sights = st.builds(
    Sight,
    width=st.just(448),
    height=st.just(448),
    tokens=st.integers(1, 20_000),
    seconds=st.floats(1e-3, 100),
    beside=st.integers(1, 100),
    word=st.floats(1 / 64, 3),
)


@given(traffics(), sights, st.integers(0, 999) | st.none())
def test_images_and_text_fit_into_the_context_together(
    sized: Traffic, sight: Sight, allowed: int | None
) -> None:
    longest = sized.target.full_context
    if sized.room is not None or not sight.fits(longest):
        return
    album = replace(sized, target=replace(sized.target, images=allowed)).album(sight)
    assert 1 <= album.images <= (allowed or 1)
    assert 1 <= album.at_once <= sized.target.max_num_seqs
    read = sight.beside + album.images * sight.tokens + album.words * sight.word
    assert read + SHORT_OUTPUT <= longest


def test_as_many_images_as_there_is_time_for_and_text_in_the_place_of_the_others() -> None:
    roomy = target(10_000, sequences=100, kv=40_000, images=999)
    sight = Sight(width=9, height=9, tokens=1000, seconds=0.1, beside=20, word=2.0)
    full = Traffic(target=roomy, workload=Workload()).album(sight)
    assert (full.images, full.words, full.at_once, full.note) == (9, 386, 4, None)
    slow = Traffic(target=roomy, workload=Workload()).album(replace(sight, seconds=4.0))
    assert (slow.images, slow.words, slow.at_once) == (2, 3886, 2)
    assert slow.note == "2 of 9 images; 2 at once instead of 4"
    few = Traffic(target=replace(roomy, images=3), workload=Workload()).album(sight)
    assert (few.images, few.words, few.note) == (3, 3386, None)
