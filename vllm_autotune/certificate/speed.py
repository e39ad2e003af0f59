"""How fast a server was, from the times at which the pieces of its answers came. Pure."""

from collections.abc import Sequence
from statistics import median

from ..outcome import Speed
from ..probe.reply import Reply


def measured(replies: Sequence[Reply]) -> Speed | None:
    """Return the speed of streamed requests sent at once, None if nothing was read."""
    if not any(reply.prompt_tokens for reply in replies):
        return None
    waits = [reply.ttft_seconds for reply in replies]
    gaps = [
        (reply.times[-1] - reply.times[0]) / (reply.output_tokens - 1)
        for reply in replies
        if reply.output_tokens > 1 and len(reply.times) > 1
    ]
    began = min(reply.began for reply in replies)
    all_read = max(reply.times[0] for reply in replies)
    prompts = [reply.prompt_tokens for reply in replies]
    return Speed(
        requests=len(replies),
        prompt_tokens=max(prompts),
        ttft_seconds=median(waits),
        worst_ttft_seconds=max(waits),
        inter_token_seconds=median(gaps) if gaps else None,
        prefill_tokens_per_second=sum(prompts) / max(1e-6, all_read - began),
        decode_tokens_per_second=_decoded(replies, all_read),
    )


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
