"""Keys, tokens and passwords: recognised by their names, and never written to disk."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

# The last word tells: HF_TOKEN, --hf-token, api_key; but not num_key_value_heads or MAX_TOKENS.
NAME = re.compile(
    r"(?:^|[-_.])(?:key|apikey|token|secret|password|passwd|passphrase|credentials?)$"
    r"|secret|^aws[-_]",
    re.IGNORECASE,
)
IN_JSON = re.compile(r"(?:api|access|auth|hf)[-_]?(?:key|token)$|secret|passw", re.IGNORECASE)
IN_ADDRESS = re.compile(r"://[^/\s:@]*:([^/\s@]+)@")
# Shorter ones occur in ordinary text, and so do these words and numbers that nobody uses as a key.
SHORTEST = 8
ORDINARY = re.compile(r"\d*|true|false|none|disabled|enabled|/.*", re.IGNORECASE)
HIDDEN = "[hidden]"


def is_credential(name: str, value: object) -> bool:
    """Tell whether a vLLM argument holds a secret."""
    return value is not True and (bool(NAME.search(name)) or any(_inside(str(value))))


def secrets_of(environment: Mapping[str, str], argv: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the secrets in what a process is started with, the longest first."""
    found: set[str] = set()
    for name, value in (*environment.items(), *_arguments(argv)):
        found.update([value] if NAME.search(name) else (), _inside(value))
    kept = {s for s in found if len(s) >= SHORTEST and not ORDINARY.fullmatch(s)}
    return tuple(sorted(kept, key=len, reverse=True))


def _arguments(argv: Sequence[str]) -> Iterator[tuple[str, str]]:
    name = ""
    for word in argv:
        value = word
        if word.startswith("-"):
            name, _, value = word.lstrip("-").partition("=")
        yield name, value


def _inside(value: str) -> Iterator[str]:
    """Yield the secrets within a value: the password of an address, or entries of JSON."""
    yield from IN_ADDRESS.findall(value)
    if value.lstrip().startswith("{"):
        with suppress(ValueError):
            yield from _entries(json.loads(value))


def _entries(document: Any) -> Iterator[str]:
    lists = enumerate(document) if isinstance(document, list) else ()
    for name, value in document.items() if isinstance(document, dict) else lists:
        if isinstance(value, str) and IN_JSON.search(str(name)):
            yield value
        yield from _entries(value)
