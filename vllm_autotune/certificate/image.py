"""Images of our own making, for a multimodal model: sound, odd and broken ones."""

import base64
import random
import struct
import zlib
from collections.abc import Sequence

from ..probe.prompt import Question

# Pixels to a side: more than one patch of any vision tower, and quick to send.
SIDE = 448
# Widths and heights. Processors scale an image to a number of pixels, or cut it into tiles by its
# shape; the largest is the first with the most tokens: 4,096 pixels to a side reach the limits of
# Qwen2-VL to Qwen3-VL (16,384 tokens), 4 to 3 the twelve tiles of InternVL.
SHAPES = ((64, 64), (SIDE, SIDE), (1024, 1024), (1024, 768), (2048, 2048), (4096, 4096))
# What processors divide by, or compare with a limit.
ODD_SHAPES = ((1, 1), (3, 3), (4096, 1), (1, 4096))
HEADER = b"\x89PNG\r\n\x1a\n"


def about(images: Sequence[bytes], text: str) -> Question:
    """Return a question about images, which come before its text."""
    urls = ("data:image/png;base64," + base64.b64encode(image).decode() for image in images)
    parts: list[object] = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return Question(content=[*parts, {"type": "text", "text": text}])


def broken_images(rng: random.Random) -> dict[str, bytes]:
    """Return what a client sends instead of an image, by what it is."""
    whole = png(SIDE, SIDE, rng)
    return {
        "half an image": whole[: len(whole) // 2],
        "text": b"<html>not found</html>",
        "nothing": b"",
    }


def png(width: int, height: int, rng: random.Random) -> bytes:
    """Return an image whose columns are coloured noise, small even where it has many pixels.

    Every row after the first is told to be like the one above it (PNG specification, third
    edition, chapters 9 and 11).
    """
    rows = b"\0" + rng.randbytes(3 * width) + (b"\2" + bytes(3 * width)) * (height - 1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows, 1)), (b"IEND", b"")]
    return HEADER + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
