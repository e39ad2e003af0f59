"""The images of a request, as far as a server looks at them before its model does."""

import base64
import struct
import zlib
from typing import Any

SIGNATURE = b"\x89PNG\r\n\x1a\n"
PATCH = 32


class NoImage(Exception):
    """What was sent is no image, or only a part of one."""


def images_in(body: dict[str, Any]) -> list[tuple[int, int]]:
    """Return the width and height of every image. Raises NoImage."""
    parts = [
        part
        for message in body.get("messages", ())
        for part in (message["content"] if isinstance(message["content"], list) else ())
    ]
    return [size_of(part["image_url"]["url"]) for part in parts if part["type"] == "image_url"]


def size_of(url: str) -> tuple[int, int]:
    data = base64.b64decode(url.partition(",")[2])
    if not data.startswith(SIGNATURE):
        raise NoImage("cannot identify image file")
    place, pixels, size = len(SIGNATURE), b"", (0, 0)
    while place + 12 <= len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        kind, body = data[place + 4 : place + 8], data[place + 8 : place + 8 + length]
        if kind == b"IHDR":
            size = struct.unpack(">II", body[:8])
        if kind == b"IEND":
            zlib.decompress(pixels)
            return size[0], size[1]
        pixels += body if kind == b"IDAT" else b""
        place += 12 + length
    raise NoImage("image file is truncated")


def tokens_of(size: tuple[int, int], most: int) -> int:
    """Return the tokens of an image, which is made smaller if it has more than `most` patches."""
    width, height = (-(-side // PATCH) for side in size)
    return min(most, width * height)
