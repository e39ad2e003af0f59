"""Reports as one table: a row each, by GPU and model, with what changed since the last answer."""

import itertools
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ..report.report import Report
from ..units import GIB
from .wording import clean, rung_names

if TYPE_CHECKING:
    import pandas as pd

# Reports that agree in these are answers to one question, and are compared with each other.
QUESTION = ("gpu", "gpus", "memory_gib", "model", "wanted_context", "concurrency", "ladder")
# What of an answer is worth a word when it is another than before.
ANSWER = ("vllm", "status", "rungs", "context", "sequences", "kv_cache_tokens", "arguments")
WHOLE = ("wanted_context", "context", "sequences", "kv_cache_tokens", "preemptions")


def to_frame(reports: Iterable[tuple[str, Report]]) -> "pd.DataFrame":
    """Return a row for each report and its path, the newest of a group last.

    `changes` says what is another than in the report before it on the same question.
    """
    import pandas as pd  # noqa: PLC0415  no other command needs it

    rows = [_row(path, report) for path, report in reports]
    frame = pd.DataFrame(rows).sort_values([*QUESTION, "created_at"], kind="stable")
    frame["changes"] = ""
    for _, group in frame.groupby(list(QUESTION), dropna=False, sort=False):
        records = group.to_dict("records")
        before = dict(zip(group.index[1:], itertools.pairwise(records), strict=True))
        for index, (old, new) in before.items():
            frame.loc[index, "changes"] = "; ".join(_changes(old, new))
    for name in WHOLE:
        frame[name] = frame[name].astype("Int64")
    return frame.reset_index(drop=True)


def to_csv(reports: Iterable[tuple[str, Report]]) -> str:
    """Write the rows as CSV, as `pandas.read_csv` and spreadsheets read it."""
    return to_frame(reports).to_csv(index=False).removesuffix("\n")


def _row(path: str, report: Report) -> dict[str, Any]:
    device, winner, asked = report.devices[0], report.winner, report.workload
    speed = winner.certificate.speeds[0] if winner and winner.certificate.speeds else None
    row = {
        "gpu": device.name,
        "gpus": len(report.devices),
        "memory_gib": _gib(device.limit_bytes or device.memory_bytes),
        "model": report.model.path,
        "wanted_context": asked.context,
        "concurrency": asked.concurrency,
        "ladder": report.ladder,
        "vllm": report.versions.vllm,
        "status": report.status,
        "rungs": rung_names(winner.rungs) if winner else None,
        "context": winner and winner.max_model_len,
        "sequences": winner and winner.max_num_seqs,
        "kv_cache_tokens": winner and winner.kv_cache_tokens,
        "least_free_gib": winner and _gib(winner.memory.least_free),
        "preemptions": winner and winner.certificate.preemptions,
        "first_token_seconds": speed and speed.ttft_seconds,
        "decode_tokens_per_second": speed and speed.decode_tokens_per_second,
        "startup_seconds": winner and winner.startup_seconds,
        "launches": report.launches,
        "seconds": report.elapsed_seconds,
        "recalled": report.cache.hit,
        "created_at": report.created_at,
        "reason": report.reason,
        "arguments": " ".join(winner.argv[winner.argv.index(winner.model) + 1 :])
        if winner
        else None,
        "key": report.cache.key,
        "report": path,
    }
    return {name: clean(v) if isinstance(v, str) else v for name, v in row.items()}


def _changes(old: Mapping[Any, Any], new: Mapping[Any, Any]) -> list[str]:
    named = [(name, *(_said(row[name]) for row in (old, new))) for name in ANSWER]
    found = [f"{name} {before} -> {now}" for name, before, now in named if before != now]
    # The arguments say in other words what the other columns say.
    return found[:-1] if len(found) > 1 and found[-1].startswith("arguments ") else found


def _said(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):  # pandas' missing number
        return "none"
    return str(int(value)) if isinstance(value, float) else str(value)


def _gib(size: int | None) -> float | None:
    return None if size is None else round(size / GIB, 2)
