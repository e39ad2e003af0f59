"""Requests of the user's own, one per line of a file."""

import hashlib
import json
from pathlib import Path

from ..errors import BadUsage
from ..files import read_bytes, read_text
from ..probe.prompt import CHAT, COMPLETIONS, Prompt
from .items import OWN_REQUESTS

HINT = 'each line must be one JSON object: {"messages": [...]} or {"prompt": "..."}'


def read_requests(path: str) -> list[Prompt]:
    """Read a file of requests, one per line. Raises BadUsage, naming the line."""
    try:
        text = read_text(Path(path))
    except (OSError, ValueError) as error:
        raise BadUsage(f"--probe-file {path}: {error}", "check the path") from error
    lines = [(n, line) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        raise BadUsage(f"--probe-file {path} contains no requests", HINT)
    return [_request(path, number, line) for number, line in lines]


def fingerprint(path: str) -> str:
    """Return a digest of a file of requests, after reading each line as `read_requests` does."""
    read_requests(path)
    return hashlib.sha256(read_bytes(Path(path))).hexdigest()[:16]


def _request(file: str, number: int, line: str) -> Prompt:
    where = f"--probe-file {file}, line {number}"
    try:
        body = json.loads(line)
    except ValueError as error:
        raise BadUsage(f"{where}: not JSON: {error}", HINT) from error
    if not isinstance(body, dict) or ("messages" in body) == ("prompt" in body):
        raise BadUsage(f"{where}: not a request", HINT)
    return Prompt(
        item=f"{OWN_REQUESTS}, line {number}",
        body={key: value for key, value in body.items() if key != "model"},
        path=CHAT if "messages" in body else COMPLETIONS,
        stream=bool(body.get("stream")),
    )
