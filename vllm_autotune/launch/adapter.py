"""An adapter of the largest rank that a server allows, where those it is given are smaller."""

import json
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..checkpoint.tensors import Tensor, read_tensors
from ..errors import BadModel
from ..vllm.config import LaunchConfig

MODULES, RANK = "lora-modules", "max-lora-rank"
NAME = "autotune-largest-rank"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# What gives single layers another rank; and what an adapter has beside its two matrices each.
RANKS = ("rank_pattern", "alpha_pattern")
MATRICES = (".lora_A.weight", ".lora_B.weight")

Tensors = Mapping[str, Tensor]


@contextmanager
def largest_rank(config: LaunchConfig) -> Iterator[LaunchConfig]:
    """Yield the configuration with one adapter more, of the rank in `--max-lora-rank`.

    It has the layers of the first one that is given, and changes nothing: all its weights are
    zero. The configuration stays as it is where an adapter of that rank is given, or none is a
    local folder in PEFT's format.
    """
    rank = config.integer(RANK, 0)
    given = [path for path in map(_path, _words(config)) if path and (path / WEIGHTS).is_file()]
    found = [adapter for path in given if (adapter := _read(path))]
    if not found or any(_rank(settings) >= rank for settings, _ in found):
        yield config
        return
    with TemporaryDirectory(prefix="autotune-") as folder:
        _write(Path(folder), *found[0], rank)
        yield config.replace({MODULES: (*_words(config), f"{NAME}={folder}")})


def _words(config: LaunchConfig) -> tuple[str, ...]:
    value = config.args.get(MODULES)
    return value if isinstance(value, tuple) else (value,) if isinstance(value, str) else ()


def _path(word: str) -> Path | None:
    """Return where `name=path`, or the same as JSON, says that an adapter is."""
    if "=" in word and "," not in word:
        return Path(word.partition("=")[2])
    with suppress(ValueError, KeyError, TypeError):
        return Path(json.loads(word)["path"])
    return None


def _read(folder: Path) -> tuple[Mapping[str, Any], Tensors] | None:
    """Return an adapter's settings and tensors, None if it is no plain LoRA."""
    with suppress(OSError, ValueError, BadModel):
        settings = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        tensors, _ = read_tensors(folder / WEIGHTS)
        plain = all(n.endswith(MATRICES) and prod(t.shape) for n, t in tensors.items())
        plain = plain and {len(t.shape) for t in tensors.values()} == {2}
        if plain and isinstance(settings.get("r"), int):
            return settings, tensors
    return None


def _rank(settings: Mapping[str, Any]) -> int:
    patterns: Mapping[str, int] = settings.get("rank_pattern") or {}
    return max(int(settings["r"]), *patterns.values(), 0)


def _write(folder: Path, settings: Mapping[str, Any], tensors: Tensors, rank: int) -> None:
    """Write an adapter of zeros, which take no room on the disk."""
    same = {name: value for name, value in settings.items() if name not in RANKS}
    (folder / CONFIG).write_text(json.dumps({**same, "r": rank}), encoding="utf-8")
    described: dict[str, object] = {}
    end = 0
    for name, tensor in tensors.items():
        first, second = tensor.shape
        shape = (rank, second) if name.endswith(MATRICES[0]) else (first, rank)
        span, old = tensor.data_offsets, prod(tensor.shape)
        size = (span.stop - span.start) // old * prod(shape)
        place = {"dtype": tensor.dtype, "shape": shape, "data_offsets": (end, end + size)}
        described[name] = place
        end += size
    text = json.dumps(described).encode()
    with (folder / WEIGHTS).open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
