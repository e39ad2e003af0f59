"""A finding: a signature that a log shows, and the outcome it makes."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Self

from ..outcome import Crashed, Environment, FailedOutcome, OutOfMemory, Phase, Readings, Rejected
from .milestones import readings_of, to_bytes
from .signature import DEATH, Signature

SHOWN = 600  # characters of a line kept as evidence
MOST_EVIDENCE = 5

_NOTHING = Readings()


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One signature found: where the start had come to, and what the line said.

    `groups` is what the pattern captured, as text; `after` are the lines that belong to it.
    """

    signature: Signature
    phase: Phase
    line: str
    groups: dict[str, str]
    readings: Readings = _NOTHING
    after: tuple[str, ...] = ()

    @classmethod
    def of(cls, signature: Signature, match: re.Match[str], phase: Phase, line: str) -> Self:
        """Make a finding from a match; `phase` is the last milestone's."""
        return cls(
            signature=signature,
            phase=signature.phase or phase,
            line=line[:SHOWN].strip(),
            groups={name: text.strip() for name, text in match.groupdict().items() if text},
            readings=readings_of(match),
        )

    def is_beyond(self, signature: Signature) -> bool:
        """Tell whether nothing with that signature can change a verdict that rests on this."""
        mine = self.signature
        return signature.strength <= mine.strength and signature.name != mine.name

    def has_all_of(self, signature: Signature) -> bool:
        """Tell whether that signature, found again, can only repeat what is known for good."""
        return (
            signature is self.signature
            and signature.fatal
            and signature.strength > DEATH
            and signature.pattern.groupindex.keys() <= self.groups.keys()
        )

    def lacks(self, again: Self) -> bool:
        """Tell whether the same failure, said again, says more."""
        return self.signature.name == again.signature.name and (
            bool(again.groups.keys() - self.groups.keys())
            or again.signature.fatal > self.signature.fatal
        )

    def completed(self, again: Self) -> Self:
        """Return this finding with what it lacks: vLLM says most things twice, some torn."""
        return replace(
            self,
            signature=again.signature if again.signature.fatal else self.signature,
            groups={**again.groups, **self.groups},
            readings=again.readings.updated(self.readings),
        )

    @property
    def may_go_on(self) -> bool:
        """Whether lines below may belong to it: pydantic names the field, then what is wrong."""
        return len(self.after) < 2 and "validation error" in self.line

    def is_followed_by(self, said: str) -> bool:
        """Tell whether this line below belongs to it."""
        return "[type=" in said or bool(not self.after and re.fullmatch(r"[a-z_]+", said))

    def followed_by(self, line: str, said: str) -> Self:
        """Return this finding with a line below it."""
        below = ": ".join(filter(None, (self.groups.get("below"), said.partition(" [type=")[0])))
        groups = {**self.groups, "below": below}
        if "[type=" not in said:
            groups["argument"] = said
        return replace(self, after=(*self.after, line[:SHOWN].strip()), groups=groups)

    def outcome(
        self,
        readings: Readings = _NOTHING,
        supporting: Iterable[str] = (),
        exit_code: int | None = None,
    ) -> FailedOutcome:
        """Return what this finding means, with the log's readings and lines that support it."""
        signature = self.signature
        lines = (self.line, *self.after, *supporting)
        common: dict[str, Any] = {
            "cause": signature.name,
            "phase": self.phase,
            "reason": self._sentence(),
            "evidence": tuple(dict.fromkeys(filter(None, lines)))[:MOST_EVIDENCE],
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

    def _sentence(self) -> str:
        """Fill the signature's reason; a number that was cut off is `?`."""

        def shown(match: re.Match[str]) -> str:
            text = self.groups.get(match[1], "?")
            return f"{text} GiB" if match[1].endswith("_bytes") and " " not in text else text

        return re.sub(r"\{(\w+)\}", shown, self.signature.reason)[:SHOWN]

    def _shortfall(self, readings: Readings) -> int | None:
        """How many bytes were missing, as far as the log tells."""
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
