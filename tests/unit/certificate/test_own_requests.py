"""Requests of the user's own, read before anything is launched."""

from pathlib import Path

import pytest

from vllm_autotune.certificate.own_requests import fingerprint, read_requests
from vllm_autotune.errors import BadUsage


def test_a_file_of_requests_is_read(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "a"}\n\n{"messages": [], "max_tokens": 3}\n')
    first, second = read_requests(str(file))
    assert (first.item, first.path) == ("your requests, line 1", "/v1/completions")
    assert (second.item, second.path) == ("your requests, line 3", "/v1/chat/completions")
    assert second.body["max_tokens"] == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "contains no requests"),
        ('{"prompt": "a"}\n{"prompt": ', "line 2: not JSON"),
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
