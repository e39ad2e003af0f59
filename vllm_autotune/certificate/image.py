"""An image of our own making, for a multimodal model."""

import base64
import random
import struct
import zlib

from ..probe.prompt import Question

# Pixels to a side: more than one patch of any vision tower, and quick to send.
SIDE = 448


def about_image(rng: random.Random) -> Question:
    """Return a question about an image that nobody has seen before."""
    url = "data:image/png;base64," + base64.b64encode(png(SIDE, SIDE, rng)).decode()
    image = {"type": "image_url", "image_url": {"url": url}}
    return Question(content=[image, {"type": "text", "text": "What is this?"}])


def png(width: int, height: int, rng: random.Random) -> bytes:
    """Return an image of coloured noise (PNG specification, third edition, chapter 11)."""
    rows = b"".join(b"\0" + rng.randbytes(3 * width) for _ in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
