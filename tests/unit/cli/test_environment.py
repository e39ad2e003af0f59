"""Variables in the place of options: each works, and one that is mistyped is named."""

import pytest

from tests.support.command import Autotune, flags
from tests.support.planning import DUMMY

PLAN = ("plan", "--device", "4090", "--json")


def test_the_model_and_its_fixed_arguments_can_be_variables(
    autotune: Autotune, model: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = autotune(*PLAN, "--model", model, *DUMMY, "--hf-overrides", '{"a": "b c"}')
    monkeypatch.setenv("AUTOTUNE_MODEL", str(model))
    monkeypatch.setenv("AUTOTUNE_FIXED", """--load-format dummy --hf-overrides '{"a": "b c"}'""")
    assert flags(autotune(*PLAN)) == flags(given)
    assert "--hf-overrides" in flags(given)
    fixed = autotune(*PLAN, "--", "--load-format", "dummy", "--dtype", "half")
    assert "--hf-overrides" not in flags(fixed)
    monkeypatch.setenv("AUTOTUNE_FIXED", "--dtype 'half")
    autotune(*PLAN).refused(2, "No closing quotation", hint=False)


def test_a_model_in_a_variable_is_enough_to_tune(
    autotune: Autotune, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOTUNE_MODEL", "/no/such/model")
    autotune().refused(3, "there is no model at /no/such/model")


@pytest.mark.parametrize(
    ("mistyped", "meant"),
    [
        ("AUTOTUNE_MEMORY_LIMT", "AUTOTUNE_MEMORY_LIMIT"),
        ("AUTOTUNE_CONTEXTS", "AUTOTUNE_CONTEXT"),
        ("AUTOTUNE_LOCKDIR", "AUTOTUNE_LOCK_DIR"),
        ("AUTOTUNE_TRUST_REPORTS", "AUTOTUNE_TRUST_REPORT"),
    ],
)
def test_a_mistyped_variable_is_refused_and_the_right_one_named(
    autotune: Autotune, monkeypatch: pytest.MonkeyPatch, mistyped: str, meant: str
) -> None:
    monkeypatch.setenv(mistyped, "1")
    for words in (("--model", "x"), ("cache", "list"), ("show",), ("schema",)):
        autotune(*words).refused(2, mistyped, f"did you mean `{meant}`?")


def test_a_variable_that_is_like_no_option_is_named_and_ignored(
    autotune: Autotune, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOTUNE_IMAGE_TAG", "7")
    ended = autotune("cache", "list")
    assert ended.code == 0
    assert "AUTOTUNE_IMAGE_TAG is ignored" in ended.err


@pytest.mark.parametrize("name", ["AUTOTUNE_DAYS", "AUTOTUNE_AS", "AUTOTUNE_URL", "AUTOTUNE_JSON"])
def test_the_variable_of_another_command_is_no_mistake(
    autotune: Autotune, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "1")
    ended = autotune("cache", "list")
    assert (ended.code, ended.err) == (0, "")
