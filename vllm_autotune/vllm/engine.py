"""The installed vLLM: its version, flags and defaults, read from its files as text.

Importing vLLM costs eight seconds and a CUDA context; parsing it costs a tenth of a second.
"""

import ast
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from .config import LaunchConfig

# The newest version whose own numbers the arithmetic was compared with.
ASSUMED = "0.32.0"

# From here on bitsandbytes is in a plugin, not in vLLM (PR #43529).
BITSANDBYTES_LEFT = (0, 28)


@dataclass(frozen=True)
class Engine:
    """A vLLM: `python` runs it, `package` is its folder, `command` starts a server.

    One that is not `installed` has no files: it is believed to know every flag.
    """

    python: str
    package: Path
    version: str
    platform: Literal["cuda", "cpu"]
    torch: str | None
    command: tuple[str, ...]
    installed: bool = True

    @property
    def release(self) -> tuple[int, ...]:
        """Return the version as numbers: (0, 32, 0)."""
        return tuple(int(part) for part in re.findall(r"\d+", self.version.split("+")[0])[:3])

    @property
    def fits_length(self) -> bool:
        """Tell whether `--max-model-len auto` serves what fits, and says so in `/v1/models`.

        The value is known since 0.14, the API server has the result since 0.20.
        """
        return self.release >= (0, 20)

    @property
    def takes_model_as_argument(self) -> bool:
        """Tell whether the model stands alone (`vllm serve M`) rather than after `--model`."""
        return self.command[-1] == "serve"

    def argv(self, config: LaunchConfig) -> list[str]:
        """Return the words that start a configuration, without host, port, name or keys."""
        model = [config.model] if self.takes_model_as_argument else ["--model", config.model]
        return [*self.command, *model, *config.flags()]

    @cached_property
    def flags(self) -> frozenset[str]:
        """Return every long option the API server has, without dashes (`max-model-len`).

        Source: string arguments of `add_argument` in engine/arg_utils.py and
        entrypoints/**/cli_args.py (all versions from 0.6.6 to 0.33).
        """
        names: set[str] = set()
        files = [self.package / "engine/arg_utils.py"]
        files += sorted((self.package / "entrypoints").rglob("cli_args.py"))
        for file in files:
            with suppress(OSError, SyntaxError):
                names.update(_options(ast.parse(file.read_text(encoding="utf-8"))))
        return frozenset(names)

    @cached_property
    def quantizations(self) -> frozenset[str]:
        """Return the names `--quantization` can really use, plugins included."""
        names = self._literals("model_executor/layers/quantization/__init__.py", "Quantization")
        site = self.package.parent
        # With vLLM's own as with the plugin, bitsandbytes needs the package of that name.
        if (site / "vllm_bnb_plugin").is_dir():
            names |= {"bitsandbytes"}
        if not (site / "bitsandbytes").is_dir():
            names -= {"bitsandbytes"}
        return frozenset(names)

    def quantizes(self, method: str) -> bool:
        """Tell whether this vLLM has a quantization; what could not be read is believed to be."""
        if not self.quantizations:
            return method != "bitsandbytes" or self.release < BITSANDBYTES_LEFT
        return method in self.quantizations

    def least_capability(self, method: str) -> tuple[int, int] | None:
        """Return the compute capability that a quantization method asks for, None if unread.

        Source: `get_min_capability` of the method's class, model_executor/layers/quantization/.
        """
        folder = "model_executor/layers/quantization"
        with suppress(SyntaxError):
            index = ast.parse(self._text(f"{folder}/__init__.py"))
            name = _class_of(index, method)
            for node in ast.walk(index):
                if isinstance(node, ast.ImportFrom) and name in [a.name for a in node.names]:
                    module = (node.module or "").rpartition("quantization.")[2].replace(".", "/")
                    number = _least_of(ast.parse(self._text(f"{folder}/{module}.py")), name)
                    return divmod(number, 10) if number else None
        return None

    @property
    def has_flashinfer(self) -> bool:
        """Tell whether FlashInfer is beside vLLM: every build for CUDA brings it along."""
        beside = (self.package.parent / "flashinfer").is_dir()
        return beside or not self.installed or "+cpu" in self.version

    @cached_property
    def kv_cache_dtypes(self) -> frozenset[str]:
        """Return the names `--kv-cache-dtype` accepts."""
        return frozenset(self._literals("config/cache.py", "CacheDType"))

    @cached_property
    def default_utilization(self) -> float:
        """Return the default of `--gpu-memory-utilization`: 0.9 until 0.19, 0.92 after."""
        for file in ("config/cache.py", "config/__init__.py", "config.py", "engine/arg_utils.py"):
            text = self._text(file)
            match = re.search(r"gpu_memory_utilization: float = (?:Field\(default=)?([\d.]+)", text)
            if match:
                return float(match[1])
        return 0.92 if self.release >= (0, 20) else 0.9

    def knows(self, flag: str) -> bool:
        """Tell whether this vLLM has the flag; what could not be read is believed to be there."""
        return not self.flags or flag.partition(".")[0].removeprefix("no-") in self.flags

    def spelled_out(self, flag: str) -> str:
        """Return the whole name of a flag that was shortened, as argparse finds it."""
        head, dot, rest = flag.partition(".")
        longer = [name for name in self.flags if name.startswith(head)]
        known = head in self.flags or len(longer) != 1
        return flag if known else longer[0] + dot + rest

    def _text(self, file: str) -> str:
        try:
            return (self.package / file).read_text(encoding="utf-8")
        except OSError:
            return ""

    def _literals(self, file: str, name: str) -> set[str]:
        """Return the strings of the list or Literal assigned to a name beginning with `name`."""
        with suppress(SyntaxError):
            for node in ast.walk(ast.parse(self._text(file))):
                if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                    target = node.targets[0] if isinstance(node, ast.Assign) else node.target
                    spelled = getattr(target, "id", "").replace("_", "").lower()
                    strings = set(_strings(node.value))
                    if spelled.startswith(name.lower()) and strings:
                        return strings
        return set()


def assumed() -> Engine:
    """Return what stands for vLLM where none is installed: enough to plan, not to launch."""
    nowhere = Path(os.devnull)
    return Engine("", nowhere, ASSUMED, "cuda", None, ("vllm", "serve"), installed=False)


def _class_of(index: ast.AST, method: str) -> str:
    """Return the class that a dictionary of classes has for a method, empty if there is none."""
    for node in ast.walk(index):
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                named = isinstance(key, ast.Constant) and key.value == method
                if named and isinstance(value, ast.Name):
                    return value.id
    return ""


def _least_of(module: ast.AST, name: str) -> int | None:
    """Return the number that a class's `get_min_capability` returns."""
    for node in ast.walk(module):
        if isinstance(node, ast.ClassDef) and node.name == name:
            for method in node.body:
                if getattr(method, "name", "") == "get_min_capability":
                    returned = [n.value for n in ast.walk(method) if isinstance(n, ast.Return)]
                    if returned and isinstance(returned[0], ast.Constant):
                        return int(str(returned[0].value))
    return None


def _options(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument":
            yield from (s[2:] for s in _strings(node) if s.startswith("--") and " " not in s)


def _strings(node: ast.AST) -> Iterator[str]:
    for child in ast.walk(node):
        if isinstance(child, ast.Constant) and isinstance(child.value, str):
            yield child.value
