"""The installed vLLM: its version, flags and defaults, read from its files as text.

Importing vLLM costs eight seconds and a CUDA context; parsing it costs a tenth of a second.
"""

import ast
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Literal

from ..files import text_of
from .config import LaunchConfig
from .versions import BITSANDBYTES_PLUGIN, UTILIZATION_92, Release

# The newest version that the estimates were compared with.
ASSUMED = "0.32.0"


@dataclass(frozen=True)
class Engine:
    """A vLLM: `python` runs it, `package` is its folder, `command` starts a server.

    One that is not `installed` has no files: it is assumed to have every flag. A CPU build that
    `stands_in` for the vLLM of a GPU has its flags, but lacks what is installed beside that one.
    `added` are quantization methods to reckon with though they are not installed.
    """

    python: str
    package: Path
    version: str
    platform: Literal["cuda", "cpu"]
    torch: str | None
    command: tuple[str, ...]
    installed: bool = True
    added: frozenset[str] = frozenset()
    stands_in: bool = False

    @cached_property
    def release(self) -> Release:
        return tuple(int(part) for part in re.findall(r"\d+", self.version.split("+")[0])[:3])

    def argv(self, config: LaunchConfig) -> list[str]:
        """Return the words that start a configuration, without host, port, name or keys."""
        option = [] if self.command[-1] == "serve" else ["--model"]  # `vllm serve MODEL`
        return [*self.command, *option, config.model, *config.flags()]

    @cached_property
    def flags(self) -> frozenset[str]:
        """Return every long option of the API server, without dashes (`max-model-len`).

        Source: string arguments of `add_argument` in engine/arg_utils.py and
        entrypoints/**/cli_args.py (all versions from 0.6.6 to 0.33).
        """
        return _flags(self.package)

    @cached_property
    def quantizations(self) -> frozenset[str]:
        """Return the quantization methods that work here, plugins included."""
        names = self._literals("model_executor/layers/quantization/__init__.py", "Quantization")
        site = self.package.parent
        # With vLLM's own as with the plugin, bitsandbytes needs the package of that name.
        names |= {"bitsandbytes"} if (site / "vllm_bnb_plugin").is_dir() else set()
        if self.stands_in:
            return frozenset(names)
        return frozenset(names if (site / "bitsandbytes").is_dir() else names - {"bitsandbytes"})

    def quantizes(self, method: str) -> bool:
        """Tell whether this vLLM has a quantization method; assume so if that was unreadable."""
        if method in self.added:
            return True
        if not self.quantizations:
            return method != "bitsandbytes" or self.release < BITSANDBYTES_PLUGIN
        return method in self.quantizations

    def least_capability(self, method: str) -> tuple[int, int] | None:
        """Return the compute capability that a quantization method needs, None if unreadable.

        Source: `get_min_capability` of the method's class, model_executor/layers/quantization/.
        """
        return _least_capability(self.package / "model_executor/layers/quantization", method)

    @cached_property
    def has_flashinfer(self) -> bool:
        """Tell whether FlashInfer is installed beside vLLM; every CUDA build depends on it."""
        folder = self.package.parent / "flashinfer"
        return folder.is_dir() or not self.installed or self.stands_in

    @cached_property
    def kv_cache_dtypes(self) -> frozenset[str]:
        return frozenset(self._literals("config/cache.py", "CacheDType"))

    @cached_property
    def default_utilization(self) -> float:
        """The default of `--gpu-memory-utilization`."""
        files = ("config/cache.py", "config/__init__.py", "config.py", "engine/arg_utils.py")
        text = "\n".join(text_of(self.package / file) for file in files)
        match = re.search(r"gpu_memory_utilization: float = (?:Field\(default=)?([\d.]+)", text)
        assumed = 0.92 if self.release >= UTILIZATION_92 else 0.9
        return float(match[1]) if match else assumed

    def knows(self, flag: str) -> bool:
        """Tell whether this vLLM has the flag; assume so if its flags were unreadable."""
        return not self.flags or flag.partition(".")[0].removeprefix("no-") in self.flags

    def spelled_out(self, flag: str) -> str:
        """Return the full name of an abbreviated flag, as argparse finds it."""
        head, dot, rest = flag.partition(".")
        longer = [name for name in self.flags if name.startswith(head)]
        known = head in self.flags or len(longer) != 1
        return flag if known else longer[0] + dot + rest

    def _literals(self, file: str, name: str) -> set[str]:
        """Return the strings of the list or Literal assigned to a name beginning with `name`."""
        for node in _nodes(self.package / file):
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                target = node.targets[0] if isinstance(node, ast.Assign) else node.target
                spelled = getattr(target, "id", "").replace("_", "").lower()
                strings = set(_strings(node.value))
                if spelled.startswith(name.lower()) and strings:
                    return strings
        return set()


def assumed(version: str = ASSUMED) -> Engine:
    """Return an Engine to plan with where no vLLM is installed; it cannot be launched."""
    command = ("vllm", "serve")
    return Engine("", Path(os.devnull), version, "cuda", None, command, installed=False)


@cache
def _least_capability(folder: Path, method: str) -> tuple[int, int] | None:
    found = _quantization_class(folder, method)
    for part in found.body if found else ():
        if getattr(part, "name", "") == "get_min_capability":
            returned = [n.value for n in ast.walk(part) if isinstance(n, ast.Return)]
            if returned and isinstance(returned[0], ast.Constant) and returned[0].value:
                return divmod(int(str(returned[0].value)), 10)
    return None


@cache
def _flags(package: Path) -> frozenset[str]:
    files = [package / "engine/arg_utils.py", *package.glob("entrypoints/**/cli_args.py")]
    calls = (n for file in files for n in _nodes(file) if isinstance(n, ast.Call))
    added = (call for call in calls if getattr(call.func, "attr", "") == "add_argument")
    words = (word for call in added for word in _strings(call))
    return frozenset(w[2:] for w in words if w.startswith("--") and " " not in w)


def _quantization_class(folder: Path, method: str) -> ast.ClassDef | None:
    """Return the class that the index of `folder` has for a method, None if unreadable."""
    index = folder / "__init__.py"
    names: dict[object, str] = {}
    for table in (node for node in _nodes(index) if isinstance(node, ast.Dict)):
        for key, value in zip(table.keys, table.values, strict=True):
            if isinstance(key, ast.Constant) and isinstance(value, ast.Name):
                names.setdefault(key.value, value.id)
    name = names.get(method)
    for node in _nodes(index):
        if isinstance(node, ast.ImportFrom) and name in [alias.name for alias in node.names]:
            module = (node.module or "").rpartition("quantization.")[2].replace(".", "/")
            classes = (n for n in _nodes(folder / f"{module}.py") if isinstance(n, ast.ClassDef))
            return next((found for found in classes if found.name == name), None)
    return None


def _nodes(file: Path) -> Iterator[ast.AST]:
    """Yield the syntax nodes of a Python file, none if it cannot be parsed."""
    with suppress(SyntaxError):
        yield from ast.walk(ast.parse(text_of(file)))


def _strings(node: ast.AST) -> Iterator[str]:
    for child in ast.walk(node):
        if isinstance(child, ast.Constant) and isinstance(child.value, str):
            yield child.value
