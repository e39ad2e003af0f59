"""The words for phases, outcomes and speeds, and text that cannot steer a terminal."""

from ..outcome import Certificate, Outcome, Phase, Speed, Stable

PHASE_NAMES: dict[Phase, str] = {
    "spawn": "starting",
    "config": "reading the configuration",
    "load": "loading weights",
    "profile": "profiling",
    "kv_cache": "sizing the KV cache",
    "graphs": "capturing graphs",
    "warmup": "warming up",
    "serving": "serving",
}


def clean(text: str) -> str:
    """Return text without control characters: a log or a name must not steer the terminal."""
    return "".join(c if c.isprintable() else " " for c in text)


def sentence(outcome: Outcome) -> str:
    """Return an outcome in a sentence."""
    if isinstance(outcome, Stable):
        certificate = outcome.certificate
        requests = sum(check.requests for check in certificate.checks)
        return f"stable: {requests} requests came back right in {certificate.seconds:.0f} s"
    kind = outcome.kind.replace("_", " ")
    return f"{kind} while {PHASE_NAMES[outcome.phase]}: {outcome.reason}"


def speed_rows(certificate: Certificate) -> list[tuple[str, str]]:
    """Return the speed of one request, and of those at the proven concurrency."""
    return [("speed", _speed(speed)) for speed in certificate.speeds[:2]]


def _speed(speed: Speed) -> str:
    alone = speed.requests == 1
    who = "alone" if alone else f"{speed.requests} at once"
    worst = "" if alone else f" (worst {_seconds(speed.worst_ttft_seconds)})"
    parts = [
        f"{who}, {speed.prompt_tokens:,} tokens each: "
        f"first token after {_seconds(speed.ttft_seconds)}{worst}"
    ]
    if speed.inter_token_seconds is not None:
        parts.append(f"then one every {_seconds(speed.inter_token_seconds)}")
    parts.append(f"{speed.prefill_tokens_per_second:,.0f} tokens/s read")
    if speed.decode_tokens_per_second is not None:
        parts.append(f"{speed.decode_tokens_per_second:,.0f} written")
    return ", ".join(parts)


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"
