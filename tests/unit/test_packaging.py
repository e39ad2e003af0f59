"""Rules about the package itself: who imports what, how fast it starts, which version it is."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import vllm_autotune
from tests.support.command import computing_seconds
from tests.support.paths import ROOT

PACKAGE = Path(vllm_autotune.__file__).parent

# What may import each outside world: a room, or a module. Layers are import-linter's.
ONLY = {
    "click": ("cli",),
    "rich": ("console",),
    "pynvml": ("machine",),
    "subprocess": ("server", "vllm/installation.py"),
    "psutil": ("server",),
    "httpx": ("probe",),
    "huggingface_hub": ("checkpoint",),
    "yaml": ("deploy/yaml_text.py",),
    "pygal": ("console/charts.py",),
}
NEVER = ("torch", "vllm")
NOT_AT_START = (
    "torch",
    "vllm",
    "pandas",
    "pygal",
    "yaml",
    "huggingface_hub",
    "pydantic",
    "rich",
    "asyncio",
)
HELP = "import sys; sys.argv[1:] = ['--help']; from vllm_autotune.cli import main; main()"


def imports(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Yield the top-level name of everything imported from outside the package."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.split(".")[0]


def run_on_import(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield every node but those inside functions, which run later, and those for mypy alone."""
    for node in ast.iter_child_nodes(tree):
        for_mypy = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if not for_mypy and not isinstance(
            node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
        ):
            yield node
            yield from run_on_import(node)


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def test_each_outside_world_has_one_door_and_vllm_and_torch_none() -> None:
    for path in sorted(PACKAGE.glob("**/*.py")):
        tree, module = parsed(path), str(path.relative_to(PACKAGE))
        for name in imports(ast.walk(tree)):
            assert name not in NEVER, f"{module} imports {name}"
            assert module.startswith(ONLY.get(name, "")), f"{module} imports {name}"
        assert "pandas" not in set(imports(run_on_import(tree))), f"{module} imports pandas at once"


def test_help_imports_nothing_heavy() -> None:
    finish = f"print('heavy:', sorted(set({NOT_AT_START}) & set(sys.modules)))"
    code = f"import atexit, sys; atexit.register(lambda: {finish}); {HELP}"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Usage" in shown.stdout
    assert shown.stdout.splitlines()[-1] == "heavy: []"


def test_help_is_quick() -> None:
    """In computing time, by the pace of a machine that loads click in 0.05 s."""
    runs = [(computing_seconds(HELP), computing_seconds("import click")) for _ in range(3)]
    fastest, pace = (min(seconds) for seconds in zip(*runs, strict=True))
    assert fastest < 6 * pace, runs


def test_changelog_is_about_this_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## \[(\d[^\]]*)\]", changelog, re.MULTILINE)
    assert newest is not None
    assert newest[1] == vllm_autotune.__version__
