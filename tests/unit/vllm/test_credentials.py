"""Keys and tokens: known by their names, in flags, variables, JSON and addresses."""

import pytest

from vllm_autotune.vllm.config import Value
from vllm_autotune.vllm.credentials import is_credential, secrets_of

SECRET = "hf_abcdefghijkl"


@pytest.mark.parametrize(
    "name",
    ["HF_TOKEN", "OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "WANDB_API_KEY",
     "DB_PASSWORD", "my.secret", "CREDENTIALS"],
)  # fmt: skip
def test_a_variable_is_known_by_its_name(name: str) -> None:
    assert secrets_of({name: SECRET}) == (SECRET,)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MAX_TOKENS", "81928192"),
        ("TOKENIZERS_PARALLELISM", "disabled-please"),
        ("KEYBOARD_LAYOUT", "us-international"),
        ("HF_TOKEN", "short"),
        ("HF_TOKEN", "123456789"),
        ("SSL_KEY", "/etc/ssl/private.pem"),
        ("MONKEY", "business-as-usual"),
    ],
)
def test_ordinary_words_are_no_secrets(name: str, value: str) -> None:
    assert secrets_of({name: value}) == ()


def test_secrets_are_found_in_arguments_addresses_and_json() -> None:
    argv = [
        *("vllm", "serve", "m", "--hf-token", SECRET, "--api-key=key-0123456789"),
        *("--loader", '{"a": [{"secret_access_key": "s3-0123456789"}]}', "--max-num-seqs", "4"),
    ]
    found = secrets_of({"HTTPS_PROXY": "http://me:pass-word-1@proxy:80"}, argv)
    assert set(found) == {SECRET, "key-0123456789", "s3-0123456789", "pass-word-1"}
    assert [len(secret) for secret in found] == sorted(map(len, found), reverse=True)


@pytest.mark.parametrize(
    ("name", "value", "hidden"),
    [
        ("hf-token", SECRET, True),
        ("hf-token", True, False),
        ("api-key", "k", True),
        ("model-loader-extra-config", '{"aws_secret_access_key": "x"}', True),
        ("hf-overrides", '{"num_key_value_heads": "8"}', False),
        ("max-num-batched-tokens", 8192, False),
        ("long-prefill-token-threshold", 1, False),
    ],
)
def test_an_argument_that_holds_a_secret_is_not_written_down(
    name: str, value: Value, hidden: bool
) -> None:
    assert is_credential(name, value) is hidden
