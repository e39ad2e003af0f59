"""The next step of a walk."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from ..outcome import (
    NO_EFFECT,
    Ailment,
    Degraded,
    Environment,
    Rejected,
    Stable,
)
from ..units import format_bytes
from ..vllm.config import AUTO, Value
from .build import build
from .facts import Facts
from .fit import INDIVISIBLE, Situation, ailment_of, lacked_memory
from .ladder import Rung
from .prediction import calibrate, predict
from .trial import Applied, Candidate, Prediction, Skip, Trial

# What a rung that does not help would not fix.
UNFIXED: Mapping[Ailment, str] = {
    "spawn": "a server that does not start",
    "config": "a configuration that vLLM refuses",
    "load": "weights that do not fit",
    "profile": "a profiling run that is too large",
    "kv_cache": "a KV cache that is too small",
    "graphs": "graphs that do not fit",
    "warmup": "a warm-up that does not fit",
    "serving": "memory that runs out while serving",
    "images": "images that need more memory than there is when vLLM tries them out",
    "preemptions": "requests that push each other out of the KV cache",
}


# A rung that adds less than this to the chance of a launch is not worth what it gives up.
SLIGHT = 0.05
# With so little a launch is tried before one that leaves weights on the host.
SPARING = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What to do next: launch `candidate`, or stop for `reason` if there is none.

    `skips` are the rungs passed over on the way to it; `stuck` tells that no rung has to do with
    the last failure, so that any other candidate would end the same way.
    """

    candidate: Candidate | None
    reason: str
    skips: tuple[Skip, ...] = ()
    stuck: bool = False


def next_step(facts: Facts, history: Sequence[Trial]) -> Step:
    """Return the next candidate after what became of those before it."""
    last = history[-1].outcome if history else None
    if isinstance(last, Stable):
        return Step(candidate=None, reason="stable")
    if isinstance(last, Environment) and _lasts(last):
        return Step(candidate=None, reason=f"another launch would end the same way: {last.reason}")
    if [isinstance(trial.outcome, Environment) for trial in history[-2:]] == [True, True]:
        reason = "two launches failed for reasons outside the configuration"
        return Step(candidate=None, reason=reason)
    # What came from outside tells nothing; the free memory may be another one now.
    history = [trial for trial in history if not isinstance(trial.outcome, Environment)]
    withdrawn = _withdrawn(facts, history)
    if withdrawn is None:
        failed = history[-1].outcome
        assert not isinstance(failed, Stable)
        reason = f"no rung of the ladder fixes this: {failed.reason}"
        return Step(candidate=None, reason=reason, stuck=True)
    return _Search(facts, history, withdrawn).step()


def prospects(facts: Facts) -> Iterator[tuple[Rung, Candidate | None, str]]:
    """Yield each rung, the candidate of the ladder up to it (None: skipped), and a sentence."""
    search = _Search(facts, (), {})
    for length, rung in enumerate(facts.ladder.rungs, 1):
        candidate = search.build(facts.ladder.rungs[:length])
        if rung.name in candidate.skipped:
            yield rung, None, candidate.skipped[rung.name]
        else:
            yield rung, candidate, _prospect(candidate.predicted)


def _withdrawn(facts: Facts, history: Sequence[Trial]) -> dict[str, str] | None:
    """Return the rungs that vLLM rejected, and why; None if it would reject any.

    What was rejected, crashed or served wrong is blamed on the rung that set the argument vLLM
    named, else on all that the candidate added. The same failure without them clears them all.
    GPUs that cannot divide the weights are answered by another number of them.
    """
    withdrawn: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    before = {r.name for r in facts.ladder.rungs if r.start or r.fit == "gpu-memory-utilization"}
    for trial in history:
        names = {applied.name: applied.args for applied in trial.rungs}
        outcome = trial.outcome
        if lacked_memory(outcome):
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
            idle = isinstance(outcome, Degraded) and outcome.cause == NO_EFFECT
            why = outcome.reason if idle else f"vLLM rejected it: {outcome.reason}"
            withdrawn.update(dict.fromkeys(blamed, why))
    return withdrawn


def _lasts(failed: Environment) -> bool:
    from ..diagnose import LASTING  # noqa: PLC0415  an answer is recalled quicker without

    return failed.cause in LASTING


class _Search:
    """One step of the walk."""

    def __init__(self, facts: Facts, history: Sequence[Trial], withdrawn: dict[str, str]) -> None:
        self.facts = facts
        self.history = history
        self.withdrawn = withdrawn
        self.calibration = calibrate(facts, history)
        self.tried = {trial.fingerprint for trial in history}
        self.least_chance = Situation(facts, history, self.calibration).least_chance

    def build(self, rungs: Sequence[Rung]) -> Candidate:
        return build(self.facts, self.history, self.calibration, rungs, self.withdrawn)

    def step(self) -> Step:
        rungs = self.facts.ladder.rungs
        skips: dict[str, str] = {}
        hoped: tuple[Candidate, int] | None = None
        spared: tuple[Candidate, int] | None = None
        best = SPARING
        for length in range(len(rungs) + 1):
            candidate = self.build(rungs[:length])
            skips.update(candidate.skipped)
            if length and rungs[length - 1].name in candidate.skipped:
                continue  # the rung changes nothing: this prefix is the one before
            objection = self.objection(candidate)
            if objection is None:
                chance, offloads = self.chance(candidate), candidate.config.cpu_offload_gib > 0
                if chance >= self.least_chance:
                    dared = spared if offloads and self.dares else None
                    return self.take(*(dared or (candidate, length)), skips)
                hoped = hoped or (candidate, length)
                if chance >= best and not offloads:
                    spared, best = (candidate, length), chance + SLIGHT
                objection = _prospect(candidate.predicted)
            if length:
                skips[rungs[length - 1].name] = objection
        if hoped:
            return self.take(*hoped, skips)
        reason = "every rung of the ladder was tried or ruled out"
        return Step(candidate=None, reason=reason, skips=_skips(skips))

    @property
    def dares(self) -> bool:
        """Whether a launch that may be in vain comes before one with weights on the host.

        The first one does, which measures, and a second one where there are further GPUs.
        """
        return len(self.history) < min(2, len(self.facts.devices))

    def take(self, candidate: Candidate, length: int, skips: dict[str, str]) -> Step:
        """Return the step that launches a candidate of so many rungs, without those not needed."""
        taken = self.facts.ladder.rungs[: self.with_auto_length(candidate, length)]
        best = self.pruned(self.build(taken), taken)
        for applied in best.rungs:
            skips.pop(applied.name, None)
        return Step(candidate=best, reason="", skips=_skips(skips))

    def chance(self, candidate: Candidate) -> float:
        """Return a candidate's chance to fit, at the shortest context if it may choose it."""
        config = candidate.config
        shortens = {rung.name for rung in self.facts.ladder.rungs if rung.fit == "max-model-len"}
        if _named(candidate, shortens):
            config = config.replace({"max-model-len": self.facts.workload.min_context})
        return predict(self.facts, self.calibration, config).chance

    def objection(self, candidate: Candidate) -> str | None:
        """Return the reason why a candidate is not worth a launch, None if it is."""
        if candidate.config.fingerprint() in self.tried:
            return "already tried"
        gpus, least = max(1, candidate.config.world_size), self.facts.workload.min_gpus
        if gpus < least:
            return f"uses {gpus} of at least {least} GPUs that you asked for"
        prediction, limit = candidate.predicted, self.facts.limit(candidate.config)
        if prediction.reserved_bytes > limit:
            reserved = format_bytes(prediction.reserved_bytes)
            return f"would reserve {reserved}, only {format_bytes(limit)} may be used"
        if prediction.fits == "no":
            return _prospect(prediction)
        for trial in self.history:
            failed = trial.outcome
            if not lacked_memory(failed):
                continue
            ailment = ailment_of(failed)
            if not self._cured(candidate, trial, ailment):
                return f"would not fix {UNFIXED[ailment]}"
        return None

    def with_auto_length(self, candidate: Candidate, length: int) -> int:
        """Return one rung more where it makes vLLM itself say what length fits."""
        rungs = self.facts.ladder.rungs
        if candidate.config.is_auto_length or candidate.predicted.fits == "yes":
            return length
        for more in range(length + 1, len(rungs) + 1):
            further = self.build(rungs[:more])
            if further.config != candidate.config:
                asks = further.config.is_auto_length and self.objection(further) is None
                return more if asks else length
        return length

    def pruned(self, candidate: Candidate, rungs: Sequence[Rung]) -> Candidate:
        """Take away, the dearest first, every rung that the others likely do without.

        Where all of them together are not likely enough, those that hardly add to it.
        """
        enough = min(self.least_chance, self.chance(candidate) - SLIGHT)
        needed = list(rungs)
        dearer: set[str] = set()
        for rung in reversed(rungs):
            without = [r for r in needed if r is not rung]
            smaller = self.build(without)
            asks = any(a.name == rung.name and AUTO in a.args.values() for a in candidate.rungs)
            if not rung.start and not asks and self._as_good(smaller, candidate, dearer, enough):
                needed, candidate = without, smaller
            dearer.add(rung.name)
        return candidate

    def _as_good(
        self, smaller: Candidate, candidate: Candidate, dearer: set[str], enough: float
    ) -> bool:
        """Tell whether the smaller one has chance enough, and dearer rungs set no more."""
        more = not no_more(_named(smaller, dearer), _named(candidate, dearer))
        if more or self.objection(smaller) is not None:
            return False
        one, other = smaller.predicted, candidate.predicted
        same = (one.kv_available, one.kv_needed) == (other.kv_available, other.kv_needed)
        return same or self.chance(smaller) >= enough

    def _cured(self, candidate: Candidate, trial: Trial, ailment: Ailment) -> bool:
        """Tell whether a rung that cures this makes the candidate differ from the trial."""
        config, failed = candidate.config, trial.config
        cures = {rung.name for rung in self.facts.ladder.rungs if ailment in rung.cures}
        return any(
            config.model != failed.model
            or any(config.args.get(flag) != failed.args.get(flag) for flag in applied.args)
            for applied in candidate.rungs
            if applied.name in cures
        )


def no_more(rungs: Sequence[Applied], others: Sequence[Applied]) -> bool:
    """Tell whether these rungs are the same as others, with the same values or lower numbers."""
    if [rung.name for rung in rungs] != [other.name for other in others]:
        return False
    return all(
        rung.args.keys() == other.args.keys()
        and rung.env == other.env
        and all(_at_most(rung.args[flag], other.args[flag]) for flag in rung.args)
        for rung, other in zip(rungs, others, strict=True)
    )


def _at_most(value: Value, other: Value) -> bool:
    if isinstance(value, int | float) and isinstance(other, int | float):
        return value <= other
    return value == other


def _named(candidate: Candidate, names: set[str]) -> list[Applied]:
    """Return these rungs of a candidate, without variables: how layers are dealt costs nothing."""
    return [replace(applied, env={}) for applied in candidate.rungs if applied.name in names]


def _skips(reasons: Mapping[str, str]) -> tuple[Skip, ...]:
    return tuple(Skip(rung=name, reason=why) for name, why in reasons.items())


def _prospect(prediction: Prediction) -> str:
    needed, available = prediction.kv_needed, prediction.kv_available
    if prediction.fits == "unknown":
        return "unknown: this architecture's memory cannot be estimated"
    fits = {"no": "cannot fit", "yes": "fits", "perhaps": "may fit"}[prediction.fits]
    room = f"between {format_bytes(available.low)} and {format_bytes(available.high)}"
    return f"{fits}: needs {format_bytes(needed.low)} of KV cache, has {room}"
