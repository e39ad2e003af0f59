"""Requests to a running server, and what it shows of itself. The only package that knows HTTP."""

from .ask import Ask
from .endpoint import CHAT, COMPLETIONS, POOLING, Endpoint
from .listing import (
    ModelCard,
    adapter_of,
    cache_tokens,
    context_of,
    is_healthy,
    model_cards,
    served_length,
    served_paths,
)
from .reply import Inspect, Reply
from .target import Patience, Target

__all__ = [
    "CHAT",
    "COMPLETIONS",
    "POOLING",
    "Ask",
    "Endpoint",
    "Inspect",
    "ModelCard",
    "Patience",
    "Reply",
    "Target",
    "adapter_of",
    "cache_tokens",
    "context_of",
    "is_healthy",
    "model_cards",
    "served_length",
    "served_paths",
]
