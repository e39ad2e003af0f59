"""Requests to a running server, and what it shows of itself. The only package that knows HTTP."""

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
from .prompt import COMPLETIONS, POOLING
from .target import Patience, Target

__all__ = [
    "COMPLETIONS",
    "POOLING",
    "ModelCard",
    "Patience",
    "Target",
    "adapter_of",
    "cache_tokens",
    "context_of",
    "is_healthy",
    "model_cards",
    "served_length",
    "served_paths",
]
