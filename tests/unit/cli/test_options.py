"""Options: how their values are read, and what becomes of them."""

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.command import Autotune, flags
from vllm_autotune.cli.options import (
    KeyOptions,
    ModelOptions,
    PlanOptions,
    VllmOptions,
)
from vllm_autotune.cli.parsed import parse_effort, parse_ports, parse_tokens
from vllm_autotune.tuning.gather import Request
from vllm_autotune.units import parse_capability


@given(st.integers(1, 10**12))
def test_a_number_of_tokens_is_read_as_vllm_reads_it(number: int) -> None:
    assert parse_tokens(str(number)) == number
    assert parse_tokens(f"{number}k") == number * 1000
    assert parse_tokens(f"{number}K") == number * 1024


@given(st.integers(1, 65535), st.integers(1, 65535))
def test_ports_are_read_where_they_are_in_order(first: int, last: int) -> None:
    assert parse_ports(str(first)) == range(first, first + 1)
    if first <= last:
        assert parse_ports(f"{first}-{last}") == range(first, last + 1)
    else:
        with pytest.raises(ValueError, match="from 1 to 65535"):
            parse_ports(f"{first}-{last}")


def test_values_are_read() -> None:
    assert parse_tokens("1.5k") == 1500
    assert parse_effort("quick") == ("quick", 0.0)
    assert parse_effort("standard") == ("standard", 0.0)
    assert parse_effort("soak") == ("soak", 10.0)
    assert parse_effort("soak=2.5") == ("soak", 2.5)
    assert parse_capability("8.9") == (8, 9)
    assert parse_capability("12.0") == (12, 0)


BAD: dict[Callable[[str], Any], list[str]] = {
    parse_tokens: ["0", "-5", "abc", "1.5", "", "1e9", "nan", "٣", "0k"],
    parse_effort: ["hard", "soak=", "soak=0", "soak=x", "quick=1", "", "Quick"],
    parse_ports: ["x", "9-", "0-5", "9-3", "1-70000", "-5", "", "0", "8100-8199-8200"],
    parse_capability: ["eight", "8", "8.", "8.10", "", "8.9 "],
}


@pytest.mark.parametrize(
    ("parse", "text"), [(p, text) for p, texts in BAD.items() for text in texts]
)
def test_what_cannot_be_read_is_an_error_that_says_what_it_must_be(
    parse: Callable[[str], Any], text: str
) -> None:
    with pytest.raises(ValueError, match=r"such as|quick, standard, soak"):
        parse(text)


TOKENS = "must be a whole number of at least 1, such as 8192, 8k (8000) or 8K (8192)"


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--context", "-5", f"{TOKENS}, not `-5`"),
        ("--min-context", "abc", f"{TOKENS}, not `abc`"),
        ("--concurrency", "", f"{TOKENS}, not ``"),
        ("--max-launches", "0", f"{TOKENS}, not `0`"),
        ("--memory-limit", "1e3G", "`1e3G` is not an amount of memory; write a number and a unit"),
        ("--headroom", "-1G", "`-1G` is not an amount of memory"),
        ("--time-budget", "0", "0.0 is not in the range x>0"),
        ("--launch-timeout", "-1", "-1.0 is not in the range x>0"),
        ("--wait", "soon", "'soon' is not a valid float"),
        ("--probe", "", "must be quick, standard, soak or soak=MINUTES, not ``"),
        ("--probe", "soak=0", "must be quick, standard, soak or soak=MINUTES, not `soak=0`"),
        ("--port-range", "-5", "must be a range of ports from 1 to 65535, such as 8100-8199"),
        ("--capability", "eight", 'must be a compute capability such as "8.9", not `eight`'),
    ],
)
def test_a_bad_value_names_its_option(
    autotune: Autotune, option: str, value: str, words: str
) -> None:
    ended = autotune("--model", "m", f"{option}={value}")
    ended.refused(2, f"Invalid value for '{option}': {words}", hint=False)


def test_every_option_of_a_request_is_part_of_it() -> None:
    """All but the ladder's and the probe's are passed on by their names."""
    groups = (PlanOptions, KeyOptions, ModelOptions, VllmOptions)
    named = {f.name for group in groups for f in fields(group)}
    of_the_probe = {name for name in named if name.startswith(("probe_", "soak_"))}
    passed = named - of_the_probe - {"skip", "count"}
    assert passed == {field.name for field in fields(Request)} - {"asked", "keep_busy", "like"}


@pytest.mark.parametrize("effort", ["quick", "standard", "soak", "soak=2.5"])
def test_an_effort_is_part_of_the_answers_key(autotune: Autotune, model: Path, effort: str) -> None:
    usual = autotune("cache", "key", "--model", str(model))
    key = autotune("cache", "key", "--model", str(model), "--probe", effort)
    assert key.code == 0, key.err
    assert (key.out == usual.out) is (effort == "standard")


@pytest.mark.parametrize("name", ["logprobs", "image", "schema"])
def test_what_a_probe_asks_for_is_part_of_the_answers_key(
    autotune: Autotune, model: Path, name: str
) -> None:
    usual = autotune("cache", "key", "--model", str(model))
    key = autotune("cache", "key", "--model", str(model), f"--probe-{name}")
    assert key.code == 0, key.err
    assert key.out != usual.out


@pytest.mark.parametrize(
    ("option", "variable"), [("--no-probe-image", "0"), ("--probe-image", "1")]
)
def test_images_are_required_or_left_out_as_every_option_is_given(
    autotune: Autotune, model: Path, monkeypatch: pytest.MonkeyPatch, option: str, variable: str
) -> None:
    """A third answer, the usual one, is neither: the model decides."""
    key = ("cache", "key", "--model", str(model))
    usual, asked = autotune(*key).out, autotune(*key, option).out
    assert asked != usual
    monkeypatch.setenv("AUTOTUNE_PROBE_IMAGE", variable)
    assert autotune(*key).out == asked
    monkeypatch.delenv("AUTOTUNE_PROBE_IMAGE")
    Path("autotune.toml").write_text(f"probe_image = {'true' if variable == '1' else 'false'}\n")
    assert autotune(*key).out == asked


@pytest.mark.parametrize("option", ["--probe-image", "--no-probe-image"])
def test_what_was_asked_of_images_is_in_the_commands_of_the_alternatives(
    autotune: Autotune, model: Path, option: str
) -> None:
    plan = autotune("plan", "--json", "--device", "2 x RTX 4090", "--model", model, option)
    commands = [other["command"] for other in json.loads(plan.out)["alternatives"]]
    assert commands
    assert all(option in command for command in commands)


def test_the_environment_gives_options_and_the_command_line_wins(
    autotune: Autotune, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOTUNE_MODEL", str(model))
    monkeypatch.setenv("AUTOTUNE_MEMORY_LIMIT", "1MiB")
    monkeypatch.setenv("AUTOTUNE_CONTEXT", "2048")
    assert "--max-model-len 2048" in flags(autotune("plan", "--json"))
    assert "--max-model-len 1024" in flags(autotune("plan", "--json", "--context", "1024"))
    assert autotune("tune").code == 1
    monkeypatch.setenv("AUTOTUNE_MEMORY_LIMIT", "none of it")
    autotune("tune").refused(2, "none of it", hint=False)
