"""A runner for the steps of a composite action: what GitHub does with them, as far as ours need."""

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

EXPRESSION = re.compile(r"\$\{\{\s*(.+?)\s*\}\}")


@dataclass
class Runner:
    """A job's workspace. `stored` is GitHub's cache, `uploaded` what became an artifact."""

    folder: Path
    environment: Mapping[str, str]
    stored: dict[str, Path]
    uploaded: list[str] = field(default_factory=list)
    steps: dict[str, dict[str, str]] = field(default_factory=dict)
    summary: str = ""

    def run(self, action: Path, inputs: Mapping[str, str]) -> tuple[int, dict[str, str]]:
        """Run an action's steps in order; return the exit code and its outputs."""
        document = yaml.safe_load(action.read_text())
        defaults = {name: str(i.get("default", "")) for name, i in document["inputs"].items()}
        assert set(inputs) <= set(defaults)
        self.steps, code = {}, 0
        given = {**defaults, **inputs}
        for step in document["runs"]["steps"]:
            condition = step.get("if", "true")
            if (code and "always()" not in condition) or not self._holds(condition, given):
                continue
            filled = {
                name: {key: self._filled(str(value), given) for key, value in step[name].items()}
                for name in ("env", "with")
                if name in step
            }
            if "uses" in step:
                self._use(step["uses"], filled["with"])
            elif not step["name"].startswith("Install"):  # which takes a package registry
                code = self._script(step, filled.get("env", {})) or code
        outputs = {
            name: self._filled(output["value"], given)
            for name, output in document["outputs"].items()
        }
        return code, outputs

    def _script(self, step: Mapping[str, Any], env: Mapping[str, str]) -> int:
        output, summary = self.folder / "output", self.folder / "summary"
        output.write_text("")
        summary.write_text("")
        assert "${{" not in step["run"], "an input would be part of a script"
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
            env={
                **self.environment,
                **env,
                "GITHUB_OUTPUT": str(output),
                "GITHUB_STEP_SUMMARY": str(summary),
            },
            cwd=self.folder / "workspace",
            check=False,
        )
        self.steps[step.get("id", "")] = _outputs(output.read_text())
        self.summary = summary.read_text() or self.summary
        return done.returncode

    def _use(self, name: str, given: Mapping[str, str]) -> None:
        folder = self.folder / "workspace" / given["path"].split()[0]
        if name.startswith("actions/cache/restore@"):
            prefixes = [given["key"], *given["restore-keys"].split()]
            found = next((k for p in prefixes for k in self.stored if k.startswith(p)), None)
            if found:
                shutil.copytree(self.stored[found], folder, dirs_exist_ok=True)
        elif name.startswith("actions/cache/save@"):
            assert "," not in given["key"]
            assert given["key"] not in self.stored
            self.stored[given["key"]] = shutil.copytree(
                folder, self.folder.parent / f"cache-{len(self.stored)}"
            )
        else:
            assert name.startswith("actions/upload-artifact@")
            self.uploaded.append(given["name"])

    def _filled(self, text: str, inputs: Mapping[str, str]) -> str:
        return EXPRESSION.sub(lambda found: self._value(found[1], inputs), text)

    def _value(self, expression: str, inputs: Mapping[str, str]) -> str:
        if found := re.fullmatch(r"inputs\.([\w-]+)", expression):
            return inputs[found[1]]
        if found := re.fullmatch(r"steps\.(\w+)\.outputs\.([\w-]+)", expression):
            return self.steps.get(found[1], {}).get(found[2], "")
        if found := re.fullmatch(r"hashFiles\('(.+)'\)", expression):
            content = (self.folder / "workspace" / found[1]).read_bytes()
            return hashlib.sha256(content).hexdigest()
        assert expression == "github.action_path"
        return os.curdir

    def _holds(self, condition: str, inputs: Mapping[str, str]) -> bool:
        return all(self._compared(part.strip(), inputs) for part in condition.split("&&"))

    def _compared(self, part: str, inputs: Mapping[str, str]) -> bool:
        if part in ("true", "always()"):
            return True
        found = re.fullmatch(r"(\S+) (==|!=) '(.*)'", part)
        assert found, part
        return (self._value(found[1], inputs) == found[3]) == (found[2] == "==")


def _outputs(text: str) -> dict[str, str]:
    """Read a file of outputs: `name=value`, or `name<<end`, lines, `end`."""
    found, lines = {}, iter(text.splitlines())
    for line in lines:
        if heredoc := re.fullmatch(r"([\w-]+)<<(\S+)", line):
            value = []
            while (each := next(lines)) != heredoc[2]:
                value.append(each)
            found[heredoc[1]] = "\n".join(value)
        else:
            name, _, found_value = line.partition("=")
            found[name] = found_value
    return found
