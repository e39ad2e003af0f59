"""What is asked only of those who want it: requests of the user's own, and an image."""

import base64
import hashlib
import json
import random
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import BadUsage
from ..probe import CHAT, COMPLETIONS

# Pixels to a side: more than one patch of any vision tower, and quick to send.
SIDE = 448


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnRequest:
    """A request from a line of the user's file: where it goes, and its body."""

    line: int
    path: str
    body: Mapping[str, Any]


def read_requests(path: str) -> list[OwnRequest]:
    """Read a file with a request per line: a body with `messages`, or with `prompt`.

    Raises BadUsage, naming the line.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise BadUsage(f"--probe-file {path}: {error}", "check the path") from error
    lines = [(n, line) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        raise BadUsage(f"--probe-file {path} holds no request", HINT)
    return [_request(path, number, line) for number, line in lines]


def fingerprint(path: str) -> str:
    """Return a digest of a file of requests, once each line of it was read.

    Raises BadUsage, naming the line.
    """
    read_requests(path)
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]


HINT = 'each line is one JSON object: {"messages": [...]} or {"prompt": "..."}'


def _request(file: str, number: int, line: str) -> OwnRequest:
    where = f"--probe-file {file}, line {number}"
    try:
        body = json.loads(line)
    except ValueError as error:
        raise BadUsage(f"{where}: no JSON: {error}", HINT) from error
    if not isinstance(body, dict) or ("messages" in body) == ("prompt" in body):
        raise BadUsage(f"{where}: it is not a request", HINT)
    return OwnRequest(line=number, path=CHAT if "messages" in body else COMPLETIONS, body=body)


def picture(dice: random.Random) -> list[dict[str, Any]]:
    """Return what asks a chat about a picture that nobody has seen before."""
    url = "data:image/png;base64," + base64.b64encode(png(SIDE, SIDE, dice)).decode()
    return [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": "What is this?"},
    ]


def png(width: int, height: int, dice: random.Random) -> bytes:
    """Return a picture of coloured noise (PNG specification, third edition, chapter 11)."""
    rows = b"".join(b"\0" + dice.randbytes(3 * width) for _ in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
