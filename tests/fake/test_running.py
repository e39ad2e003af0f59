"""A server that somebody else started: probed gently, and its key stays a secret."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.trial_bench import CONTEXT, PATIENCE, Bench
from vllm_autotune.errors import BadUsage, NoServer
from vllm_autotune.outcome import Certificate, Degraded, Outcome, Stable
from vllm_autotune.server.server import free_port
from vllm_autotune.tuning.check_url import check_url
from vllm_autotune.workload import Effort

AUTOTUNE = (sys.executable, "-c", "from vllm_autotune.cli import main; main()")
KEY = "sk-very-secret"


def probed(
    url: str, model: str | None = None, key: str | None = None, probe: Effort | None = None
) -> Outcome:
    return check_url(url, model, key, probe, lambda _: None, PATIENCE)


def certificate(outcome: Outcome) -> Certificate:
    assert isinstance(outcome, Stable), outcome
    return outcome.certificate


def test_a_running_server_is_probed_gently(bench: Bench) -> None:
    with bench.serving() as target:
        proof = certificate(probed(f"{target.url}/v1/"))
    checks = {check.name: check for check in proof.checks}
    full = checks["full context"]
    assert full.prompt_tokens + full.output_tokens == CONTEXT
    assert checks["many short prompts"].requests == 4
    assert "long prompts at once" not in checks
    assert proof.kv_usage_peak is not None
    assert proof.kv_usage_peak < 0.2


@pytest.mark.parametrize("image", [None, True, False])
def test_a_running_server_is_asked_about_one_image_where_that_is_wanted(
    bench: Bench, image: bool | None
) -> None:
    """What it takes cannot be told from outside."""
    with bench.serving() as target:
        proof = certificate(probed(target.url, probe=Effort(effort="standard", image=image)))
    seen = [(c.name, c.requests) for c in proof.checks if "image" in c.name]
    assert seen == ([("image", 1)] if image else [])


def test_a_full_cache_is_not_filled_further(bench: Bench) -> None:
    """What others left in the cache counts as theirs: their requests are not pushed out."""
    with bench.serving(mode="occupied") as target:
        proof = certificate(probed(target.url))
    full = next(check for check in proof.checks if check.name == "full context")
    assert full.prompt_tokens + full.output_tokens < CONTEXT
    assert full.note
    assert "other requests use the KV cache" in full.note
    assert proof.kv_usage_peak is not None
    assert proof.kv_usage_peak < 0.95


def test_one_that_misbehaves_is_found_out(bench: Bench) -> None:
    with bench.serving(mode="stream_cut") as target:
        outcome = probed(target.url)
    assert isinstance(outcome, Degraded)
    assert outcome.cause == "stream_cut"


def test_an_adapter_is_probed_by_its_name(bench: Bench) -> None:
    with bench.serving("--lora-modules", "tuned=/adapters/tuned") as target:
        assert certificate(probed(target.url, "tuned"))
        with pytest.raises(BadUsage, match="does not serve nobody"):
            probed(target.url, "nobody")


def test_an_embedding_server_is_known_by_its_endpoints(bench: Bench) -> None:
    with bench.serving(mode="pooling") as target:
        proof = certificate(probed(target.url))
    assert [check.name for check in proof.checks][1] == "full context"
    assert all(check.output_tokens == 0 for check in proof.checks)


def test_a_key_is_used_and_never_shown(bench: Bench, tmp_path: Path) -> None:
    with bench.serving("--api-key", KEY) as target:
        with pytest.raises(NoServer, match="HTTP 401"):
            probed(target.url)
        assert certificate(probed(target.url, key=KEY))
        command = [*AUTOTUNE, "check", "--url", target.url, "--json"]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=True,
            cwd=tmp_path,
            env={"VLLM_API_KEY": KEY, "PYTHONPATH": ":".join(sys.path)},
        )
    assert json.loads(done.stdout)["outcome"]["kind"] == "stable"
    assert KEY not in done.stdout + done.stderr


def test_a_key_that_a_server_repeats_is_taken_out(bench: Bench) -> None:
    with bench.serving("--api-key", KEY, mode="tells_key") as target:
        outcome = probed(target.url, key=KEY)
    assert isinstance(outcome, Degraded)
    assert "[key]" in outcome.evidence[0]
    assert KEY not in repr(outcome)


def test_an_address_with_a_password_is_not_repeated() -> None:
    with pytest.raises(BadUsage) as refused:
        probed("http://me:secret@127.0.0.1:8000")
    assert "secret" not in refused.value.message


def test_nobody_there_is_a_refusal() -> None:
    with pytest.raises(NoServer, match="no server at"):
        probed(f"127.0.0.1:{free_port()}")


def test_requests_of_the_users_own_are_sent_too(bench: Bench, tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    own = [
        {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4},
        {"prompt": "once upon", "model": "another", "stream": True},
    ]
    file.write_text("\n\n".join(map(json.dumps, own)))
    with bench.serving() as target:
        proof = certificate(probed(target.url, probe=Effort(effort="quick", file=str(file))))
        assert next(c.requests for c in proof.checks if c.name == "your requests") == 2
    with bench.serving(mode="error_500_long", long_tokens=2040) as target:
        own.append({"prompt": "word " * 2041, "max_tokens": 1})
        file.write_text("\n".join(map(json.dumps, own)))
        outcome = probed(target.url, probe=Effort(effort="quick", file=str(file)))
    assert not isinstance(outcome, Stable)
    assert "`your requests, line 3` got HTTP 500" in outcome.reason
