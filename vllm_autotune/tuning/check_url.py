"""Probe a server that somebody else started: launch nothing, harm nothing."""

import time
from collections.abc import Callable

from ..certificate import certify
from ..errors import BadUsage, NoServer
from ..launch.launch import Progress
from ..outcome import Certificate, FailedOutcome, Stable
from ..probe import (
    COMPLETIONS,
    POOLING,
    ModelCard,
    Patience,
    Target,
    cache_tokens,
    context_of,
    model_cards,
    served_paths,
)
from ..workload import Effort, Workload

# Its vocabulary is not known; every tokenizer has more tokens than this.
VOCABULARY = 1000
# Nor is how many requests it runs at once.
SEQUENCES = 4


def check_url(
    url: str,
    model: str | None,
    api_key: str | None,
    probe: Effort | None,
    show: Callable[[Progress], None],
    patience: Patience | None = None,
) -> Stable | FailedOutcome:
    """Probe the server at `url`, quickly unless `probe` says otherwise, and gently.

    `model` is the served name, else the first that is not an adapter. Its other users are not
    disturbed: no item fills its KV cache.

    Raises NoServer when no vLLM answers there; BadUsage for a name it does not serve,
    and for an address with a secret in it.
    """
    began = time.monotonic()
    url = url.rstrip("/").removesuffix("/v1")
    if "@" in url:
        raise BadUsage(
            "the address contains a password, which would be printed", "give it as --api-key"
        )
    target = _target(url if "://" in url else f"http://{url}", model, api_key)
    result = certify(
        target,
        Workload(probe=probe or Effort(effort="quick")),
        patience=patience,
        say=lambda item: show(
            Progress(
                phase="serving",
                seconds=time.monotonic() - began,
                line="",
                item=item,
                free_bytes=None,
            )
        ),
    )
    return Stable(certificate=result) if isinstance(result, Certificate) else result


def _target(url: str, model: str | None, api_key: str | None) -> Target:
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    cards = model_cards(url, headers)
    if isinstance(cards, str):
        hint = "check the address; a server with a key needs --api-key or VLLM_API_KEY"
        raise NoServer(f"no server at {url}: {cards}", hint)
    card = _card(url, cards, model)
    length = context_of(card.name, cards)
    if length is None:
        raise NoServer(
            f"the server at {url} does not tell the context length of {card.name}",
            "only vLLM servers can be probed",
        )
    paths = served_paths(url, headers)
    return Target(
        url=url,
        model=card.name,
        max_model_len=length,
        max_num_seqs=SEQUENCES,
        vocab_size=VOCABULARY,
        kv_tokens=cache_tokens(url, headers),
        pooling=COMPLETIONS not in paths and not paths.isdisjoint(POOLING),
        shared=True,
        api_key=api_key,
    )


def _card(url: str, cards: list[ModelCard], model: str | None) -> ModelCard:
    own = [card for card in cards if card.parent is None]
    wanted = [card for card in cards if card.name == model] if model else own or cards
    if not wanted:
        names = ", ".join(card.name for card in cards) or "none"
        raise BadUsage(
            f"the server at {url} does not serve {model or 'a model'}", f"it serves {names}"
        )
    return wanted[0]
