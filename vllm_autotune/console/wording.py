"""The words for phases, outcomes, speeds and times, and text that cannot steer a terminal."""

from collections.abc import Iterable, Iterator

from ..outcome import Certificate, Outcome, Phase, Stable
from ..search.trial import Fits

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


FITS: dict[Fits, str] = {
    "yes": "fits",
    "perhaps": "may fit",
    "no": "too big",
    "unknown": "unknown",
}


def clean(text: str) -> str:
    """Return text without control characters: a log or a name must not steer the terminal."""
    return "".join(c if c.isprintable() else " " for c in text)


def rung_names(rungs: Iterable[str]) -> str:
    return ", ".join(rungs) or "as it is"


def sentence(outcome: Outcome) -> str:
    if isinstance(outcome, Stable):
        certificate = outcome.certificate
        requests = sum(check.requests for check in certificate.checks)
        return f"stable: {requests} requests answered correctly in {duration(certificate.seconds)}"
    kind = outcome.kind.replace("_", " ")
    return f"{kind} while {PHASE_NAMES[outcome.phase]}: {outcome.reason}"


def speed_rows(certificate: Certificate) -> Iterator[tuple[str, str]]:
    """Yield the speed of one request, and of those at the proven concurrency."""
    for speed in certificate.speeds[:2]:
        text = f"{speed.requests} requests of {speed.prompt_tokens:,} tokens at once"
        slowest = f" (slowest {duration(speed.worst_ttft_seconds)})"
        if speed.requests == 1:
            text, slowest = f"1 request of {speed.prompt_tokens:,} tokens", ""
        text += f": first token after {duration(speed.ttft_seconds)}{slowest}"
        if speed.inter_token_seconds is not None:
            text += f", then one every {duration(speed.inter_token_seconds)}"
        text += f"; {speed.prefill_tokens_per_second:,.0f} tokens/s read"
        if speed.decode_tokens_per_second is not None:
            text += f", {speed.decode_tokens_per_second:,.0f} tokens/s written"
        yield "speed", text


def duration(seconds: float) -> str:
    """Write a time for a person: `84 ms`, `4.7 s`, `31 s`, `4 min 9 s`, `2 h 5 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
