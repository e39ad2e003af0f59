"""Turn logs that a GPU run left into golden logs.

    python -m tests.golden.adopt OUT [CASE/TRIAL=NAME ...]

OUT is what `tests/gpu/run.py` wrote. Without words, lists its launches and what became of each,
those first whose cause no log of that version shows yet. With words, writes
`tests/golden/<version>-h200/<name>.log` and a verdict beside it: what autotune said while the
server ran, which must be what its log says by itself. Read it against the log before it is kept.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.support.paths import GOLDEN
from vllm_autotune.diagnose import LogReader
from vllm_autotune.outcome import Readings

GIB = 2**30
DEVICE = "h200"
# What a verdict file holds of an outcome, besides its kind.
VERDICT = ("cause", "phase", "argument", "where", "shortfall_bytes", "limit")


@dataclass(frozen=True)
class Launch:
    """One launch of a run: its number, the live verdict, and its log."""

    case: str
    version: str
    trial: dict[str, Any]
    log: Path

    @property
    def word(self) -> str:
        return f"{self.case}/{self.trial['number']}"

    @property
    def cause(self) -> tuple[str, str]:
        outcome = self.trial["outcome"]
        return str(outcome.get("cause", "ready")), str(outcome.get("phase", "serving"))


def launches(out: Path) -> Iterator[Launch]:
    """Yield the launches whose logs were kept."""
    for path in sorted((out / "reports").glob("*/report.json")):
        report, case = json.loads(path.read_text()), path.parent.name
        for trial in report["trials"]:
            log = out / "logs" / case / trial["log"]
            if log.exists():
                yield Launch(case, report["versions"]["vllm"], trial, log)


def in_gib(numbers: dict[str, Any]) -> dict[str, Any]:
    """Return numbers as verdict files have them: memory in GiB, nothing unknown."""
    found = {}
    for name, value in numbers.items():
        if value is None:
            continue
        whole = name.endswith("_bytes")
        found[name.replace("_bytes", "_gib")] = round(value / GIB, 10) if whole else value
    return found


def verdict_of(launch: Launch) -> dict[str, Any]:
    """Return the verdict file of a launch.

    Raises ValueError where the log by itself says something else than autotune did.
    """
    reader, failed = LogReader(), launch.trial["outcome"]["kind"] != "stable"
    reader.feed(launch.log.read_text())
    code = launch.trial["outcome"].get("exit_code")
    if failed and not reader.ready and code is None:
        code = 1
    found = reader.verdict(exit_code=code)
    said = launch.cause if failed else None
    seen = (found.cause, found.phase) if found else None
    if said != seen:
        raise ValueError(f"{launch.word}: autotune said {said}, the log says {seen}")
    outcome = {name: getattr(found, name) for name in VERDICT if hasattr(found, name)}
    readings: Readings = reader.readings
    return {
        "exit_code": code,
        "reached": reader.phase,
        "ready": reader.ready,
        "outcome": found.kind if found else None,
        "verdict": in_gib(outcome),
        "readings": in_gib(asdict(readings)),
    }


def known(folder: Path) -> set[tuple[str, str]]:
    """Return cause and phase of every verdict in a folder."""
    found = set()
    for path in folder.glob("*.json"):
        verdict = json.loads(path.read_text())["verdict"]
        found.add((verdict.get("cause", "ready"), verdict.get("phase", "serving")))
    return found


def main() -> int:
    """List the launches, or adopt those named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("out", type=Path)
    parser.add_argument("word", nargs="*", metavar="CASE/TRIAL=NAME")
    asked = parser.parse_args()
    there = {launch.word: launch for launch in launches(asked.out)}
    if not asked.word:
        new = {w: x.cause not in known(GOLDEN / f"{x.version}-{DEVICE}") for w, x in there.items()}
        for word in sorted(there, key=lambda word: not new[word]):
            cause, phase = there[word].cause
            print(f"{'new ' if new[word] else '    '}{word}: {cause} in {phase}")
        return 0
    for word in asked.word:
        which, _, name = word.partition("=")
        if which not in there or not name:
            parser.error(f"{word}: write CASE/TRIAL=NAME; there are {', '.join(there)}")
        launch = there[which]
        try:
            verdict = verdict_of(launch)
        except ValueError as error:
            print(error, file=sys.stderr)
            return 1
        target = GOLDEN / f"{launch.version}-{DEVICE}" / f"{name}.log"
        target.parent.mkdir(exist_ok=True)
        target.write_text(launch.log.read_text())
        target.with_suffix(".json").write_text(json.dumps(verdict, indent=2) + "\n")
        print(f"{target}: read its verdict against it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
