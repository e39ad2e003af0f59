"""The walk over the ladder: pure, from (facts, history) to the next candidate.

For every prefix of the ladder, shortest first, build the configuration that all its rungs
together give. The first one that the numbers do not rule out, and that differs from what failed
by a rung that cures it, is the next candidate, less every rung it can do without. The
same facts and history always give the same step; no clock, no I/O.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..outcome import Environment, FailedOutcome, Hung, OutOfMemory, Phase, Rejected, Stable
from ..units import format_bytes
from ..vllm.config import AUTO, LaunchConfig, Value
from .build import Draft, build
from .facts import Applied, Attempt, Candidate, Facts, Prediction, calibrated, predict
from .fit import INDIVISIBLE
from .ladder import Rung


@dataclass(frozen=True, slots=True, kw_only=True)
class Skip:
    """A rung that was not taken, and why."""

    rung: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What to do next: launch `candidate`, or stop for `reason` if there is none.

    `skips` are the rungs passed over on the way to it; `stuck` tells that the last failure was
    no rung's, so that no other candidate would end otherwise.
    """

    candidate: Candidate | None
    reason: str
    skips: tuple[Skip, ...] = ()
    stuck: bool = False


def next_step(facts: Facts, history: Sequence[Attempt]) -> Step:
    """Return the next candidate after what became of those before it."""
    last = history[-1].outcome if history else None
    if isinstance(last, Stable):
        return Step(candidate=None, reason="stable")
    surroundings = [isinstance(attempt.outcome, Environment) for attempt in history[-2:]]
    if surroundings == [True, True]:
        return Step(candidate=None, reason="the surroundings failed twice")
    # What the surroundings spoiled tells nothing; the free memory may be another one now.
    history = [a for a in history if not isinstance(a.outcome, Environment)]
    withdrawn = _withdrawn(facts, history)
    if withdrawn is None:
        return Step(candidate=None, reason=_unanswered(history[-1].outcome), stuck=True)
    return _Search(facts, history, withdrawn).step()


def plan(facts: Facts) -> Iterator[tuple[Rung, Candidate | None, str]]:
    """Yield for each rung the candidate of the ladder up to it, or why it is not taken."""
    search = _Search(facts, (), {})
    for length, rung in enumerate(facts.ladder.rungs, 1):
        draft = search.draft(facts.ladder.rungs[:length])
        if rung.name in draft.reasons:
            yield rung, None, draft.reasons[rung.name]
        else:
            candidate = search.candidate(draft)
            yield rung, candidate, _prospect(candidate.predicted)


def _withdrawn(facts: Facts, history: Sequence[Attempt]) -> dict[str, str] | None:
    """Return the rungs that vLLM would not take, and why; None if it would not take any less.

    What was rejected, crashed or served wrong is blamed on the rung that set the argument vLLM
    named, else on all that the candidate added. The same failure without them clears them all.
    GPUs that cannot divide the weights are answered by another number of them.
    """
    withdrawn: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    before = {r.name for r in facts.ladder.rungs if r.start or r.fit == "gpu-memory-utilization"}
    for attempt in history:
        names = {applied.name: applied.args for applied in attempt.candidate.rungs}
        outcome = attempt.outcome
        if isinstance(outcome, OutOfMemory) or _full_length_hang(outcome):
            before |= names.keys()
        elif not isinstance(outcome, Stable | Environment):
            argument = outcome.argument if isinstance(outcome, Rejected) else None
            named = {name for name, args in names.items() if argument in args}
            if named and outcome.cause == INDIVISIBLE:
                continue
            blamed = named or names.keys() - before
            if not blamed or (outcome.cause, outcome.reason) in seen:
                return None
            seen.add((outcome.cause, outcome.reason))
            withdrawn.update(dict.fromkeys(blamed, f"vLLM would not take it: {outcome.reason}"))
    return withdrawn


def _full_length_hang(outcome: object) -> bool:
    return isinstance(outcome, Hung) and outcome.phase == "serving"


def _unanswered(outcome: object) -> str:
    assert isinstance(outcome, FailedOutcome)
    return f"no rung of the ladder cures this: {outcome.reason}"


class _Search:
    """One step of the walk."""

    def __init__(self, facts: Facts, history: Sequence[Attempt], withdrawn: dict[str, str]) -> None:
        self.facts = facts
        self.history = history
        self.withdrawn = withdrawn
        self.calibration = calibrated(facts, history)
        self.tried = {a.candidate.config.fingerprint() for a in history}
        self.failures = [
            a for a in history if isinstance(a.outcome, OutOfMemory) or _full_length_hang(a.outcome)
        ]

    def step(self) -> Step:
        rungs = self.facts.ladder.rungs
        skips: dict[str, str] = {}
        for length in range(len(rungs) + 1):
            draft = self.draft(rungs[:length])
            skips.update(draft.reasons)
            if length and rungs[length - 1].name in draft.reasons:
                continue  # the rung changes nothing: this prefix is the one before
            why_not = self.objection(draft)
            if why_not is None:
                taken = self.asking(draft, rungs, length)
                best = self.pruned(self.draft(rungs[:taken]), rungs[:taken])
                skips = {n: r for n, r in skips.items() if n not in {a.name for a in best.applied}}
                return Step(
                    candidate=self.candidate(best),
                    reason="",
                    skips=tuple(Skip(rung=name, reason=why) for name, why in skips.items()),
                )
            if length:
                skips[rungs[length - 1].name] = why_not
        return Step(
            candidate=None,
            reason="every rung of the ladder was tried or ruled out",
            skips=tuple(Skip(rung=name, reason=why) for name, why in skips.items()),
        )

    def draft(self, rungs: Sequence[Rung]) -> Draft:
        return build(self.facts, self.history, self.calibration, rungs, self.withdrawn)

    def candidate(self, draft: Draft) -> Candidate:
        return Candidate(
            config=draft.config,
            rungs=draft.applied,
            predicted=predict(self.facts, self.calibration, draft.config),
        )

    def objection(self, draft: Draft) -> str | None:
        """Return why the draft is not worth a launch, None if it is."""
        if draft.config.fingerprint() in self.tried:
            return "it was tried"
        prediction = predict(self.facts, self.calibration, draft.config)
        limit, reserved = self.facts.limit(draft.config), prediction.reserved_bytes
        if reserved > limit:
            return f"vLLM takes {format_bytes(reserved)}, {format_bytes(limit)} may be used"
        if prediction.fits == "no":
            return _prospect(prediction)
        for failure in self.failures:
            if not self._cured(draft, failure):
                phase = _phase(failure)
                return f"it does not cure what happened ({phase.replace('_', ' ')})"
        return None

    def asking(self, draft: Draft, rungs: Sequence[Rung], length: int) -> int:
        """Return one rung more where it makes vLLM itself say what length fits."""
        asked = draft.config.text("max-model-len") == AUTO
        if asked or predict(self.facts, self.calibration, draft.config).fits == "yes":
            return length
        for more in range(length + 1, len(rungs) + 1):
            further = self.draft(rungs[:more])
            if further.config != draft.config:
                asks = further.config.text("max-model-len") == AUTO
                return more if asks and self.objection(further) is None else length
        return length

    def pruned(self, draft: Draft, rungs: Sequence[Rung]) -> Draft:
        """Take away, the dearest first, every rung that the others likely do without."""
        needed = list(rungs)
        dearer: set[str] = set()
        for rung in reversed(rungs):
            without = [r for r in needed if r is not rung]
            smaller = self.draft(without)
            needless = not rung.start and AUTO not in _values(draft, rung)
            if needless and self._as_good(smaller, draft, dearer):
                needed, draft = without, smaller
            dearer.add(rung.name)
        return draft

    def _as_good(self, smaller: Draft, draft: Draft, dearer: set[str]) -> bool:
        """Tell whether the smaller draft likely fits as well, and dearer rungs set the same."""
        if self.objection(smaller) is not None or _set(smaller, dearer) != _set(draft, dearer):
            return False
        with_it = predict(self.facts, self.calibration, draft.config)
        without = predict(self.facts, self.calibration, self.shortest(smaller))
        return without.likely or without.kv_available == with_it.kv_available

    def shortest(self, draft: Draft) -> LaunchConfig:
        """Return the configuration with the least context that a rung may shorten it to."""
        fits = {rung.name for rung in self.facts.ladder.rungs if rung.fit == "max-model-len"}
        if not any(applied.name in fits for applied in draft.applied):
            return draft.config
        return draft.config.replace({"max-model-len": self.facts.workload.min_context})

    def _cured(self, draft: Draft, failure: Attempt) -> bool:
        """Tell whether a rung that cures the failure's phase makes the draft differ from it."""
        failed = failure.candidate.config
        cures = {r.name for r in self.facts.ladder.rungs if _phase(failure) in r.cures}
        return any(
            applied.name in cures and _sets_otherwise(applied.args, draft.config, failed)
            for applied in draft.applied
        )


def _values(draft: Draft, rung: Rung) -> list[Value]:
    return [
        v for applied in draft.applied if applied.name == rung.name for v in applied.args.values()
    ]


def _set(draft: Draft, names: set[str]) -> list[Applied]:
    return [applied for applied in draft.applied if applied.name in names]


def _sets_otherwise(flags: object, config: LaunchConfig, failed: LaunchConfig) -> bool:
    assert isinstance(flags, dict)
    return config.model != failed.model or any(
        config.args.get(flag) != failed.args.get(flag) for flag in flags
    )


def _phase(failure: Attempt) -> Phase:
    outcome = failure.outcome
    assert isinstance(outcome, FailedOutcome)
    return outcome.phase


def _prospect(prediction: Prediction) -> str:
    needed, available = prediction.kv_needed, prediction.kv_available
    if prediction.fits == "unknown":
        return "unknown: the arithmetic does not know what this model takes"
    room = f"between {format_bytes(available.low)} and {format_bytes(available.high)}"
    sentence = {
        "no": "cannot fit",
        "yes": "fits",
        "perhaps": "may fit",
    }[prediction.fits]
    return f"{sentence}: it needs {format_bytes(needed.low)} of KV cache and has {room}"
