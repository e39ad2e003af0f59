"""Reports: one in full, or several as a table."""

from collections.abc import Iterable, Sequence

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ..deploy import render
from ..outcome import Certificate
from ..report.report import Report, Winner
from ..search.trial import Accuracy, Trial
from ..units import GIB, format_bytes
from .tables import headed_table, pairs_table, stdout
from .wording import clean, sentence, speed_rows


def print_report(report: Report, path: str | None) -> None:
    """Print a report on stdout for a person; the last line starts the winner."""
    console = stdout()
    style = "green" if report.status == "stable" else "red"
    model, device = report.model, report.devices[0]
    count = f"{len(report.devices)} x " if len(report.devices) > 1 else ""
    console.print(f"[bold {style}]{report.status}[/]  {escape(clean(report.reason))}")
    if report.hint:
        console.print(f"hint: {escape(clean(report.hint))}")
    table = pairs_table()
    table.add_row("model", escape(f"{clean(model.path)} ({model.architecture})"))
    size = format_bytes(device.memory_bytes)
    table.add_row("device", escape(f"{count}{clean(device.name)}, {size}"))
    table.add_row("launches", _launches(report))
    if report.winner:
        for name, value in _winner_rows(report.winner, report.model.context):
            table.add_row(name, escape(value))
    for trial in [trial for trial in report.trials if trial.accuracy][-1:]:
        table.add_row("predicted", _accuracy(trial.accuracy))
    console.print(table)
    if not report.cache.hit:
        console.print(_trial_table(report.trials))
        for skip in report.skipped:
            console.print(f"[dim]not taken: {escape(f'{skip.rung}: {clean(skip.reason)}')}[/]")
    if path:
        console.print(f"report    {escape(path)}")
    if report.winner:
        console.print("\nstart it with:")
        console.print(Text(render(report)))


def print_reports(reports: Iterable[Report]) -> None:
    """Print several reports as one table on stdout."""
    import pandas as pd  # noqa: PLC0415  it takes half a second to load

    rows = [
        {
            "device": f"{len(r.devices)} x {r.devices[0].name}",
            "memory": format_bytes(r.devices[0].limit_bytes or r.devices[0].memory_bytes),
            "model": r.model.path.rstrip("/").rpartition("/")[2],
            "status": r.status,
            "rungs": ", ".join(r.winner.rungs) or "as it is" if r.winner else "",
            "context": r.winner.max_model_len if r.winner else None,
            "kv tokens": r.winner.kv_cache_tokens if r.winner else None,
            "launches": r.launches,
            "seconds": round(r.elapsed_seconds),
        }
        for r in sorted(reports, key=_order)
    ]
    frame = pd.DataFrame(rows).convert_dtypes()
    cells = frame.astype("string").fillna("").to_numpy().tolist()
    stdout().print(headed_table(list(frame.columns), cells))


def _order(report: Report) -> tuple[str, str, int]:
    device = report.devices[0]
    return report.model.path, device.name, device.limit_bytes or device.memory_bytes


def _launches(report: Report) -> str:
    if report.cache.hit:
        return f"0 (recalled from the cache in {report.elapsed_seconds:.2f} s)"
    return f"{report.launches} in {report.elapsed_seconds:.0f} s"


def _winner_rows(winner: Winner, context: int) -> list[tuple[str, str]]:
    memory = winner.memory
    parts = {
        "reserved": memory.reserved,
        "weights": memory.weights,
        "KV cache": memory.kv_cache,
        "activations": memory.activations,
        "graphs": memory.graphs,
        "least free": memory.least_free,
    }
    tokens = f", {winner.kv_cache_tokens:,} tokens of KV cache" if winner.kv_cache_tokens else ""
    rows = [
        ("context", f"{winner.max_model_len:,} of {context:,} tokens{tokens}"),
        ("memory", ", ".join(f"{n} {format_bytes(b)}" for n, b in parts.items() if b is not None)),
        ("proven by", _proof(winner.certificate)),
        *speed_rows(winner.certificate),
        ("ready in", f"{winner.startup_seconds:.0f} s"),
    ]
    return [*rows, *(("gives up", text) for text in winner.gives_up)]


def _accuracy(accuracy: Accuracy | None) -> str:
    names = {"weights": "weights", "kv_available": "KV cache", "overhead": "other"}
    parts = []
    for field, name in {**names, "graphs": "graphs"}.items():
        against = getattr(accuracy, field)
        if against is not None:
            low, high = against.predicted.low / GIB, against.predicted.high / GIB
            parts.append(f"{name} {low:.2f} to {high:.2f} (was {against.measured / GIB:.2f})")
    return f"GiB: {', '.join(parts)}"


def _proof(certificate: Certificate) -> str:
    requests = sum(check.requests for check in certificate.checks)
    tokens = sum(check.prompt_tokens + check.output_tokens for check in certificate.checks)
    proof = f"{requests} requests, {tokens:,} tokens in {certificate.seconds:.0f} s"
    if certificate.kv_usage_peak is not None:
        proof += f", KV cache {certificate.kv_usage_peak:.0%} full at most"
    if count := certificate.preemptions:
        proof += ", 1 preemption" if count == 1 else f", {count} preemptions"
    return proof


def _trial_table(trials: Sequence[Trial]) -> Table:
    rows = [
        [
            str(trial.number),
            ", ".join(applied.name for applied in trial.rungs) or "as it is",
            clean(sentence(trial.outcome)),
        ]
        for trial in trials
    ]
    return headed_table(["launch", "rungs", "outcome"], rows)
