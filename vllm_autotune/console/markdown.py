"""Reports as Markdown, for the summary of a CI job (GitHub's flavour, also read by GitLab)."""

import re
from collections.abc import Iterable, Iterator, Sequence
from html import escape

from ..deploy import Service, shell
from ..errors import BadReport
from ..outcome import Stable
from ..report.report import Report
from .frame import to_frame
from .reports import LAUNCHES, launch_rows, report_rows
from .wording import clean, sentence

COLUMNS = (
    *("gpus", "gpu", "memory_gib", "model", "vllm", "status", "rungs", "context"),
    *("kv_cache_tokens", "launches", "seconds", "changes"),
)


def report_to_markdown(report: Report, distrust: BadReport | None = None) -> str:
    """Write a report; the line that starts the winner unless it is not to be trusted."""
    lines = [f"### autotune: {report.status}", "", _text(report.reason)]
    if report.hint:
        lines += ["", f"Hint: {_text(report.hint)}"]
    if report.winner and distrust is None:
        lines += ["", *_fenced(shell(Service(report)), "sh")]
    elif distrust is not None:
        lines += ["", f"No line to start it: {_text(f'{distrust.message}; {distrust.hint}')}"]
    lines += ["", *_table(("", ""), report_rows(report))]
    if not report.cache.hit:
        lines += ["", *_table(LAUNCHES, launch_rows(report)), *_failures(report)]
    return "\n".join(lines)


def reports_to_markdown(reports: Iterable[tuple[str, Report]]) -> str:
    """Write a table, a row for each report and its path."""
    cells = to_frame(reports)[list(COLUMNS)].astype("string").fillna("")
    header = [name.replace("_", " ") for name in COLUMNS]
    return "\n".join(_table(header, cells.itertuples(index=False)))


def _failures(report: Report) -> Iterator[str]:
    for trial in report.trials:
        outcome = trial.outcome
        if not isinstance(outcome, Stable) and outcome.evidence:
            # Within HTML, Markdown's own escapes are none.
            title = escape(clean(f"launch {trial.number}: {sentence(outcome)}"))
            yield from ("", f"<details><summary>{title}</summary>", "")
            yield from _fenced("\n".join(map(clean, outcome.evidence)))
            yield from ("", "</details>")


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield f"|{'---|' * len(header)}"
    yield from (f"| {' | '.join(map(_text, row))} |" for row in rows)


def _text(text: str) -> str:
    """Return text in which Markdown finds nothing of its own, nor HTML."""
    return re.sub(r"([\\`*_\[\]<>|~#&@])", r"\\\1", clean(text))


def _fenced(text: str, language: str = "") -> list[str]:
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}{language}", text, fence]
