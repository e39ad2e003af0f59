"""Where the log of a check goes."""

import shutil
import tempfile
from pathlib import Path

import pytest

from tests.support.users import as_nobody, only_root, open_folder
from vllm_autotune.tuning.check import log_by


class Notes(list[str]):
    """Who watches a check, and hears notes alone."""

    def note(self, text: str) -> None:
        self.append(text)


def test_the_log_lies_by_the_report(tmp_path: Path) -> None:
    notes = Notes()
    assert log_by(tmp_path / "report.json", notes.note) == tmp_path / "check.log"
    assert notes == []


@only_root
def test_a_report_in_a_folder_of_another_user_is_checked_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    notes = Notes()

    def find() -> None:
        log = log_by(folder / "report.json", notes.note)
        log.write_text("x")
        shutil.rmtree(log.parent)
        raise RuntimeError(f"{log.name} {notes[0]}")

    with open_folder() as folder, open_folder() as temporary:
        temporary.chmod(0o1777)
        monkeypatch.setattr(tempfile, "tempdir", str(temporary))
        said = as_nobody(find)
        assert "check.log cannot write" in said
        assert "the log is " in said
        assert not (folder / "check.log").exists()
