"""The items of a certificate, in their order: those that are likely to kill a server come early."""

from collections.abc import Iterator

from ..outcome import Certificate
from ..workload import Effort

OWN_REQUESTS = "your requests"
POOLING = (
    *("first request", "full context", "many short prompts", "over-long prompt"),
    "ordinary request",
)


def generating_items(
    probe: Effort, *, shared: bool = False, adapters: bool = False, drafts: bool = False
) -> Iterator[str]:
    """Yield the items for a server that generates.

    One that is `shared` with other users is spared what would disturb them.
    """
    thorough = probe.effort != "quick"
    yield from ("one by one", "full context")
    if not shared:
        yield "long prompts at once"
    if adapters:
        yield "adapters"
    if drafts and not shared:
        yield "right and wrong drafts"
    if probe.logprobs:
        yield "log probabilities of a full prompt"
    if thorough and not shared:
        yield from ("a batch and a bit", "just under a batch", "long and short mixed")
    if thorough and not shared:
        yield "a session that grows"
    yield from ("many short prompts", "client that leaves", "over-long prompt")
    if thorough:
        yield "chat"
    yield "streamed chat"
    if probe.image:
        yield "image"
    if probe.schema:
        yield "answer by a schema"
    if probe.tool:
        yield "tool call"
    if probe.file:
        yield OWN_REQUESTS
    if probe.effort == "soak":
        yield "soak"
    yield "one by one again"
    if not shared:
        yield "the same again and again"
    yield "ordinary request"


def missing_items(
    certificate: Certificate, probe: Effort, *, pooling: bool, adapters: bool, drafts: bool
) -> list[str]:
    """Return the items of this effort that a certificate of a server of our own lacks."""
    items = POOLING if pooling else generating_items(probe, adapters=adapters, drafts=drafts)
    proven = {item.name for item in certificate.checks}
    return [name for name in items if name not in proven]
