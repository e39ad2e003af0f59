"""Ladders: those we ship, and every mistake named by its line."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_autotune.errors import BadLadder, did_you_mean
from vllm_autotune.search.ladder_file import find_ladder, read_ladder

SHIPPED = ("default", "long-context", "low-latency", "all-gpus")
RUNG = '[[rung]]\nname = "a"\ngives_up = "b"\n'


def mistake(tmp_path: Path, text: str) -> BadLadder:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(BadLadder) as refused:
        read_ladder(path)
    assert refused.value.exit_code == 2
    assert refused.value.hint
    return refused.value


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_ladder_reads_and_keeps_its_order(name: str) -> None:
    path = find_ladder(name)
    ladder = read_ladder(path)
    assert [rung.name for rung in ladder.rungs] == re.findall(
        r'^name = "(.+)"', path.read_text(), re.MULTILINE
    )
    assert ladder.name == name


def test_a_ladder_written_with_notepad_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(RUNG, encoding="utf-8-sig")
    ladder = read_ladder(path)
    assert ladder.text == RUNG
    assert [rung.name for rung in ladder.rungs] == ["a"]


def test_the_default_ladder_has_every_strategy() -> None:
    ladder = read_ladder(find_ladder("default"))
    touched = {flag for rung in ladder.rungs for flag in rung.flags()}
    assert touched >= {
        *("max-model-len", "max-num-seqs", "quantization", "cpu-offload-gb", "kv-cache-dtype"),
        *("gpu-memory-utilization", "tensor-parallel-size", "pipeline-parallel-size", "dtype"),
    }
    names = [rung.name for rung in ladder.rungs]
    assert names.index("shorter-context") < names.index("fp8-weights") < names.index("4bit-weights")
    assert names[-4:] == ["tensor-parallel", "pipeline-parallel", "cpu-offload", "text-only"]


def test_in_the_long_context_ladder_the_context_goes_last() -> None:
    assert read_ladder(find_ladder("long-context")).rungs[-1].name == "shorter-context"


@pytest.mark.parametrize(
    ("text", "line", "words", "hint"),
    [
        (RUNG + 'cure = ["load"]\n', 4, "unknown key `cure`", "did you mean `cures`?"),
        (RUNG + 'cures = ["lod"]\n', 4, "`cures` must be 'spawn'", "did you mean `load`?"),
        (RUNG + 'cures = [\n"load",\n"x"]\n', 6, "or 'preemptions', not \"x\"", "default.toml"),
        (RUNG + 'cures = "load"\n', 4, '`cures` must be a list, not "load"', "default.toml"),
        (RUNG + "\n" + RUNG.replace("name", "nam"), 6, "unknown key `nam`", "`name`"),
        (RUNG + "# start = 1\nstart = 1\n", 5, "`start` must be true or false, not 1", ""),
        (RUNG + RUNG.replace('"a"', '"start"') + "start = 1\n", 7, "`start`", ""),
        (RUNG + "when = 'cuda'\n", 4, '`when` must be a table, not "cuda"', ""),
        (RUNG + "[rung.when]\ndevice = 8\n", 5, "`device` must be text, not 8", ""),
        (RUNG + "when = { min_capabilty = '8.9' }\n", 4, "`min_capabilty`", "`min_capability`"),
        (RUNG + "when = { min_capability = '8' }\n", 4, 'such as "8.9", not "8"', ""),
        (RUNG + "when = { min_capability = 8.9 }\n", 4, 'such as "8.9", not 8.9', ""),
        (RUNG + "when = { min_gpus = true }\n", 4, "must be a whole number, not true", ""),
        (RUNG + 'fit = "max-model-length"\n', 4, '"max-model-length"', "`max-model-len`"),
        (RUNG + 'env = { LD_PRELOAD = "x.so" }\n', 4, "may not set LD_PRELOAD", "VLLM_"),
        (RUNG + "[rung.set]\n'--chat_template' = 'x'\n", 5, "may not set chat-template", ""),
        (RUNG + "args = { seed = 1 }\n", 4, "unknown key `args`", ""),
        (RUNG + "set = { max-num-seqs = 1979-05-27 }\n", 4, "`max-num-seqs` must be text", ""),
        (RUNG + "set = { seed = [1] }\n", 4, "`seed` must be text, a number, ", ""),
        (RUNG + 'set = { mode = { b = "c" } }\n', 4, "`mode`", ""),
        ('[[rung]]\ngives_up = "b"\n', 1, "`name` is missing", "add name ="),
        (RUNG + '[[rung]]\nname = "b"\n' + RUNG, 4, "`gives_up` is missing", "add gives_up ="),
        ("rungs = []\n", 1, "unknown key `rungs`", "`rung`"),
        ("[rung]\nname = 'a'\n", 1, "`rung` must be a list", ""),
        ("\nrung = [3]\n", 2, "`rung` must be a table, not 3", ""),
    ],
)
def test_a_mistake_is_named_with_its_line_and_what_was_meant(
    tmp_path: Path, text: str, line: int, words: str, hint: str
) -> None:
    refusal = mistake(tmp_path, text)
    assert f"mine.toml, line {line}: " in refusal.message
    assert words in refusal.message
    assert hint in refusal.hint


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "has no rungs"), ("x = \n", "not TOML"), (RUNG + RUNG, "two rungs are called `a`")],
)
def test_a_file_that_is_no_ladder_is_refused(tmp_path: Path, text: str, words: str) -> None:
    assert words in mistake(tmp_path, text).message


def test_a_ladder_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary.toml").write_bytes(b"\xff")
    for path in (tmp_path, tmp_path / "missing.toml", tmp_path / "binary.toml"):
        with pytest.raises(BadLadder, match=str(path)):
            read_ladder(path)


@given(text=st.text(max_size=200))
def test_no_text_at_all_breaks_the_reading(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BadLadder):
        read_ladder(path)


def test_rungs_may_be_written_inline_as_well(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('rung = [{ name = "a", gives_up = "b", set = { seed = [ "1", "2" ] } }]\n')
    rung = read_ladder(path).rungs[0]
    assert (rung.name, rung.args) == ("a", {"seed": ("1", "2")})


def test_flags_are_spelled_in_any_of_vllms_ways(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(RUNG + 'set = { "--max_num_seqs" = 4, enforce-eager = true }\n')
    assert read_ladder(path).rungs[0].args == {"max-num-seqs": 4, "enforce-eager": True}


def test_what_is_meant_is_the_closest_or_nothing() -> None:
    assert did_you_mean("utilisation", ["utilization", "context"]) == "did you mean `utilization`?"
    assert did_you_mean("xyz", ["utilization"]) == ""
