"""What is sent as an image is one, and what is sent as a broken one is none."""

import random
import struct
import zlib

from vllm_autotune.certificate.image import HEADER, SHAPES, broken_images, png


def test_the_image_is_a_png_with_every_pixel() -> None:
    data = png(5, 3, random.Random(1))
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    place, chunks = 8, {}
    while place < len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        kind, body = data[place + 4 : place + 8], data[place + 8 : place + 8 + length]
        (crc,) = struct.unpack(">I", data[place + 8 + length : place + 12 + length])
        assert crc == zlib.crc32(kind + body)
        chunks[kind] = body
        place += 12 + length
    assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    assert struct.unpack(">IIBBBBB", chunks[b"IHDR"]) == (5, 3, 8, 2, 0, 0, 0)
    assert len(zlib.decompress(chunks[b"IDAT"])) == 3 * (1 + 3 * 5)
    assert data != png(5, 3, random.Random(2))


def test_an_image_of_many_pixels_is_small_to_send() -> None:
    largest = max(SHAPES)
    assert len(png(*largest, random.Random(1))) < 2**19


def test_a_broken_image_begins_like_one_or_is_none() -> None:
    begun, *others = broken_images(random.Random(1)).values()
    assert begun.startswith(HEADER)
    assert b"IEND" not in begun
    assert not any(other.startswith(HEADER) for other in others)
