"""What a server says about itself: its health, and the models it serves."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpx

from .reply import parsed
from .watch import cache_size


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """A model as `/v1/models` lists it; `parent` is set for an adapter."""

    name: str
    max_model_len: int | None
    parent: str | None


def _get(url: str, headers: Mapping[str, str], seconds: float = 10) -> httpx.Response:
    return httpx.get(url, headers=headers, timeout=seconds, trust_env=False)


def is_healthy(url: str, headers: Mapping[str, str] = {}) -> bool:
    try:
        return _get(f"{url}/health", headers, 2).status_code == 200
    except httpx.HTTPError:
        return False


def model_cards(url: str, headers: Mapping[str, str] = {}) -> list[ModelCard] | str:
    """Return what `/v1/models` lists, or why it lists nothing."""
    try:
        answer = _get(f"{url}/v1/models", headers)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return f"{type(error).__name__}: {error}"
    cards = parsed(answer.text).get("data")
    if answer.status_code != 200 or not isinstance(cards, list):
        return f"/v1/models answers HTTP {answer.status_code}"
    return [_card(card) for card in cards if isinstance(card, dict)]


def _card(card: Mapping[str, Any]) -> ModelCard:
    length, parent = card.get("max_model_len"), card.get("parent")
    return ModelCard(
        name=str(card.get("id")),
        max_model_len=length if isinstance(length, int) else None,
        parent=str(parent) if parent else None,
    )


def served_paths(url: str, headers: Mapping[str, str] = {}) -> frozenset[str]:
    """Return the paths that `/openapi.json` lists, none if it cannot be read."""
    paths = None
    with suppress(httpx.HTTPError):
        paths = parsed(_get(f"{url}/openapi.json", headers).text).get("paths")
    return frozenset(paths) if isinstance(paths, dict) else frozenset()


def cache_tokens(url: str, headers: Mapping[str, str] = {}) -> int | None:
    """Return how many tokens the KV cache holds by `/metrics`, None where it does not say."""
    with suppress(httpx.HTTPError):
        return cache_size(_get(f"{url}/metrics", headers).text)
    return None


def adapters_of(url: str, model: str) -> tuple[str, ...]:
    cards = model_cards(url)
    return () if isinstance(cards, str) else tuple(c.name for c in cards if c.parent == model)


def served_length(url: str, model: str, headers: Mapping[str, str] = {}) -> int | None:
    """Return the context in tokens that `/v1/models` reports for `model`, None if it has none."""
    cards = model_cards(url, headers)
    return None if isinstance(cards, str) else context_of(model, cards)


def context_of(model: str, cards: Sequence[ModelCard]) -> int | None:
    """Return the context of a listed model; an adapter has that of its base."""
    for card in cards:
        if card.name == model:
            bases = [c for c in cards if card.parent and c.parent is None]
            lengths = (c.max_model_len for c in [card, *bases])
            return next((length for length in lengths if length), None)
    return None
