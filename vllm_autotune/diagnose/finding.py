"""A finding: a signature that a log shows, and the outcome it means."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Self

from ..outcome import (
    Crashed,
    Environment,
    FailedOutcome,
    Hung,
    OutOfMemory,
    Phase,
    Readings,
    Rejected,
)
from .lines import MAX_EXCERPT, excerpt, is_of_engine
from .milestones import readings_of, to_bytes
from .signature import PROCESS_DIED, Signature
from .trace import later

MAX_EVIDENCE = 5  # lines

_NOTHING = Readings()


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One signature found: the phase of the start, and what the line says.

    `groups` is what the pattern captured, as text; `after` are the lines that belong to it.
    `shown` is the phase that the traceback above it shows; `times`, how often it was said.
    """

    signature: Signature
    milestone: Phase
    line: str
    shown: Phase | None = None
    times: int = 1
    groups: dict[str, str]
    readings: Readings = _NOTHING
    after: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        signature: Signature,
        match: re.Match[str],
        line: str,
        milestone: Phase,
        shown: Phase | None,
    ) -> Self:
        return cls(
            signature=signature,
            milestone=milestone,
            shown=shown,
            line=excerpt(line),
            groups={name: text.strip() for name, text in match.groupdict().items() if text},
            readings=readings_of(match),
        )

    @property
    def phase(self) -> Phase:
        if self.signature.phase:
            return self.signature.phase
        found = later(self.milestone, self.shown)
        if found == "spawn" and "private pools (e.g., CUDA Graphs)" in self.line:
            return "serving"  # graphs had been captured
        if found == "spawn":
            found = self.signature.usual
        early = found in ("spawn", "config") and is_of_engine(self.line)
        return "load" if early else found

    def outranks(self, signature: Signature) -> bool:
        """Tell whether no line with that signature can change the verdict."""
        mine = self.signature
        return signature.strength <= mine.strength and signature.name != mine.name

    def is_complete_for(self, signature: Signature) -> bool:
        """Tell whether another line with that signature can only repeat this finding."""
        return (
            signature is self.signature
            and signature.fatal
            and signature.strength > PROCESS_DIED
            and signature.pattern.groupindex.keys() <= self.groups.keys()
        )

    def completed(self, again: Self) -> Self:
        """Add what only `again` has: vLLM prints most errors twice, and some lines are torn."""
        fatal = again.signature.fatal
        more = again.groups.keys() - self.groups.keys() or fatal > self.signature.fatal
        if self.signature.name != again.signature.name or not more:
            return self
        return replace(
            self,
            shown=self.shown or again.shown,
            signature=again.signature if fatal else self.signature,
            groups={**again.groups, **self.groups},
            readings=again.readings.updated(self.readings),
        )

    def continued(self, line: str, message: str) -> Self:
        """Add the line below if it belongs to this: pydantic names the field, then the error."""
        if len(self.after) > 1 or "validation error" not in self.line:
            return self
        is_field = not self.after and re.fullmatch(r"[a-z_]+", message)
        if not is_field and "[type=" not in message:
            return self
        error = message.partition(" [type=")[0]
        below = ": ".join(filter(None, (self.groups.get("below"), error)))
        groups = {**self.groups, "below": below}
        if is_field:
            groups["argument"] = message
        return replace(self, after=(*self.after, excerpt(line)), groups=groups)

    def outcome(
        self,
        readings: Readings = _NOTHING,
        supporting: Iterable[str] = (),
        exit_code: int | None = None,
    ) -> FailedOutcome:
        signature = self.signature
        lines = (self.line, *self.after, *supporting)
        common: dict[str, Any] = {
            "cause": signature.name,
            "phase": self.phase,
            "reason": self._reason(),
            "evidence": tuple(dict.fromkeys(filter(None, lines)))[:MAX_EVIDENCE],
        }
        match signature.kind:
            case "out_of_memory":
                return OutOfMemory(
                    **common,
                    where=signature.where,
                    shortfall_bytes=self._shortfall(readings),
                    limit=self.readings.estimated_max_model_len,
                )
            case "rejected":
                argument = self.groups.get("argument") or signature.argument
                return Rejected(**common, argument=argument and argument.replace("_", "-"))
            case "environment":
                return Environment(**common)
            case "crashed":
                return Crashed(**common, exit_code=exit_code)
            case "hung":
                return Hung(**common, seconds=self._seconds())

    def _reason(self) -> str:
        """Fill the signature's reason; a number that was cut off is `?`."""
        groups = self.groups
        if "{share}" in self.signature.reason:
            free, total = self.readings.free_bytes, self.readings.total_bytes
            groups = {
                **groups,
                "share": f"{free * 100 // total / 100:g}" if free and total else "?",
            }

        def shown(match: re.Match[str]) -> str:
            text = groups.get(match[1], "?")
            return f"{text} GiB" if match[1].endswith("_bytes") and " " not in text else text

        reason = re.sub(r"\{(\w+)\}", shown, self.signature.reason)
        if because := groups.get("because"):
            reason += because
        return reason[:MAX_EXCERPT]

    def _seconds(self) -> float | None:
        if "waited" in self.groups:
            return float(self.groups["waited"]) * self.times
        milliseconds = self.groups.get("milliseconds")
        return float(milliseconds) / 1000 if milliseconds else None

    def _shortfall(self, readings: Readings) -> int | None:
        here = self.readings
        if here.kv_needed_bytes is not None and here.kv_bytes is not None:
            return here.kv_needed_bytes - here.kv_bytes
        wanted = self.groups.get("wanted_bytes") or self.groups.get("tried_bytes")
        left = self.groups.get("left_bytes")
        if wanted and left:
            return max(to_bytes(wanted) - to_bytes(left), 0)
        kv_bytes = readings.kv_bytes if here.kv_bytes is None else here.kv_bytes
        if self.phase == "kv_cache" and kv_bytes is not None and kv_bytes < 0:
            return -kv_bytes
        return None
