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
    probe: Effort,
    *,
    shared: bool = False,
    adapters: bool = False,
    drafts: bool = False,
    images: int | None = None,
) -> Iterator[str]:
    """Yield the items for a server that generates.

    One that is `shared` with other users is spared what would disturb them. A prompt may have so
    many `images`; None: the model is not known to take any.
    """
    thorough = probe.effort != "quick"
    sees = probe.image or (probe.image is None and images)
    yield from ("one by one", "full context")
    if not shared:
        yield "long prompts at once"
    if adapters:
        yield "adapters"
    if drafts and not shared:
        yield "right and wrong drafts"
    if sees and thorough and not shared:
        yield "images beside text"
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
    if sees and (shared or not thorough):
        yield "image"
    if sees and thorough and not shared:
        yield "odd images"
    if images is not None and probe.image is not False and not shared:
        yield "an image too many"
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
    certificate: Certificate,
    probe: Effort,
    *,
    pooling: bool,
    adapters: bool,
    drafts: bool,
    images: int | None,
) -> list[str]:
    """Return the items of this effort that a certificate of a server of our own lacks."""
    serving = generating_items(probe, adapters=adapters, drafts=drafts, images=images)
    items = POOLING if pooling else serving
    proven = {item.name for item in certificate.checks}
    return [name for name in items if name not in proven]
