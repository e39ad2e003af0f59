"""Reports as one page of HTML that loads and runs nothing, light or dark as its reader likes."""

from collections.abc import Iterable, Iterator, Sequence
from html import escape

from ..deploy import Service, shell
from ..errors import BadReport
from ..machine.device import counted
from ..outcome import Certificate, Moment, Stable
from ..report.report import Report
from ..units import format_bytes
from .alternatives import HEADER, alternative_rows
from .charts import items_chart, last_certificate, memory_chart, time_chart, timeline_chart
from .frame import to_frame
from .reports import LAUNCHES, launch_rows, report_rows
from .wording import clean, duration, rung_names, sentence

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c2128; --soft: #57606a; --rule: #d0d7de;
  --card: #f6f8fa; --good: #1a7f37; --bad: #cf222e; --series-0: #4c78a8; --series-1: #f2a14a;
  --series-2: #54a24b; --series-3: #b0b7bf; --series-4: #b279a2; --series-5: #9d755d; }
@media (prefers-color-scheme: dark) { :root { --paper: #0d1117; --ink: #e6edf3; --soft: #9198a1;
  --rule: #3d444d; --card: #161b22; --good: #3fb950; --bad: #f85149; --series-0: #6ea0d0;
  --series-1: #e8a95b; --series-2: #6cbf62; --series-3: #6b737c; --series-4: #c695b8;
  --series-5: #b98f77; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; margin: 0.5rem 0; } h2 { font-size: 1.1rem; margin: 2rem 0 0.5rem; }
.stable { color: var(--good); } .other { color: var(--bad); } .soft { color: var(--soft); }
pre { background: var(--card); border: 1px solid var(--rule); border-radius: 6px; padding: 0.75rem;
  white-space: pre-wrap; font-size: 0.85rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: 0.9rem; }
td, th { text-align: left; vertical-align: top; padding: 0.25rem 0.75rem 0.25rem 0;
  border-bottom: 1px solid var(--rule); } .many td, td:first-child, th { white-space: nowrap; }
.charts { display: grid; gap: 1.5rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 28rem), 1fr)); }
.legend { margin: 0; display: flex; flex-wrap: wrap; gap: 0 1rem; font-size: 0.85rem; }
.legend i { display: inline-block; width: 0.8em; height: 0.8em; margin-right: 0.4em; }
figure { margin: 0; } figcaption { color: var(--soft); font-size: 0.9rem; }
svg { width: 100%; height: auto; font-family: system-ui, sans-serif; }
"""
# The name of a GPU, the bytes of it that may be used, and how many there are.
Place = tuple[str, int, int]
# Whatever a report says, nothing of it is loaded or run.
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
FRAME_COLUMNS = (
    *("gpus", "gpu", "memory_gib", "model", "vllm", "status", "rungs", "context", "sequences"),
    *("kv_cache_tokens", "launches", "seconds", "created_at", "changes"),
)


def report_to_html(report: Report, distrust: BadReport | None = None) -> str:
    """Write the page of a report; without the line that starts it if it is not to be trusted."""
    name = report.model.path.rstrip("/").rpartition("/")[2]
    kind = "stable" if report.status == "stable" else "other"
    parts = [
        f"<h1>{_text(name)} on {_text(counted(report.devices))}: "
        f'<span class="{kind}">{report.status}</span></h1>',
        f"<p>{_text(report.reason)}</p>",
    ]
    if report.hint:
        parts.append(f'<p class="soft">{_text(report.hint)}</p>')
    if report.winner and distrust is None:
        parts.append(f"<h2>Start it with</h2><pre>{_lines(shell(Service(report)))}</pre>")
    elif distrust is not None:
        said = f"no line to start it: {distrust.message}; {distrust.hint}"
        parts.append(f'<p class="other">{_text(said)}</p>')
    parts += ["<h2>What was found</h2>", _table((), report_rows(report))]
    parts += ["<h2>Measured</h2>", '<div class="charts">', *_charts(report), "</div>"]
    if report.alternatives:
        rows = alternative_rows(report.alternatives)
        parts += ["<h2>What else could be served here</h2>", _table(HEADER, rows)]
    parts += ["<h2>Launches</h2>", _table(LAUNCHES, launch_rows(report))]
    parts += _failures(report)
    if report.skipped:
        skipped = ((skip.rung, skip.reason) for skip in report.skipped)
        parts += ["<h2>Skipped</h2>", _table(("rung", "reason"), skipped)]
    said = f"{report.created_at}, autotune {report.versions.autotune}, vLLM {report.versions.vllm}"
    parts.append(f'<p class="soft">{_text(said)}<br>{_text(report.cache.key)}</p>')
    return _page(f"{name}: {report.status}", parts)


def reports_to_html(reports: Sequence[tuple[str, Report]]) -> str:
    """Write a page of many reports and their paths: GPUs by models, and a row for each."""
    cells = to_frame(reports)[list(FRAME_COLUMNS)].astype("string").fillna("")
    header = [name.replace("_", " ") for name in FRAME_COLUMNS]
    parts = [
        f"<h1>{len(reports)} reports</h1>",
        "<h2>The longest context, by GPU and model</h2>",
        _matrix([report for _, report in reports]),
        "<h2>All reports</h2>",
        _table(header, cells.itertuples(index=False), kind="many"),
    ]
    return _page(f"{len(reports)} reports", parts)


def _matrix(reports: Iterable[Report]) -> str:
    best: dict[tuple[Place, str], Report] = {}
    for report in reports:
        device = report.devices[0]
        place = device.name, device.limit_bytes or device.memory_bytes, len(report.devices)
        key = place, report.model.path.rstrip("/").rpartition("/")[2]
        if key not in best or _context(report) > _context(best[key]):
            best[key] = report
    models = sorted({model for _, model in best})
    rows = (
        [
            f"{count} x {name}, {format_bytes(size)}",
            *(_said(best.get(((name, size, count), model))) for model in models),
        ]
        for name, size, count in sorted({place for place, _ in best})
    )
    return _table(("", *models), rows)


def _context(report: Report) -> int:
    return report.winner.max_model_len if report.winner else 0


def _said(report: Report | None) -> str:
    if report is None:
        return ""
    winner = report.winner
    return f"{winner.max_model_len:,} ({rung_names(winner.rungs)})" if winner else report.status


def _charts(report: Report) -> Iterator[str]:
    proof = last_certificate(report.trials)
    drawn = (
        (
            "Memory: what each launch needs by the estimate, and what it had",
            memory_chart(report.trials),
        ),
        ("Time of each launch", time_chart(report.trials)),
        (f"The probe, item by item{_peaks(report)}", items_chart(proof.checks if proof else ())),
        (f"The server meanwhile{_preempted(proof)}", timeline_chart(_moments(proof))),
    )
    for caption, svg in drawn:
        if svg:
            yield f"<figure>{svg}<figcaption>{_text(caption)}</figcaption></figure>"


def _moments(proof: Certificate | None) -> tuple[Moment, ...]:
    return proof.timeline if proof else ()


def _preempted(proof: Certificate | None) -> str:
    counted = proof.preemptions if proof else None
    return f": {counted} preemptions" if counted else ""


def _peaks(report: Report) -> str:
    if report.winner is None:
        return ""
    proof = report.winner.certificate
    parts = [f"in {duration(proof.seconds)}"]
    if proof.kv_usage_peak is not None:
        parts.append(f"KV cache up to {proof.kv_usage_peak:.0%} full")
    if proof.preemptions is not None:
        parts.append(f"{proof.preemptions} preempted")
    if proof.least_free_bytes is not None:
        parts.append(f"at least {format_bytes(proof.least_free_bytes)} free")
    return ": " + ", ".join(parts)


def _failures(report: Report) -> Iterator[str]:
    for trial in report.trials:
        outcome = trial.outcome
        if not isinstance(outcome, Stable):
            yield f"<h2>Launch {trial.number}: {_text(sentence(outcome))}</h2>"
            yield f"<pre>{_text(' '.join(trial.argv))}</pre>"
            if outcome.evidence:
                yield f"<pre>{_lines(chr(10).join(outcome.evidence))}</pre>"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    head = "".join(f"<th>{_text(name)}</th>" for name in header)
    body = "".join(f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in row)}</tr>" for row in rows)
    top = f"<thead><tr>{head}</tr></thead>" if header else ""
    return f'<div class="wide"><table class="{kind}">{top}<tbody>{body}</tbody></table></div>'


def _page(title: str, parts: Iterable[str]) -> str:
    return "\n".join(
        (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{_text(title)}</title><style>{STYLE}</style></head><body>",
            *parts,
            "</body></html>",
        )
    )


def _text(text: str) -> str:
    return escape(clean(text))


def _lines(text: str) -> str:
    return "\n".join(map(_text, text.split("\n")))
