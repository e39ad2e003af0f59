"""Write the table of results/examples/README.md from the reports beside it.

    python -m tests.gpu.page [--adopt OUT]

With --adopt, first takes over what `run.py` left in OUT: reports, and rows of its table.
"""

import argparse
import json
import re
import shutil
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.paths import EXAMPLES, ROOT

MARKS = ("<!-- table -->", "<!-- end of table -->")
COLUMNS = (
    *("case", "asked", "card", "launches", "naive", "seconds", "winner", "context", "KV tokens"),
    *("bare start", "ratio", "warm", "check"),
)
LEGEND = """\
`naive` is how many launches a ladder without arithmetic takes: the model as it is, then one more
for each rung from the top down to the winner's lowest, but for rungs that do not apply here (the
card does not need or cannot do it, the user fixed or skipped it, there is no such checkpoint).
`bare start` is the winner started again by `autotune check`, in seconds until it answers; `ratio`
is the tuning's seconds over the starts and the probe alone, `warm` the same without what the
winner's first start took longer than that second one. "-" was not measured.
"""
# Why a rung is passed over that a ladder without arithmetic would launch all the same.
# In the words of today and of 0.1.0.
BY_ARITHMETIC = re.compile(
    r"^(cannot|even|at most|may)|context (may )?fits?|^--concurrency \d+ needs"
    r"|^already at (?:the smallest batch|one sequence)|are few already|is the least already"
    r"|^a batch (?:needs|must hold)"
)


def naive_launches(report: Mapping[str, Any]) -> int | None:
    """Return the launches of a ladder that only tries one rung after another, None without end."""
    winner, name = report["winner"], report["ladder"]
    ladder = tomllib.loads((ROOT / "strategies" / f"{name}.toml").read_text())["rung"]
    if winner is None:
        return None
    tried = {rung["name"] for trial in report["trials"] for rung in trial["rungs"]}
    tried |= {s["rung"] for s in report["skipped"] if BY_ARITHMETIC.search(s["reason"])}
    names = [rung["name"] for rung in ladder if not rung.get("start")]
    lowest = max((names.index(rung) for rung in winner["rungs"] if rung in names), default=-1)
    return 1 + sum(name in tried for name in names[: lowest + 1])


def warm_ratio(report: Mapping[str, Any], row: Mapping[str, Any]) -> float:
    """Return the ratio if the winner had started as fast as it did when it was started again."""
    cold = max(0.0, report["trials"][-1]["startup_seconds"] - row["bare_start"])
    return float(row["ratio"] * (1 - cold / row["seconds"]))


def card(devices: Sequence[Mapping[str, Any]]) -> str:
    """Return how large a card was, or was rehearsed, and what others had left of it."""
    first, count = devices[0], len(devices)
    size = first["limit_bytes"] or first["memory_bytes"]
    left = f"{first['free_bytes'] / 2**30:.0f} of " if first["free_bytes"] < 0.9 * size else ""
    gib = f"{size / 2**30:.1f}".removesuffix(".0")
    return f"{f'{count} x ' if count > 1 else ''}{left}{gib} GiB"


def cells(name: str, report: Mapping[str, Any] | None, row: Mapping[str, Any]) -> list[str]:
    """Return one line of the table; `row` is what the run measured besides the report."""
    asked = row.get("asks", "-")
    if report is None:
        why = "; ".join(row.get("faults", ())) or "ended before it could report"
        return [name, asked, *["-"] * 4, why, *["-"] * 6]
    winner = report["winner"] or {}
    last = report["trials"][-1]["outcome"].get("reason", "") if report["trials"] else ""
    without = f"none: {last or report['reason']}"
    return [
        name,
        asked,
        card(report["devices"]),
        str(report["launches"]),
        str(naive_launches(report) or "-"),
        f"{report['elapsed_seconds']:.0f}",
        (", ".join(winner["rungs"]) or "as it is") if winner else without,
        f"{winner['max_model_len']:,}" if winner else "-",
        f"{winner['kv_cache_tokens']:,}" if winner.get("kv_cache_tokens") else "-",
        f"{row['bare_start']:.0f}" if row.get("bare_start") else "-",
        f"{row['ratio']:.2f}" if row.get("ratio") else "-",
        f"{warm_ratio(report, row):.2f}" if row.get("ratio") else "-",
        row.get("check", "-"),
    ]


def table(lines: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    rows = [COLUMNS, ["---"] * len(COLUMNS), *lines]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows)


def page(folder: Path) -> str:
    """Return the tables of all reports below a folder, one for each kind of machine."""
    parts = [LEGEND]
    for machine in sorted(path for path in folder.iterdir() if path.is_dir()):
        kept = machine / "table.json"
        rows = {row["case"]: row for row in json.loads(kept.read_text())} if kept.exists() else {}
        reports = {p.parent.name: json.loads(p.read_text()) for p in machine.glob("*/report.json")}
        lines = [
            cells(name, reports.get(name), rows.get(name, {})) for name in sorted({*reports, *rows})
        ]
        parts.append(f"### {machine.name}\n\n{table(lines)}\n")
    return "\n".join(parts)


def adopt(out: Path, machine: Path) -> None:
    """Take over reports and rows of a run; those that are there already give way."""
    kept = machine / "table.json"
    rows = {row["case"]: row for row in json.loads(kept.read_text())} if kept.exists() else {}
    for row in json.loads((out / "table.json").read_text()):
        if row["ok"] is not None:  # one that was not run says nothing
            rows[row["case"]] = row
    for path in sorted((out / "reports").glob("*/report.json")):
        target = machine / path.parent.name / "report.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    kept.write_text(json.dumps(list(rows.values()), indent=1) + "\n")


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--adopt", type=Path, action="append", default=[], metavar="OUT")
    parser.add_argument("--machine", default="h200")
    asked = parser.parse_args()
    for out in asked.adopt:
        adopt(out, EXAMPLES / asked.machine)
    readme = EXAMPLES / "README.md"
    before, _, rest = readme.read_text().partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    readme.write_text(f"{before}{MARKS[0]}\n{page(EXAMPLES)}{MARKS[1]}{after}")


if __name__ == "__main__":
    main()
