"""What CI servers read: valid by their own schemas, with nothing that can move under it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

WORKFLOW = ROOT / ".github" / "workflows" / "action.yml"
FILES = {
    "vendor.github-actions": ROOT / "action.yml",
    "vendor.github-workflows": WORKFLOW,
    "vendor.gitlab-ci": ROOT / "templates" / "gitlab.yml",
}


@pytest.mark.parametrize(("schema", "file"), FILES.items(), ids=FILES)
def test_a_file_is_valid_by_the_schema_of_who_reads_it(schema: str, file: Path) -> None:
    checker = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema]
    done = subprocess.run([*checker, str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("file", [ROOT / "action.yml", WORKFLOW], ids=["action", "workflow"])
def test_every_action_that_is_used_is_pinned_to_a_commit(file: Path) -> None:
    used = re.findall(r"uses: (\S+)(.*)", file.read_text())
    assert used
    for name, comment in used:
        assert name == "./" or re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", name), name
        assert name == "./" or re.fullmatch(r" # v\d+\.\d+\.\d+", comment), comment


def test_the_scripts_of_the_action_are_given_no_text_but_variables() -> None:
    scripts = re.findall(r"run: \|\n((?: {8}.*\n)+)", (ROOT / "action.yml").read_text())
    assert len(scripts) == 3
    assert not [script for script in scripts if "${{" in script]
