"""Probe a running server: launch nothing, disturb nobody."""

import time
from collections.abc import Callable

from ..certificate.certify import certify
from ..errors import BadUsage, NoServer
from ..launch.progress import Progress
from ..outcome import Certificate, FailedOutcome, Stable
from ..probe.listing import cache_tokens, context_of, model_cards, served_paths
from ..probe.prompt import COMPLETIONS, POOLING
from ..probe.target import Patience, Target
from ..workload import Effort, Workload

# The server's vocabulary is not known; every tokenizer has more tokens than this.
VOCABULARY = 1000
# Nor is the number of requests that it runs at once.
SEQUENCES = 4


def check_url(
    url: str,
    model: str | None,
    api_key: str | None,
    probe: Effort | None,
    show: Callable[[Progress], None],
    patience: Patience | None = None,
) -> Stable | FailedOutcome:
    """Probe the server at `url`, with the quick effort unless `probe` is given.

    `model` is the served name, None the first that is not an adapter. No item fills the KV cache,
    so that the server's other users are not disturbed.

    Raises NoServer when no vLLM answers there; BadUsage for a name that it does not serve,
    and for an address that contains a secret.
    """
    began = time.monotonic()
    url = url.rstrip("/").removesuffix("/v1")
    if "@" in url:
        reason = "the address contains a password, which would be printed"
        raise BadUsage(reason, "give it as --api-key")
    target = _target(url if "://" in url else f"http://{url}", model, api_key)

    def say(item: str) -> None:
        seconds = time.monotonic() - began
        show(Progress(phase="serving", seconds=seconds, line="", item=item, free_bytes=None))

    workload = Workload(probe=probe or Effort(effort="quick"))
    result = certify(target, workload, patience=patience, say=say)
    return Stable(certificate=result) if isinstance(result, Certificate) else result


def _target(url: str, model: str | None, api_key: str | None) -> Target:
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    cards = model_cards(url, headers)
    if isinstance(cards, str):
        hint = "check the address; a server with a key needs --api-key or VLLM_API_KEY"
        raise NoServer(f"no server at {url}: {cards}", hint)
    own = [card.name for card in cards if card.parent is None]
    names = [card.name for card in cards]
    wanted = [name for name in names if name == model] if model else own or names
    if not wanted:
        reason = f"the server at {url} does not serve {model or 'a model'}"
        raise BadUsage(reason, f"it serves {', '.join(names) or 'none'}")
    name = wanted[0]
    length = context_of(name, cards)
    if length is None:
        reason = f"the server at {url} does not tell the context length of {name}"
        raise NoServer(reason, "only vLLM servers can be probed")
    paths = served_paths(url, headers)
    return Target(
        url=url,
        model=name,
        max_model_len=length,
        max_num_seqs=SEQUENCES,
        vocab_size=VOCABULARY,
        kv_tokens=cache_tokens(url, headers),
        pooling=COMPLETIONS not in paths and not paths.isdisjoint(POOLING),
        shared=True,
        api_key=api_key,
    )
