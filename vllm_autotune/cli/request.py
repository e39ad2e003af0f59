"""What the groups of options ask for: a request, a probe, and how to tune."""

import time
from dataclasses import fields

from ..errors import BadUsage
from ..search.ladder_file import find_ladder, read_ladder
from ..tuning.cache import default_cache
from ..tuning.gather import Request
from ..tuning.options import Options
from ..workload import SOAK_HORIZON_HOURS, STANDARD, Effort
from .options import ProbeOptions, RequestOptions, TuningOptions
from .parsed import EffortName, spelled


def request_of(given: RequestOptions) -> Request:
    """Return the request; options of the names of its fields are passed on as they are."""
    same = {f.name: vars(given)[f.name] for f in fields(Request) if f.name in vars(given)}
    ladder = read_ladder(find_ladder(given.ladder)).without(given.skip)
    asked = {"ladder": ladder, "probe": probe_of(given) or STANDARD, "asked": asked_of(given)}
    return Request(**{**same, **asked})


def asked_of(given: RequestOptions) -> dict[str, tuple[str, ...]]:
    """Return the options that were given as the command line has them; a flag is an empty word."""
    usual = {field.name: field.metadata.get("default") for field in fields(given)}
    found = {name: spelled(value) for name, value in vars(given).items() if name != "fixed"}
    asked = {
        name.replace("_", "-"): words
        for name, words in found.items()
        if words and vars(given)[name] != usual[name]
    }
    return asked | ({"no-probe-image": ("",)} if given.probe_image is False else {})


def probe_of(given: ProbeOptions, usual: EffortName = "standard") -> Effort | None:
    """Return the probe, with the usual effort if none is given; None without any option."""
    effort, minutes = given.probe or (usual, 0.0)
    file, digest = given.probe_file, None
    if file:
        from ..certificate.own_requests import fingerprint  # noqa: PLC0415  which brings HTTP

        digest = fingerprint(str(file))
    probe = Effort(
        effort=effort,
        soak_minutes=minutes,
        soak_horizon_hours=given.soak_horizon or SOAK_HORIZON_HOURS,
        file=str(file.resolve()) if file else None,
        digest=digest,
        logprobs=given.probe_logprobs,
        image=given.probe_image,
        schema=given.probe_schema,
        tool=given.probe_tool,
    )
    return probe if given.probe or probe != Effort(effort=usual) else None


def tuning_of(given: TuningOptions) -> Options:
    """Return how to tune; the time budget begins to run. Raises BadUsage for contradictions."""
    if given.cached_only and (given.refresh or given.resume):
        raise BadUsage(
            "--cached-only launches nothing, and --refresh and --resume would", "drop one of them"
        )
    return Options(
        results=given.results_dir,
        cache=given.cache_dir or default_cache(),
        refresh=given.refresh,
        cached_only=given.cached_only,
        max_launches=given.max_launches,
        launch_seconds=given.launch_timeout,
        until=time.monotonic() + given.time_budget if given.time_budget else None,
        ports=given.port_range,
        wait=given.wait or 0.0,
        resume=given.resume,
        allow_busy=given.allow_busy,
        also=given.also,
    )
