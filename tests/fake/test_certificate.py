"""What the certificate makes of servers: the sound are stable, and none that misbehaves is."""

import itertools
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.adapters import make_adapter, tensors_of
from tests.support.trial_bench import ARGS, CONTEXT, PATIENCE, SEQUENCES, Bench
from vllm_autotune.certificate import generation, vision
from vllm_autotune.certificate.certify import certify
from vllm_autotune.certificate.image import SHAPES
from vllm_autotune.certificate.items import generating_items
from vllm_autotune.certificate.traffic import SHORT_OUTPUT, SHORT_PROMPT, TURNS
from vllm_autotune.outcome import Certificate, Crashed, Degraded, FailedOutcome, Hung, Stable
from vllm_autotune.probe.target import Patience
from vllm_autotune.probe.watch import HostMemory
from vllm_autotune.units import GIB
from vllm_autotune.vllm.config import Value
from vllm_autotune.workload import Effort, Workload

QUICK = Workload(probe=Effort(effort="quick"))
ITEMS = {
    "one by one": 4,
    "full context": 1,
    "long prompts at once": 8,
    "a batch and a bit": 1,
    "just under a batch": 1,
    "long and short mixed": 8,
    "a session that grows": 7 * 4,
    "many short prompts": SEQUENCES,
    "client that leaves": 2,
    "over-long prompt": 1,
    "chat": 1,
    "streamed chat": 1,
    "one by one again": 3,
    "the same again and again": 8,
    "ordinary request": 1,
}
SENT = sum(ITEMS.values()) - ITEMS["over-long prompt"]

# Each way to misbehave: its script, then the kind, cause and words of the verdict on it.
MISBEHAVIOUR: dict[str, tuple[dict[str, object], str, str, str]] = {
    "500 at long prompts": (
        {"mode": "error_500_long"},
        *("crashed", "server_error", "`full context` got HTTP 500"),
    ),
    "200 without a token": (
        {"mode": "zero_tokens"},
        *("degraded", "wrong_tokens", "expected 8 completion tokens, got 0"),
    ),
    "half the tokens": (
        {"mode": "too_few_tokens"},
        *("degraded", "wrong_tokens", "expected 8 completion tokens, got 4"),
    ),
    "tokens without a text": (
        {"mode": "empty_text"},
        *("degraded", "empty_text", "the answer has 8 tokens but no text"),
    ),
    "usage that counts wrong": (
        {"mode": "wrong_usage"},
        *("degraded", "wrong_tokens", "expected 32 prompt tokens, got 39"),
    ),
    "no JSON": (
        {"mode": "garbage"},
        *("degraded", "wrong_tokens", "got none"),
    ),
    "a stream cut in the middle": (
        {"mode": "stream_cut"},
        *("degraded", "stream_cut", "without [DONE]"),
    ),
    "a stream without its end": (
        {"mode": "stream_no_done"},
        *("degraded", "stream_cut", "without [DONE]"),
    ),
    "a stream without usage": (
        {"mode": "stream_no_usage"},
        *("degraded", "wrong_tokens", "got none"),
    ),
    "a full-length request that waits for ever": (
        {"mode": "hang_full_length"},
        *("hung", "hung_while_serving", "`full context` made no progress"),
    ),
    "everything waits for ever": (
        {"mode": "hang"},
        *("hung", "hung_while_serving", "`one by one` made no progress"),
    ),
    "everything waits, and there are no counters": (
        {"mode": "hang metrics_missing"},
        *("hung", "hung_while_serving", "made no progress"),
    ),
    "an engine that is replaced": (
        {"mode": "engine_restart", "after": 3},
        *("degraded", "counted_too_few", "its engine was replaced"),
    ),
    "a storm of preemptions": (
        {"mode": "preemption_storm"},
        *("degraded", "preemption_storm", "`one by one`: 200 preemptions of 4 requests"),
    ),
    "somebody else's server": (
        {"mode": "stranger"},
        *("degraded", "request_refused", "HTTP 404"),
    ),
    "another context than promised": (
        {"mode": "wrong_model_len"},
        *("degraded", "wrong_model", f"reports a context of {CONTEXT // 2} tokens"),
    ),
    "counters that stand still": (
        {"mode": "metrics_frozen"},
        *("degraded", "counted_too_few", "counted 0 of the"),
    ),
    "a dead engine behind a healthy face": (
        {"mode": "health_lies", "how": "sigkill_engine", "after": 2},
        *("crashed", "server_error", "HTTP 500"),
    ),
    "an engine that dies after some requests": (
        {"die_at": "serving", "how": "exit0", "after": 5},
        *("crashed", "server_error", "HTTP 500"),
    ),
    "429 under load": (
        {"mode": "rate_limit", "decode_tokens_per_second": 100},
        *("degraded", "request_refused", "HTTP 429"),
    ),
    "connections that are reset": (
        {"mode": "reset"},
        *("crashed", "server_gone", "the connection broke"),
    ),
    "an over-long prompt accepted": (
        {"mode": "accepts_over_long"},
        *("degraded", "over_long_accepted", "one token too long got HTTP 200"),
    ),
    "an over-long prompt that the engine dies of": (
        {"mode": "dies_of_over_long"},
        *("crashed", "server_error", "`over-long prompt` got HTTP 500"),
    ),
    "a client's blocks that never come back": (
        {"mode": "leak_blocks"},
        *("degraded", "kv_leak", "stayed in use after a client left"),
    ),
    "slower for good once it was full": (
        {"mode": "spill", "after": 70, "seconds": 0.08},
        *("degraded", "collapse", "one by one again"),
    ),
    "a stream with lines that are no events": (
        {"mode": "stream_garbage"},
        *("degraded", "bad_stream", "is not a server-sent event"),
    ),
    "an answer that ends too early by its own word": (
        {"mode": "wrong_finish"},
        *("degraded", "wrong_finish", "finish reason `stop`"),
    ),
    "a full-length prompt refused": (
        {"mode": "rejects_full_length"},
        *("degraded", "request_refused", "`full context` got HTTP 400"),
    ),
    "logits that are no numbers": (
        {"mode": "nan_logits"},
        *("degraded", "wrong_answer", "the log probability of a token is not a number"),
    ),
}


def certified(
    bench: Bench, script: dict[str, object], *, spilled: bool = False
) -> Certificate | FailedOutcome:
    with bench.serving(**script) as target:
        return certify(replace(target, spilled=spilled), Workload(), patience=PATIENCE)


def test_a_good_server_survives_every_item(bench: Bench) -> None:
    asked: list[str] = []
    with bench.serving() as target:
        result = certify(
            target,
            Workload(),
            patience=PATIENCE,
            free_bytes=lambda: 5 * 2**30,
            say=asked.append,
        )
    assert isinstance(result, Certificate), result
    assert {check.name: check.requests for check in result.checks} == ITEMS
    assert asked == list(ITEMS)
    checks = {check.name: check for check in result.checks}
    full = checks["full context"]
    assert full.prompt_tokens + full.output_tokens == CONTEXT
    for check in result.checks:
        if check.name not in ("over-long prompt", "client that leaves"):
            assert check.output_tokens >= 8 * check.requests
            assert check.tokens_per_second
            assert check.ttft_seconds
    assert result.preemptions == 0
    assert result.kv_usage_peak is not None
    assert result.least_free_bytes == 5 * 2**30


def test_the_wanted_concurrency_is_proven_at_full_length(bench: Bench) -> None:
    with bench.serving() as target:
        result = certify(target, Workload(concurrency=10), patience=PATIENCE)
    assert isinstance(result, Certificate), result
    at_once = result.checks[2]
    assert at_once.requests == 10
    assert at_once.prompt_tokens + at_once.output_tokens == 10 * CONTEXT


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["slow", "slow metrics_missing"])
def test_a_slow_server_is_no_hung_one(bench: Bench, mode: str) -> None:
    """It moves at every token: on the counters, or at least on our streams."""
    impatience = Patience(step_factor=4, min_seconds=1.5, first_seconds=1.5, poll_seconds=0.05)
    with bench.serving(mode=mode, seconds=3) as target:
        result = certify(target, QUICK, patience=impatience)
    assert isinstance(result, Certificate), result


@pytest.mark.parametrize("length", [16, 128])
def test_the_smallest_server_is_proven_too(bench: Bench, length: int) -> None:
    """One short sequence at a time, in a KV cache that holds no more."""
    args: dict[str, Value] = {**ARGS, "max-model-len": length, "max-num-seqs": 1}
    outcome = bench.trial({"budget_gib": 0.76}, args).outcome
    assert isinstance(outcome, Stable), outcome
    checks = {check.name: check for check in outcome.certificate.checks}
    full = checks["full context"]
    assert full.prompt_tokens + full.output_tokens == length
    assert (checks["chat"].note is None) is (length > 16)


def test_a_long_step_is_no_hang_where_short_ones_were_slow_too(bench: Bench) -> None:
    """On a CPU no counter moves for minutes while one batch is computed."""
    impatience = Patience(step_factor=3, min_seconds=0.3, first_seconds=2, poll_seconds=0.05)
    with bench.serving(prefill_tokens_per_second=1500) as target:
        whole = replace(target, max_num_batched_tokens=None)
        result = certify(whole, QUICK, patience=impatience)
    assert isinstance(result, Certificate), result
    full = next(check for check in result.checks if check.name == "full context")
    assert full.ttft_seconds
    assert full.ttft_seconds > 4 * impatience.min_seconds


def test_what_moves_without_an_end_is_hung(bench: Bench) -> None:
    impatience = Patience(min_seconds=5, first_seconds=5, finish_factor=0.4, poll_seconds=0.05)
    with bench.serving(mode="spin") as target:
        result = certify(target, Workload(), patience=impatience)
    assert isinstance(result, Hung)
    assert (result.cause, (result.seconds or 0) > 2) == ("never_done", True)


@pytest.mark.parametrize("mode", ["metrics_renamed", "metrics_missing"])
def test_metrics_of_another_version_are_no_failure(bench: Bench, mode: str) -> None:
    rename = {"vllm:prompt_tokens_total": "vllm:read", "vllm:num_preemptions_total": "vllm:pushed"}
    result = certified(bench, {"mode": mode, "rename": rename})
    assert isinstance(result, Certificate), result
    assert result.preemptions is None
    assert (result.checks[-1].name, result.checks[-1].requests) == ("counters", 0)


@pytest.mark.parametrize("way", MISBEHAVIOUR)
def test_misbehaviour_gets_its_verdict(bench: Bench, way: str) -> None:
    script, kind, cause, words = MISBEHAVIOUR[way]
    result = certified(bench, script, spilled=cause == "collapse")
    assert not isinstance(result, Certificate), "called stable"
    assert (result.kind, result.cause, result.phase) == (kind, cause, "serving")
    assert words in result.reason


@pytest.mark.slow
def test_many_at_once_far_slower_than_one_by_one_is_a_collapse(bench: Bench) -> None:
    brief = replace(QUICK, output_tokens=2)
    with bench.serving(mode="collapse", decode_tokens_per_second=200) as target:
        few = replace(target, max_num_seqs=4, spilled=True)
        result = certify(few, brief, patience=PATIENCE)
    assert isinstance(result, Degraded), result
    assert result.cause == "collapse"
    assert "many short prompts" in result.reason


def test_memory_that_falls_at_every_request_is_not_called_stable(bench: Bench) -> None:
    """What the processes of the server really hold is what is seen to grow."""
    outcome = bench.trial({"mode": "memory_creep"}).outcome
    assert isinstance(outcome, Degraded), outcome
    assert outcome.cause == "memory_creep"
    assert "memory grew in each of 8 rounds" in outcome.reason


SPECIAL = Effort(effort="quick", logprobs=True, image=True, schema=True, tool=True)


def test_what_only_some_need_is_asked_where_it_is_wanted(bench: Bench) -> None:
    with bench.serving() as target:
        result = certify(target, Workload(probe=SPECIAL), patience=PATIENCE)
    assert isinstance(result, Certificate), result
    checks = {check.name: check for check in result.checks}
    assert checks["log probabilities of a full prompt"].prompt_tokens == CONTEXT - 1
    for name in ("image", "answer by a schema", "tool call"):
        assert (checks[name].requests, checks[name].note) == (1, None)


def test_an_answer_that_does_not_get_so_far_is_said_to_show_nothing(bench: Bench) -> None:
    with bench.serving(mode="thinks keeps_logprobs") as target:
        result = certify(
            target, Workload(probe=replace(SPECIAL, logprobs=False)), patience=PATIENCE
        )
    assert isinstance(result, Certificate), result
    checks = {check.name: check for check in result.checks}
    assert checks["answer by a schema"].note == "no final answer: the model was still reasoning"
    assert checks["tool call"].note == "the answer was cut off before a tool call"
    assert checks["ordinary request"].requests == 1


@pytest.mark.parametrize(
    ("mode", "cause", "words"),
    [
        ("no_logprobs", "wrong_answer", "got 0 log probabilities for 2047 prompt tokens"),
        ("text_only", "request_refused", "`image` got HTTP 400"),
        ("ignores_schema", "wrong_answer", "does not match its JSON Schema"),
        ("calls_no_tool", "wrong_answer", "did not call the required tool"),
    ],
)
def test_what_is_wanted_and_not_served_is_not_called_stable(
    bench: Bench, mode: str, cause: str, words: str
) -> None:
    with bench.serving(mode=mode) as target:
        result = certify(target, Workload(probe=SPECIAL), patience=PATIENCE)
    assert isinstance(result, Degraded), result
    assert result.cause == cause
    assert words in result.reason


@pytest.mark.slow
def test_a_soak_repeats_the_load_for_as_long_as_it_was_told(bench: Bench) -> None:
    soak = Workload(probe=Effort(effort="soak", soak_minutes=0.05))
    said: list[str] = []
    with bench.serving() as target:
        result = certify(target, soak, patience=PATIENCE, say=said.append)
    assert isinstance(result, Certificate), result
    check = next(check for check in result.checks if check.name == "soak")
    assert check.seconds >= 3
    assert check.requests > 0
    assert [name for name in said if name.startswith("soak")] == ["soak", "soak, 0 min left"]


@pytest.mark.slow
def test_a_soak_finds_what_falls_slowly(bench: Bench) -> None:
    """Too slow for the rounds of a standard probe: the memory falls by itself."""
    free = iter(range(2**40, 0, -(2**20)))
    soak = Workload(probe=Effort(effort="soak", soak_minutes=0.5))
    with bench.serving() as target:
        result = certify(target, soak, patience=PATIENCE, free_bytes=lambda: next(free))
    assert isinstance(result, Degraded), result
    assert result.cause == "memory_creep"


@pytest.mark.slow
def test_a_soak_finds_host_memory_that_would_not_last(bench: Bench) -> None:
    taken = itertools.count(GIB, 64 * 2**20)
    soak = Effort(effort="soak", soak_minutes=0.1)

    def after_a_soak(left: int) -> Certificate | FailedOutcome:
        with bench.serving() as target:
            return certify(
                target,
                Workload(probe=soak),
                patience=PATIENCE,
                host=lambda: HostMemory(next(taken), left),
            )

    result = after_a_soak(GIB)
    assert isinstance(result, Degraded), result
    assert result.cause == "memory_growth"
    assert "the 1.0 GiB left are gone in 0.0 hours" in result.reason
    result = after_a_soak(2**60)
    assert isinstance(result, Certificate), result
    note = next(check.note for check in result.checks if check.name == "soak")
    assert note
    assert note.startswith("host memory grows by")


EMBEDDING: dict[str, Value] = {**ARGS, "runner": "pooling"}


def test_an_embedding_model_gets_a_certificate_of_its_own(bench: Bench) -> None:
    outcome = bench.trial({"mode": "pooling"}, EMBEDDING).outcome
    assert isinstance(outcome, Stable), outcome
    checks = {check.name: check for check in outcome.certificate.checks}
    assert checks["full context"].prompt_tokens == CONTEXT
    assert checks["many short prompts"].requests == SEQUENCES
    assert "chat" not in checks


@pytest.mark.parametrize(
    ("script", "cause"),
    [
        ({"mode": "pooling empty_vector"}, "empty_vector"),
        ({"mode": "pooling accepts_over_long"}, "over_long_accepted"),
        ({"mode": ""}, "request_refused"),
    ],
)
def test_an_embedding_model_that_misbehaves_is_not_called_stable(
    bench: Bench, script: dict[str, object], cause: str
) -> None:
    outcome = bench.trial(script, EMBEDDING).outcome
    assert isinstance(outcome, Degraded), outcome
    assert outcome.cause == cause


ADAPTED: dict[str, Value] = {
    **ARGS,
    "enable-lora": True,
    "lora-modules": ("tuned=/adapters/tuned", "other=/adapters/other"),
}
DRAFTED: dict[str, Value] = {**ARGS, "speculative-config": '{"method": "ngram"}'}


def test_every_adapter_is_asked_alone_and_all_of_them_at_once(bench: Bench) -> None:
    outcome = bench.trial({}, ADAPTED).outcome
    assert isinstance(outcome, Stable), outcome
    (check,) = (c for c in outcome.certificate.checks if c.name == "adapters")
    assert check.requests == 4
    short = 2 * (SHORT_PROMPT + SHORT_OUTPUT)
    assert check.prompt_tokens + check.output_tokens == 2 * CONTEXT + short


LIMITED: dict[str, Value] = {**ARGS, "limit-mm-per-prompt": '{"image": 3}'}


def seeing(bench: Bench) -> Bench:
    """The same bench with a model that takes images."""
    facts = bench.facts
    sees = replace(facts.checkpoint, takes_images=True, multimodal=True)
    return replace(bench, facts=replace(facts, checkpoints={facts.model: sees}))


def test_an_adapter_of_the_largest_rank_that_is_allowed_is_asked_too(
    bench: Bench, tmp_path: Path
) -> None:
    small = make_adapter(tmp_path / "small", 4, tensors_of(1, 4, {"mlp.up_proj": (8, 8)}))
    args = {**ARGS, "enable-lora": True, "max-lora-rank": 16, "lora-modules": f"small={small}"}
    trial = bench.trial({}, args)
    assert isinstance(trial.outcome, Stable), trial.outcome
    (check,) = (c for c in trial.outcome.certificate.checks if c.name == "adapters")
    assert check.requests == 4
    assert "autotune-largest-rank" not in " ".join(trial.argv)


# Each server fails one item, and would have passed without it.
DEATHS: dict[str, tuple[str, dict[str, Value]]] = {
    "images beside text": ("fails_images_beside_text", {**ARGS}),
    "odd images": ("fails_broken_images", {**ARGS}),
    "an image too many": ("fails_image_too_many", LIMITED),
    "adapters": ("bad_adapter", ADAPTED),
    "a session that grows": ("fails_sessions", {**ARGS}),
    "right and wrong drafts": ("fails_drafts", DRAFTED),
}


@pytest.mark.parametrize("item", DEATHS)
def test_what_a_server_dies_of_in_production_is_found_by_its_item_alone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, item: str
) -> None:
    mode, args = DEATHS[item]
    bench = seeing(bench)
    outcome = bench.trial({"mode": mode}, args).outcome
    assert isinstance(outcome, Crashed), outcome
    assert outcome.reason.startswith(f"`{item}")
    assert outcome.reason.endswith("` got HTTP 500")

    def all_but_it(*given: Any, **more: Any) -> list[str]:
        return [name for name in generating_items(*given, **more) if name != item]

    monkeypatch.setattr(generation, "generating_items", all_but_it)
    assert isinstance(bench.trial({"mode": mode}, args).outcome, Stable)


def test_as_many_of_the_largest_images_as_fit_are_asked_about_beside_text(bench: Bench) -> None:
    """Unless told otherwise: the model takes images."""
    outcome = seeing(bench).trial({"image_tokens": 150}).outcome
    assert isinstance(outcome, Stable), outcome
    checks = {check.name: check for check in outcome.certificate.checks}
    beside, odd = checks["images beside text"], checks["odd images"]
    assert beside.note == "13 of 448 x 448 pixels, 150 tokens each"
    assert odd.note == "3 more were refused"
    assert checks["an image too many"].requests == 1


@pytest.mark.parametrize("limit", [1, 3])
def test_no_more_images_are_sent_than_are_allowed_and_text_fills_the_rest(
    bench: Bench, limit: int
) -> None:
    args = {**ARGS, "limit-mm-per-prompt": json.dumps({"image": limit})}
    outcome = seeing(bench).trial({}, args).outcome
    assert isinstance(outcome, Stable), outcome
    (beside,) = (c for c in outcome.certificate.checks if c.name == "images beside text")
    assert beside.note is not None
    assert beside.note.startswith(f"{limit} of 1024 x 1024 pixels, 256 tokens each")
    full, words = 1 + 4, 2 + len(SHAPES)
    assert beside.requests == full + words
    assert beside.prompt_tokens > full * 0.95 * CONTEXT


def test_the_largest_image_is_the_largest_that_fits_into_the_context(bench: Bench) -> None:
    outcome = seeing(bench).trial({"image_tokens": 10**6}).outcome
    assert isinstance(outcome, Stable), outcome
    (beside,) = (c for c in outcome.certificate.checks if c.name == "images beside text")
    assert beside.note is not None
    assert beside.note.startswith("1 of 1024 x 1024 pixels, 1,024 tokens each")


def test_an_image_that_there_was_no_time_for_is_not_passed_over_in_silence(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vision, "LARGER", 10**6)
    outcome = seeing(bench).trial({}).outcome
    assert isinstance(outcome, Stable), outcome
    (beside,) = (c for c in outcome.certificate.checks if c.name == "images beside text")
    assert beside.note is not None
    assert beside.note.startswith("10 of 448 x 448 pixels, 196 tokens each; larger ones would take")


def test_a_server_of_text_alone_must_refuse_an_image(bench: Bench) -> None:
    args: dict[str, Value] = {**ARGS, "language-model-only": True}
    outcome = seeing(bench).trial({}, args).outcome
    assert isinstance(outcome, Stable), outcome
    names = [check.name for check in outcome.certificate.checks]
    assert "an image too many" in names
    assert not {"images beside text", "odd images"} & set(names)


@pytest.mark.parametrize("args", [LIMITED, {**ARGS, "language-model-only": True}])
def test_a_limit_of_images_that_limits_nothing_is_a_finding(
    bench: Bench, args: dict[str, Value]
) -> None:
    outcome = seeing(bench).trial({"mode": "takes_any_number"}, args).outcome
    assert isinstance(outcome, Degraded), outcome
    assert outcome.cause == "no_effect"
    (flag,) = args.keys() - ARGS.keys()
    assert f"--{flag} had no effect" in outcome.reason


def test_a_model_whose_server_takes_no_images_is_asked_for_none(bench: Bench) -> None:
    """As its files may promise what this vLLM does not serve."""
    outcome = seeing(bench).trial({"mode": "text_only"}).outcome
    assert isinstance(outcome, Stable), outcome
    checks = {check.name: check for check in outcome.certificate.checks}
    for name in ("images beside text", "odd images"):
        assert (checks[name].requests, checks[name].note) == (0, "the server takes no images")


@pytest.mark.parametrize("effort", ["quick", "standard"])
def test_no_image_is_sent_where_none_is_wanted(bench: Bench, effort: Any) -> None:
    with bench.serving() as target:
        without = Workload(probe=Effort(effort=effort, image=False))
        result = certify(replace(target, images=999), without, patience=PATIENCE)
    assert isinstance(result, Certificate), result
    assert not any("image" in check.name for check in result.checks)


def test_a_session_grows_to_the_full_context(bench: Bench) -> None:
    outcome = bench.trial({}).outcome
    assert isinstance(outcome, Stable), outcome
    (check,) = (c for c in outcome.certificate.checks if c.name == "a session that grows")
    assert check.note is None
    turns = check.requests // 4
    assert turns == len(TURNS)
    assert check.output_tokens == check.requests * SHORT_OUTPUT


@pytest.mark.parametrize("mode", ["hang", "slow"])
def test_the_end_of_the_time_is_a_timeout_and_no_failure(bench: Bench, mode: str) -> None:
    with (
        bench.serving(mode=mode, seconds=60) as target,
        pytest.raises(TimeoutError) as raised,
    ):
        certify(target, QUICK, patience=PATIENCE, until=time.monotonic() + 1)
    assert raised.type is TimeoutError


def test_what_the_log_says_ends_the_requests_under_way(bench: Bench) -> None:
    known = Crashed(cause="engine_died", phase="serving", reason="the engine died")
    with bench.serving(mode="hang") as target:
        assert certify(target, QUICK, patience=PATIENCE, diagnosis=lambda: known) == known


def test_a_quick_probe_leaves_out_what_takes_long(bench: Bench) -> None:
    with bench.serving() as target:
        result = certify(target, QUICK, patience=PATIENCE)
    assert isinstance(result, Certificate), result
    names = [check.name for check in result.checks]
    assert "full context" in names
    assert "long and short mixed" not in names
    assert sum(check.requests for check in result.checks) < SENT
