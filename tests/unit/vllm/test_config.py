"""Configurations: vLLM's own spelling of arguments, one canonical form, one fingerprint."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_autotune.errors import BadUsage
from vllm_autotune.vllm.config import LaunchConfig, Value, parse_arguments, parse_number

names = st.from_regex(r"(?!no-)[a-z]{2,8}(-[a-z]{2,6}){0,2}", fullmatch=True)
texts = st.from_regex(r"[A-Za-z0-9./_{}:\"= ]{1,12}", fullmatch=True)
values: st.SearchStrategy[Value] = st.one_of(
    st.booleans(), texts, st.lists(texts, min_size=2, max_size=3).map(tuple)
)
arguments = st.dictionaries(names, values, max_size=6)


@pytest.mark.parametrize(
    ("words", "args"),
    [
        ("--dtype half", {"dtype": "half"}),
        ("--dtype=half", {"dtype": "half"}),
        ("--max_model_len 4k", {"max-model-len": "4k"}),
        ("-tp 2 -pp=4 -q fp8", {
            "tensor-parallel-size": "2", "pipeline-parallel-size": "4", "quantization": "fp8",
        }),
        ("-O3 -ep", {"optimization-level": "3", "enable-expert-parallel": True}),
        ("-O=2", {"optimization-level": "2"}),
        ("-O 1", {"optimization-level": "1"}),
        ("-O.level=3", {"optimization-level.level": "3"}),
        ("--enforce-eager --seed -1", {"enforce-eager": True, "seed": "-1"}),
        ("--middleware a b c", {"middleware": ("a", "b", "c")}),
        ("--rope-scaling {\"a_b\":1}", {"rope-scaling": '{"a_b":1}'}),
        ("--compilation-config.cudagraph_mode=NONE", {
            "compilation-config.cudagraph_mode": "NONE",
        }),
        ("--dtype half --dtype auto", {"dtype": "auto"}),
        ("--no-enforce-eager", {"enforce-eager": False}),
        ("--enforce-eager --no-enforce-eager --enforce-eager", {"enforce-eager": True}),
        ("--no-enforce-eager --enforce-eager --no-enforce-eager", {"enforce-eager": False}),
        ("--gpu-memory-utilization .5 --device-memory-utilization .6 --gpu-memory-utilization .7", {
            "gpu-memory-utilization": ".7",
        }),
        ("--max-model-len -1", {"max-model-len": "auto"}),
        ("--max-model-len AUTO", {"max-model-len": "auto"}),
        ("--device-memory-utilization .5", {"gpu-memory-utilization": ".5"}),
        ("--served-model-name=a=b", {"served-model-name": "a=b"}),
        ("--chat-template ", {"chat-template": True}),
    ],
)  # fmt: skip
def test_vllms_arguments_are_read_as_vllm_reads_them(words: str, args: dict[str, Value]) -> None:
    assert parse_arguments(words.split()) == args


def test_a_word_that_belongs_to_no_option_is_refused() -> None:
    with pytest.raises(BadUsage, match="unexpected argument `half`"):
        parse_arguments(["half", "--dtype"])


@given(args=arguments)
def test_arguments_survive_a_round_trip(args: dict[str, Value]) -> None:
    config = LaunchConfig("m", args)
    assert parse_arguments(config.flags()) == config.args


@given(args=arguments, env=st.dictionaries(names, texts, max_size=3), seed=st.integers())
def test_the_order_of_writing_does_not_matter(
    args: dict[str, Value], env: dict[str, str], seed: int
) -> None:
    shuffled = list(args.items())
    random.Random(seed).shuffle(shuffled)
    one = LaunchConfig("m", args, env)
    other = LaunchConfig("m", dict(shuffled), dict(reversed(env.items())))
    assert one == other
    assert hash(one) == hash(other)
    assert one.fingerprint() == other.fingerprint()
    assert one.flags() == other.flags()


def test_another_launch_has_another_fingerprint() -> None:
    base = LaunchConfig("m", {"dtype": "half"}, {"VLLM_X": "1"})
    others = [
        base.replace({"dtype": "auto"}),
        base.replace({"dtype": None}),
        base.replace({"enforce-eager": True}),
        base.replace(env={"VLLM_X": "2"}),
        base.replace(model="n"),
    ]
    assert len({config.fingerprint() for config in [base, *others]}) == 6


def test_a_copy_leaves_the_original_alone() -> None:
    base = LaunchConfig("m", {"dtype": "half"})
    assert base.replace({"dtype": None, "seed": 1}).args == {"seed": 1}
    assert base.args == {"dtype": "half"}


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("8192", 8192), ("8k", 8000), ("8K", 8192), ("1.5M", 1572864), ("-1", -1), ("0.92", 0.92),
        (".92", 0.92), (" 7 ", 7), ("", None), ("auto", None), ("1e3", None), ("٣", None),
        ("8kk", None), ("inf", None), ("nan", None), ("0x10", None), ("1_000", None),
    ],
)  # fmt: skip
def test_numbers_are_read_as_vllm_reads_them(text: str, number: float | None) -> None:
    assert parse_number(text) == number


def test_a_value_that_is_no_number_reads_as_none() -> None:
    config = LaunchConfig("m", {"a": True, "b": ("1", "2"), "c": "auto", "d": 3, "e": "2K"})
    assert [config.number(name) for name in "abcdef"] == [None, None, None, 3, 2048, None]
    assert config.integer("e", 7) == 2048
    assert config.integer("f", 7) == 7
    assert [config.text(name) for name in "abcd"] == [None, None, "auto", "3"]
