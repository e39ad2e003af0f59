"""Reports on stdout: one in full, or several as a table."""

from collections.abc import Iterable, Iterator

from rich.text import Text

from ..deploy import Service, shell
from ..errors import BadReport
from ..machine.device import counted
from ..outcome import Certificate
from ..output import can_say, shown
from ..report.report import Report, Winner
from ..search.trial import Accuracy
from ..units import GIB, format_bytes
from ..vllm.config import LaunchConfig
from .alternatives import print_alternatives, print_helps
from .tables import headed_table, pairs_table, stdout
from .wording import clean, duration, rung_names, sentence, speed_rows

LAUNCHES = ("launch", "rungs", "outcome")


def print_report(
    report: Report, path: str | None, distrust: BadReport | None = None, *, commands: bool = True
) -> None:
    """Print a report in full; the last line starts the winner, unless it is not to be trusted.

    Neither are the `commands` that ask for the alternatives always.
    """
    console = stdout()
    style = "bold green" if report.status == "stable" else "bold red"
    console.print(Text.assemble((report.status, style), f": {clean(report.reason)}"))
    if report.hint:
        console.print(Text(f"hint: {clean(report.hint)}"))
    console.print()
    console.print(pairs_table(report_rows(report)))
    if not report.cache.hit:
        console.print()
        console.print(headed_table(LAUNCHES, launch_rows(report)))
        for skip in report.skipped:
            console.print(Text(clean(f"skipped {skip.rung}: {skip.reason}"), style="dim"))
    if path:
        console.print(Text(f"\nreport: {clean(shown(path))}"))
    print_alternatives(
        console, report.alternatives, instead=report.winner is None, commands=commands
    )
    print_helps(console, report.would_help)
    if report.winner is None:
        return
    if distrust is not None:
        console.print(Text(f"\nno line to start it: {clean(distrust.message)}\n{distrust.hint}"))
        return
    line = shell(Service(report))
    if can_say(line):
        console.print("\nstart it with:")
        console.print(Text(line))
    else:
        console.print("\nthe line that starts it needs an output in UTF-8 (PYTHONIOENCODING)")


def print_reports(reports: Iterable[Report]) -> None:
    header = ("device", "memory", "model", "status", "rungs")
    numbers = ("context", "KV tokens", "launches", "time")
    rows = [
        (
            counted(r.devices),
            format_bytes(_memory_bytes(r)),
            r.model.path.rstrip("/").rpartition("/")[2],
            r.status,
            rung_names(r.winner.rungs) if r.winner else "",
            f"{r.winner.max_model_len:,}" if r.winner else "",
            f"{r.winner.kv_cache_tokens:,}" if r.winner and r.winner.kv_cache_tokens else "",
            str(r.launches),
            duration(r.elapsed_seconds),
        )
        for r in sorted(reports, key=lambda r: (r.model.path, r.devices[0].name, _memory_bytes(r)))
    ]
    stdout().print(headed_table((*header, *numbers), rows, numbers))


def _memory_bytes(report: Report) -> int:
    return report.devices[0].limit_bytes or report.devices[0].memory_bytes


def launch_rows(report: Report) -> Iterator[tuple[str, str, str]]:
    """Yield the cells of LAUNCHES for each trial."""
    for trial in report.trials:
        rungs = rung_names(applied.name for applied in trial.rungs)
        yield str(trial.number), rungs, sentence(trial.outcome)


def report_rows(report: Report) -> Iterator[tuple[str, str]]:
    """Yield what a report says of its run and its winner, by name; a name may repeat."""
    device, count, took = report.devices[0], len(report.devices), duration(report.elapsed_seconds)
    yield "model", f"{report.model.path} ({report.model.architecture})"
    names = counted(report.devices) if count > 1 else device.name
    each = dict.fromkeys(format_bytes(d.memory_bytes) for d in report.devices)
    yield "device", f"{names}, {' and '.join(each)}"
    yield from (("", reason) for reason in report.left_alone)
    recalled = f"0 (recalled from the cache in {took})"
    yield "launches", recalled if report.cache.hit else f"{report.launches} in {took}"
    if report.winner:
        yield from _winner_rows(report.winner, report.model.context)
        config = LaunchConfig("", report.winner.args, report.winner.env)
        for layers, on in zip(config.partition or (), report.devices, strict=False):
            yield "stage", f"{layers} layers on {on.name}"
    for accuracy in [trial.accuracy for trial in report.trials if trial.accuracy][-1:]:
        yield from _accuracy_rows(accuracy)


def _winner_rows(winner: Winner, context: int) -> Iterator[tuple[str, str]]:
    tokens = f", {winner.kv_cache_tokens:,} fit in the KV cache" if winner.kv_cache_tokens else ""
    yield "context", f"{winner.max_model_len:,} of the model's {context:,} tokens{tokens}"
    memory = winner.memory
    names = ("weights", "KV cache", "activations", "graphs")
    parts = (memory.weights, memory.kv_cache, memory.activations, memory.graphs)
    listed = ", ".join(f"{n} {format_bytes(p)}" for n, p in zip(names, parts, strict=True) if p)
    each = " per device" if winner.valid_for.count > 1 else ""
    yield "memory", f"{format_bytes(memory.reserved)} reserved{each}: {listed}".removesuffix(": ")
    if memory.least_free is not None:
        yield "", f"at least {format_bytes(memory.least_free)} stayed free under load"
    yield "proven by", _proof(winner.certificate)
    yield from speed_rows(winner.certificate)
    yield "ready in", duration(winner.startup_seconds)
    yield from (("gives up", text) for text in winner.gives_up)
    if winner.left_out:
        flags = ", ".join(f"--{name}" for name in winner.left_out)
        yield "left out", f"{flags} (of the deployment: autotune render REPORT -- ARGS adds them)"


def _proof(certificate: Certificate) -> str:
    requests = sum(check.requests for check in certificate.checks)
    tokens = sum(check.prompt_tokens + check.output_tokens for check in certificate.checks)
    proof = f"{requests} requests with {tokens:,} tokens in {duration(certificate.seconds)}"
    if certificate.kv_usage_peak is not None:
        proof += f", KV cache up to {certificate.kv_usage_peak:.0%} full"
    if count := certificate.preemptions:
        proof += ", 1 preemption" if count == 1 else f", {count} preemptions"
    return proof


def _accuracy_rows(accuracy: Accuracy) -> Iterator[tuple[str, str]]:
    names = ("weights", "KV cache", "other", "graphs")
    parts = (accuracy.weights, accuracy.kv_available, accuracy.overhead, accuracy.graphs)
    for name, against in zip(names, parts, strict=True):
        if against is not None and (against.measured or against.predicted.high):
            low, high = against.predicted.low / GIB, against.predicted.high / GIB
            measured = against.measured / GIB
            yield "predicted", f"{name} {low:.2f} to {high:.2f} GiB, measured {measured:.2f} GiB"
