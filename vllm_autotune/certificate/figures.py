"""How fast it was, from when each piece of each answer came. Pure."""

from collections.abc import Sequence
from statistics import median

from ..outcome import Speed
from ..probe import Reply

SHORTEST = 1e-6


def measured(replies: Sequence[Reply]) -> Speed | None:
    """Return the speed of streamed requests sent at once, None if nothing was read."""
    if not any(reply.prompt_tokens for reply in replies):
        return None
    waits = [reply.ttft_seconds for reply in replies]
    gaps = [gap for reply in replies if (gap := _gap(reply)) is not None]
    began = min(reply.began for reply in replies)
    all_read = max(reply.times[0] for reply in replies)
    prompts = [reply.prompt_tokens for reply in replies]
    return Speed(
        requests=len(replies),
        prompt_tokens=max(prompts),
        ttft_seconds=median(waits),
        worst_ttft_seconds=max(waits),
        inter_token_seconds=median(gaps) if gaps else None,
        prefill_tokens_per_second=sum(prompts) / max(SHORTEST, all_read - began),
        decode_tokens_per_second=_decoded(replies, all_read),
    )


def _gap(reply: Reply) -> float | None:
    """Return the mean seconds from one token to the next."""
    if reply.output_tokens < 2 or len(reply.times) < 2:
        return None
    return (reply.times[-1] - reply.times[0]) / (reply.output_tokens - 1)


def _decoded(replies: Sequence[Reply], since: float) -> float | None:
    """Return the tokens per second written once every prompt had been read."""
    end = max(reply.times[-1] for reply in replies)
    if end <= since:
        return None
    # A piece may hold several tokens.
    tokens = sum(
        sum(time > since for time in reply.times) * reply.output_tokens / len(reply.times)
        for reply in replies
    )
    return tokens / (end - since)
