"""What a report measured, drawn as SVG in the colours of the page around it."""

import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence

import pygal

from ..outcome import Certificate, Item, Moment, Stable
from ..search.trial import Compared, Trial
from ..units import GIB
from .wording import clean

COLOURS = tuple(f"var(--series-{number})" for number in range(6))
# pygal adds a finder of plugins that Python 3.11 warns of at every later import.
sys.meta_path[:] = [found for found in sys.meta_path if type(found).__module__ != "pygal"]

STYLE = pygal.style.Style(
    background="transparent",
    plot_background="transparent",
    foreground="var(--ink)",
    foreground_strong="var(--ink)",
    foreground_subtle="var(--rule)",
    guide_stroke_color="var(--rule)",
    major_guide_stroke_color="var(--rule)",
    opacity="1",
    opacity_hover="0.8",
    transition="0s",
    colors=COLOURS,
    value_colors=("var(--ink)",) * len(COLOURS),
    font_family="inherit",
    label_font_size=13,
    major_label_font_size=13,
    legend_font_size=13,
    title_font_size=14,
)
WIDTH, ROW = 560, 34
# What a start is made of, by the reading that has its seconds.
STARTING = {"load_seconds": "weights", "compile_seconds": "compiling", "graph_seconds": "graphs"}
USAGE, FREE = "% of the KV cache in use (left)", "GiB free (right)"
MEMORY = ("weights", "other", "KV cache")


def memory_chart(trials: Iterable[Trial]) -> str:
    """Draw GiB of each launch: what it needs by the estimate, low end and rest, and what it had."""
    labels: list[str] = []
    rows: list[dict[str, float]] = []
    for trial in trials:
        predicted = trial.predicted
        parts = (predicted.weights, predicted.overhead, predicted.kv_needed)
        row = {name: part.low for name, part in zip(MEMORY, parts, strict=True)}
        if not predicted.needed.known:
            continue
        row["uncertain"] = predicted.needed.high - predicted.needed.low
        labels.append(f"launch {trial.number} needs")
        rows.append(row)
        if trial.accuracy and trial.accuracy.weights:  # vLLM prints none on a CPU
            found = (trial.accuracy.weights, trial.accuracy.overhead, trial.accuracy.kv_available)
            labels.append(f"launch {trial.number} had")
            rows.append({n: max(0.0, _measured(f)) for n, f in zip(MEMORY, found, strict=True)})
    in_gib = [{name: round(size / GIB, 2) for name, size in row.items()} for row in rows]
    return _stacked("memory", labels, in_gib, (*MEMORY, "uncertain"), "GiB on each device")


def _measured(compared: Compared | None) -> float:
    return compared.measured if compared else 0.0


def time_chart(trials: Iterable[Trial]) -> str:
    """Draw the seconds of each launch, by what they were spent on."""
    labels, rows = [], []
    for trial in trials:
        named = {name: getattr(trial.readings, field) or 0.0 for field, name in STARTING.items()}
        known = sum(named.values())
        start = max(trial.startup_seconds or 0.0, known)
        labels.append(f"launch {trial.number}")
        rows.append(
            {
                **named,
                "rest of the start": start - known,
                "probe": trial.probe_seconds or 0.0,
                "stop": trial.stop_seconds or 0.0,
            }
        )
    names = (*STARTING.values(), "rest of the start", "probe", "stop")
    rounded = [{name: round(seconds, 1) for name, seconds in row.items()} for row in rows]
    return _stacked("time", labels, rounded, names, "seconds")


def items_chart(items: Iterable[Item]) -> str:
    """Draw the seconds that each item of a certificate took."""
    ran = [item for item in items if item.requests]
    rows = [{"seconds": round(item.seconds, 2)} for item in ran]
    names = [clean(item.name) for item in ran]
    return _stacked("items", names, rows, ("seconds",), "seconds")


def timeline_chart(moments: Sequence[Moment]) -> str:
    """Draw how full the KV cache was, and how much memory was free, second by second."""
    usage = [(m.seconds, 100 * m.kv_usage) for m in moments if m.kv_usage is not None]
    free = [(m.seconds, m.free_bytes / GIB) for m in moments if m.free_bytes is not None]
    if len(usage) < 2:
        return ""
    chart = pygal.XY(
        style=STYLE,
        js=[],
        width=WIDTH,
        height=260,
        x_title="seconds",
        show_legend=False,
        show_dots=False,
        margin=6,
        range=(0, 100),
        secondary_range=(0, 10 * math.ceil(max((size for _, size in free), default=1.0) / 10)),
        formatter=lambda value: f"{value:.4g}",
        stroke_style={"width": 2},
        disable_xml_declaration=True,
    )
    chart.uuid = "timeline"
    chart.add(USAGE, usage)
    if free:
        chart.add(FREE, free, secondary=True)
    signs = zip((USAGE, FREE) if free else (USAGE,), COLOURS, strict=False)
    return _svg(chart) + _legend(signs)


def _stacked(
    what: str,
    labels: Sequence[str],
    rows: Sequence[Mapping[str, float]],
    names: Sequence[str],
    unit: str,
) -> str:
    """Draw a bar for each row, the first on top; return nothing where there is none."""
    used = [name for name in names if any(row.get(name) for row in rows)]
    if not used:
        return ""
    chart = pygal.HorizontalStackedBar(
        style=STYLE,
        js=[],
        width=WIDTH,
        height=80 + ROW * len(rows),
        x_title=unit,
        show_legend=False,  # pygal's is cut off where there are many
        margin=6,
        spacing=8,
        disable_xml_declaration=True,
        truncate_label=-1,
    )
    chart.uuid = what  # else a page is another each time
    # A horizontal chart begins at the bottom.
    chart.x_labels = [*reversed(labels)]
    for name in used:
        colour = COLOURS[names.index(name)]
        values = [{"value": row.get(name, 0.0), "color": colour} for row in reversed(rows)]
        chart.add(name, values)
    signs = ((name, COLOURS[names.index(name)]) for name in used)
    return _svg(chart) + (_legend(signs) if len(used) > 1 else "")


def _svg(chart: pygal.graph.base.BaseGraph) -> str:
    drawn: str = chart.render(is_unicode=True)
    extras = r"<!--.*?-->|<script.*?</script>|<title>Pygal</title>"
    return re.sub(extras, "", drawn, flags=re.DOTALL)


def _legend(signs: Iterable[tuple[str, str]]) -> str:
    """Return what each colour stands for."""
    spans = (f'<span><i style="background: {colour}"></i>{name}</span>' for name, colour in signs)
    return f'<p class="legend">{"".join(spans)}</p>'


def last_certificate(trials: Iterable[Trial]) -> Certificate | None:
    proofs = [t.outcome.certificate for t in trials if isinstance(t.outcome, Stable)]
    return proofs[-1] if proofs else None
