"""Requests of the user's own, read before anything is launched; and a picture."""

import random
import struct
import zlib
from pathlib import Path

import pytest

from vllm_autotune.certificate.extras import fingerprint, png, read_requests
from vllm_autotune.errors import BadUsage


def test_a_file_of_requests_is_read(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "a"}\n\n{"messages": [], "max_tokens": 3}\n')
    first, second = read_requests(str(file))
    assert (first.line, first.path) == (1, "/v1/completions")
    assert (second.line, second.path, second.body["max_tokens"]) == (3, "/v1/chat/completions", 3)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no request"),
        ('{"prompt": "a"}\n{"prompt": ', "line 2: no JSON"),
        ('{"prompt": "a"}\n\n"b"', "line 3"),
        ('{"max_tokens": 1}', "line 1"),
        ('{"prompt": "a", "messages": []}', "line 1"),
    ],
)
def test_a_bad_file_is_refused_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(text)
    with pytest.raises(BadUsage, match=words):
        read_requests(str(file))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadUsage, match=r"none\.jsonl"):
        fingerprint(str(tmp_path / "none.jsonl"))


def test_the_digest_is_that_of_the_content(tmp_path: Path) -> None:
    files = [tmp_path / "a", tmp_path / "b", tmp_path / "c"]
    for file, prompt in zip(files, "xxy", strict=True):
        file.write_text(f'{{"prompt": "{prompt}"}}')
    a, b, c = (fingerprint(str(file)) for file in files)
    assert a == b != c


def test_the_picture_is_a_png_with_every_pixel() -> None:
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
