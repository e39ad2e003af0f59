"""What was asked for on the command line: a request, a probe, and how to tune."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..interruption import interruptible
from .options import EffortName

if TYPE_CHECKING:
    from ..report.report import Report
    from ..search.facts import Facts
    from ..tuning.gather import Request
    from ..tuning.walk import Options

QUICK_EFFORT: tuple[EffortName, float] = ("quick", 0.0)
USUAL_EFFORT: tuple[EffortName, float] = ("standard", 0.0)


def request_of(what: dict[str, Any]) -> "Request":
    """Return what the options left say of the model, the devices and the workload."""
    from ..search.ladder import find_ladder, read_ladder  # noqa: PLC0415
    from ..tuning.gather import Request  # noqa: PLC0415
    from ..workload import STANDARD  # noqa: PLC0415

    ladder = read_ladder(find_ladder(what.pop("ladder"))).without(what.pop("skip"))
    probe = probe_of(what) or STANDARD
    return Request(ladder=ladder, probe=probe, **what)


def probe_of(
    what: dict[str, Any], usual: tuple[EffortName, float] = USUAL_EFFORT
) -> "Effort | None":
    """Take the options of the probe out of the others; return what they say, None if nothing."""
    from ..certificate import fingerprint  # noqa: PLC0415
    from ..workload import Effort  # noqa: PLC0415

    effort, file = what.pop("probe"), what.pop("probe_file")
    wanted = {name: what.pop(f"probe_{name}") for name in ("logprobs", "image", "schema", "tool")}
    if not (effort or file or any(wanted.values())):
        return None
    kind, minutes = effort or usual
    return Effort(
        effort=kind,
        soak_minutes=minutes,
        file=str(file.resolve()) if file else None,
        digest=fingerprint(str(file)) if file else None,
        **wanted,
    )


def options_of(what: dict[str, Any]) -> "Options":
    """Take how to tune out of the options of the request; the time budget begins to run."""
    from ..tuning.cache import default_cache  # noqa: PLC0415
    from ..tuning.walk import Options  # noqa: PLC0415

    budget = what.pop("time_budget")
    return Options(
        results=what.pop("results_dir"),
        cache=what.pop("cache_dir") or default_cache(),
        refresh=what.pop("refresh"),
        max_launches=what.pop("max_launches"),
        launch_seconds=what.pop("launch_timeout"),
        until=time.monotonic() + budget if budget else None,
        ports=what.pop("port_range"),
        wait=what.pop("wait") or 0.0,
        resume=what.pop("resume"),
        allow_busy=what.pop("allow_busy"),
    )


def tuned(request: "Request", options: "Options") -> "tuple[Report, Path | None, Facts, int]":
    """Tune; return the report, where it lies, the facts, and the exit code."""
    from ..console import Screen  # noqa: PLC0415
    from ..report.report import EXIT_CODES  # noqa: PLC0415
    from ..tuning.gather import describe, gather_facts  # noqa: PLC0415
    from ..tuning.tune import tune  # noqa: PLC0415

    with Screen() as screen, interruptible() as signals:
        facts = gather_facts(request)
        screen.note(describe(facts))
        report, path = tune(facts, options, screen)
    code = EXIT_CODES[report.status]
    if report.status == "interrupted" and signals:
        code = 128 + signals[0]
    return report, path, facts, code
