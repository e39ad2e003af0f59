"""A launch configuration: vLLM's flags and variables on top of a model."""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self

from ..errors import BadUsage
from .flags import ALIASES, PARALLEL, PARTITION, SHORT, SPECULATIVE

Value = str | int | float | bool | tuple[str, ...]

# The value of --max-model-len with which vLLM serves the longest context that fits.
AUTO = "auto"

SUFFIXES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
SUFFIXES |= {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def parse_number(text: str) -> float | None:
    """Read a number as vLLM does: `8k` is 8000 and `8K` is 8192; None for other text."""
    match = re.fullmatch(r"(-?(?:[0-9]+\.?[0-9]*|\.[0-9]+))([kKmMgGtT]?)", text.strip())
    return float(match[1]) * SUFFIXES[match[2]] if match else None


def parse_arguments(words: Iterable[str]) -> dict[str, Value]:
    """Turn vLLM's command-line words into a mapping from flag name to value.

    Names lose their dashes in front and get dashes inside (`--max_model_len` is
    `max-model-len`). A flag without a value is True, and False if it was `--no-` so; one with
    several values is a tuple.

    Raises BadUsage for a word that belongs to no flag.
    """
    args: dict[str, Value] = {}
    name = ""
    for word in words:
        if re.match(r"--?[A-Za-z]", word):
            flag, equals, value = word.partition("=")
            if level := re.match(r"-O=?([^.=].*)", word):
                flag, equals, value = "-O", "=", level[1]
            short, dot, rest = flag.partition(".")
            name = SHORT.get(short, short.lstrip("-").replace("_", "-")) + dot + rest
            args.pop(name, None)  # of `--x --no-x` the one that is written last counts
            args[name] = value if equals else True
        elif not name:
            raise BadUsage(
                f"unexpected argument `{word}`",
                "vLLM's own arguments go after `--`: -- --dtype half --trust-remote-code",
            )
        elif (before := args[name]) is True:
            args[name] = word
        else:
            many = before if isinstance(before, tuple) else (str(before),)
            args[name] = (*many, word)
    return dict(_canonical(name, value) for name, value in args.items())


def _canonical(name: str, value: Value) -> tuple[str, Value]:
    name = ALIASES.get(name, name)
    if value is True and name.startswith("no-"):
        return name.removeprefix("no-"), False
    if name == "max-model-len" and str(value).lower() in (AUTO, "-1"):
        return name, AUTO
    return name, value


@dataclass(frozen=True, slots=True)
class LaunchConfig:
    """One way to launch vLLM: flags (without dashes) and environment on top of the model.

    Two configurations with the same content are equal, hash alike and have one fingerprint,
    whatever order they were written in.
    """

    model: str
    args: Mapping[str, Value] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("args", "env"):
            object.__setattr__(self, name, dict(sorted(getattr(self, name).items())))

    def __hash__(self) -> int:
        return hash((self.model, *self.args.items(), *self.env.items()))

    def replace(
        self, args: Mapping[str, Value | None] = {}, env: Mapping[str, str] = {}, model: str = ""
    ) -> Self:
        """Return a copy with these flags and variables set; None takes a flag away."""
        merged = {**self.args, **args}
        return type(self)(
            model or self.model,
            {name: value for name, value in merged.items() if value is not None},
            {**self.env, **env},
        )

    def number(self, name: str) -> float | None:
        """Return the flag's value as a number, None where it is absent or no number."""
        value = self.args.get(name)
        if value is None or isinstance(value, (bool, tuple)):
            return None
        return parse_number(str(value))

    def integer(self, name: str, default: int) -> int:
        value = self._whole(name)
        return default if value is None else value

    def text(self, name: str) -> str | None:
        value = self.args.get(name)
        return None if value is None or isinstance(value, bool | tuple) else str(value)

    @property
    def max_model_len(self) -> int | None:
        """Tokens of a request at most; None where it is not set, or left to vLLM."""
        return self._whole("max-model-len")

    @property
    def is_auto_length(self) -> bool:
        """Whether vLLM serves the longest context that fits."""
        return self.text("max-model-len") == AUTO

    @property
    def max_num_seqs(self) -> int | None:
        return self._whole("max-num-seqs")

    @property
    def tensor_parallel(self) -> int:
        return self.integer("tensor-parallel-size", 1)

    @property
    def pipeline_parallel(self) -> int:
        return self.integer("pipeline-parallel-size", 1)

    @property
    def partition(self) -> tuple[int, ...] | None:
        """How many layers each stage of the pipeline has, None where vLLM deals them out."""
        words = self.env.get(PARTITION, "").split(",")
        if len(words) != self.pipeline_parallel or not all(w.strip().isdecimal() for w in words):
            return None
        return tuple(map(int, words))

    @property
    def world_size(self) -> int:
        """How many devices it asks for, whether they exist or not."""
        return math.prod(self.integer(flag, 1) for flag in PARALLEL if flag in self.args)

    @property
    def utilization(self) -> float | None:
        """The share of each device that vLLM may use, None where it is not set."""
        return self.number("gpu-memory-utilization")

    @property
    def quantization(self) -> str | None:
        return self.text("quantization")

    @property
    def kv_cache_dtype(self) -> str:
        return self.text("kv-cache-dtype") or "auto"

    @property
    def cpu_offload_gib(self) -> float:
        """GiB of the weights that each device leaves in the host's memory."""
        return self.number("cpu-offload-gb") or 0.0

    @property
    def drafts(self) -> bool:
        """Whether tokens are guessed ahead (speculative decoding)."""
        return not {"speculative-config", *SPECULATIVE.values()}.isdisjoint(self.args)

    @property
    def expert_parallel(self) -> bool:
        return self.args.get("enable-expert-parallel") is True

    def _whole(self, name: str) -> int | None:
        value = self.number(name)
        return None if value is None else int(value)

    def flags(self) -> list[str]:
        """Return the command-line words for the flags alone, in canonical order."""
        words: list[str] = []
        for name, value in self.args.items():
            words.append(f"--{name}" if value is not False else f"--no-{name}")
            if isinstance(value, tuple):
                words.extend(value)
            elif not isinstance(value, bool):
                words.append(str(value))
        return words

    def fingerprint(self) -> str:
        """Return a digest that two configurations share only if they launch the same server."""
        content = json.dumps([self.model, self.flags(), list(self.env.items())])
        return hashlib.sha256(content.encode()).hexdigest()[:16]
