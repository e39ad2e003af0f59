"""Walk a grid of shapes, cards and workloads over the simulated vLLM, and two other ways to do it.

    python -m tests.bench.simulated [OUT.json]

For every cell: launches, the winner against the best that trying everything finds, what it gives
up and need not have (each is written down), whether a rung was ruled out that would have been
stable, and what the naive ladder (every value of every rung from top to bottom) and a bisection of
the length need on the same machine.
"""

import json
import os
import platform
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import chain, repeat
from pathlib import Path
from zlib import crc32

from tests.support.memory_model import (
    CARDS,
    WORKLOADS,
    Machine,
    cards,
    checkpoints,
    default_ladder,
    engine,
    gather,
    install,
    measured,
)
from tests.support.public_boots import described, write_model
from vllm_autotune.checkpoint import Checkpoint, read_checkpoint
from vllm_autotune.outcome import Stable
from vllm_autotune.search.auto_length import NOISE_BYTES, deployed
from vllm_autotune.search.build import build, inapplicable
from vllm_autotune.search.fit import Situation
from vllm_autotune.search.ladder import Rung
from vllm_autotune.search.prediction import calibrate
from vllm_autotune.search.step import no_more, prospects
from vllm_autotune.search.trial import Candidate, Trial
from vllm_autotune.vllm.config import LaunchConfig

MOST = 60
# What one length may be from the optimum for a bisection to end.
CLOSE = 0.02
# Of the longest context that leaves the margin, what a winner must have.
ENOUGH = 0.98


@dataclass(frozen=True, slots=True, kw_only=True)
class Needless:
    """A rung of a winner without which its last launch would have been stable as well.

    `chance` is what the arithmetic, with all that was measured before that launch, gave it without
    the rung, `enough` what a launch must have at that point, or what the winner had if that is
    less. Below it, leaving the rung out is a bet that mostly costs another launch.
    """

    cell: str
    rung: str
    launches: int
    chance: float
    enough: float

    @property
    def known(self) -> bool:
        """Whether the arithmetic could tell before the launch: then it is a regret."""
        return self.chance >= self.enough


@dataclass(frozen=True, slots=True, kw_only=True)
class Walked:
    """One cell: how autotune and the two baselines fared in it.

    `optimum` is the longest stable context, `deployable` the longest that leaves the margin.
    """

    cell: str
    launches: int
    stable: bool
    context: int | None
    optimum: int | None
    deployable: int | None
    later_rung: bool
    needless: tuple[Needless, ...]
    wrongly_ruled_out: tuple[str, ...]
    naive: int
    naive_stable: bool
    bisection: int


def grid(
    most: int | None = None, *, part: int = 0, parts: int = 1
) -> Iterator[tuple[str, Machine]]:
    """Yield the cells; `most` takes that many, spread evenly, and of these one of several parts."""
    with tempfile.TemporaryDirectory() as folder:
        shapes, site = Path(folder) / "shapes", Path(folder) / "site"
        shapes.mkdir()
        found, vllm = checkpoints(shapes), engine(install(site))
        ratios, ladder = measured(found), default_ladder()
        found |= public_models(shapes)
        cells = [
            (shape, card, number)
            for shape in sorted(found)
            for card in CARDS
            for number in range(len(WORKLOADS))
        ]
        spread_evenly = cells[:: max(1, len(cells) // most) if most else 1]
        for shape, card, number in spread_evenly[part::parts]:
            name = f"{shape} on {card[3]} x {card[0]}, workload {number}"
            facts = gather(found[shape], cards(*card), WORKLOADS[number], vllm, ladder=ladder)
            yield name, Machine(facts, crc32(name.encode()), ratios)


def public_models(folder: Path) -> dict[str, Checkpoint]:
    """Read the models that others booted, but for those whose memory cannot be estimated."""
    found = {
        name: read_checkpoint(str(write_model(name, folder / name))) for name in sorted(described())
    }
    return {name: model for name, model in found.items() if model.layer_groups and model.weights}


def walked(name: str, machine: Machine) -> Walked:
    """Walk one cell, and compare."""
    history, _ = machine.walk()
    won = bool(history) and isinstance(history[-1].outcome, Stable)
    context = optimum = deployable = None
    later = False
    unneeded: tuple[Needless, ...] = ()
    if won:
        winner = deployed(machine.facts, history[-1].candidate, history[-1].readings)
        config = winner.config
        context = machine.facts.length(config)
        optimum = max(context, machine.best_length(config, any_share=False))
        deployable = longest_deployable(machine, config)
        later = ended_late(machine, winner)
        unneeded = tuple(needless(name, machine, history, winner))
    launches, stable = naive(machine)
    return Walked(
        cell=name,
        launches=len(history),
        stable=won,
        context=context,
        optimum=optimum,
        deployable=deployable,
        later_rung=later,
        needless=unneeded,
        wrongly_ruled_out=wrongly_ruled_out(machine),
        naive=launches,
        naive_stable=stable,
        bisection=bisection(machine),
    )


def longest_deployable(machine: Machine, config: LaunchConfig) -> int:
    """Return the longest context that leaves what the KV cache varies by from start to start.

    And what the start that was measured may have fallen short by itself.
    """
    spare = NOISE_BYTES["cuda"] * 5 // 4
    return machine.best_length(config, any_share=False, spare_bytes=spare)


def ended_late(machine: Machine, winner: Candidate) -> bool:
    """Tell whether the rungs before the winner's dearest one would have been enough."""
    rungs = machine.facts.ladder.rungs
    names = {applied.name for applied in winner.rungs}
    taken = (n for n, rung in enumerate(rungs) if rung.name in names and not rung.start)
    dearest = max(taken, default=0)
    return dearest > 1 and machine.can_do_with(rungs[:dearest])


def needless(
    name: str, machine: Machine, history: Sequence[Trial], winner: Candidate
) -> Iterator[Needless]:
    """Yield the rungs that give something up and that the last launch could have done without.

    So many launches were needed before it anyway: the same search, asked for a rung less, would
    have been stable at once, on the same GPUs and with no less context. What was launched before
    and refused is none, even if it would be stable the next time.
    """
    facts, before, last = machine.facts, history[:-1], history[-1]
    calibration = calibrate(facts, before)
    least = Situation(facts, before, calibration).least_chance
    taken = {applied.name for applied in winner.rungs}
    dear = [rung for rung in facts.ladder.rungs if rung.name in taken and rung.gives_up]
    for rung in (rung for rung in dear if not rung.start):
        rungs = [r for r in facts.ladder.rungs if r.name in taken and r is not rung]
        other = build(facts, before, calibration, rungs, {})
        # What is dearer must not make up for it: more GPUs, or more weights on the host.
        named = {r.name for r in facts.ladder.rungs[facts.ladder.rungs.index(rung) + 1 :]}
        less = no_more(
            [a for a in other.rungs if a.name in named],
            [a for a in winner.rungs if a.name in named],
        )
        tried = other.config.fingerprint() in {trial.fingerprint for trial in before}
        stays = rung.name in {applied.name for applied in other.rungs}
        if less and not stays and not tried and serves_as_much(machine, other, winner):
            yield Needless(
                cell=name,
                rung=rung.name,
                launches=len(history),
                chance=round(other.predicted.chance, 3),
                enough=round(min(least, last.predicted.chance), 3),
            )


def serves_as_much(machine: Machine, other: Candidate, winner: Candidate) -> bool:
    """Tell whether another candidate is stable with no less context than the winner."""
    if not machine.reserves(other.config):
        return False
    outcome, readings = machine.run(other.config)
    served = deployed(machine.facts, other, readings).config
    longer = machine.facts.length(served) >= machine.facts.length(winner.config)
    return isinstance(outcome, Stable) and longer


def wrongly_ruled_out(machine: Machine) -> tuple[str, ...]:
    """Return the rungs that the estimate calls impossible and the machine runs."""
    return tuple(
        rung.name
        for rung, candidate, _ in prospects(machine.facts)
        if candidate
        and candidate.predicted.fits == "no"
        and machine.reserves(candidate.config)
        and machine.stable(candidate.config)
    )


def values(rung: Rung, machine: Machine, config: LaunchConfig) -> Iterator[LaunchConfig]:
    """Yield what a person would try of a rung, one value after the other."""
    facts = machine.facts
    ladders: dict[str, Sequence[float]] = {
        "gpu-memory-utilization": (0.9, 0.85, 0.95),
        "max-num-seqs": (256, 64, 16),
        "max-num-batched-tokens": (2048, 512),
        "cpu-offload-gb": (4, 8, 16, 32),
        "tensor-parallel-size": (2, 4),
        "pipeline-parallel-size": (2, 4),
    }
    if rung.fit is None:
        yield config.replace(rung.args, rung.env)
    elif rung.fit == "max-model-len":
        length = facts.context // 2
        while length >= facts.workload.min_context:
            yield config.replace({"max-model-len": length})
            length //= 2
    else:
        for value in ladders.get(rung.fit, ()):
            yield config.replace({rung.fit: value, **rung.args}, rung.env)


def naive(machine: Machine) -> tuple[int, bool]:
    """Launch every value of every rung, each on top of those before, until one is stable."""
    facts, config, launches = machine.facts, machine.facts.base(), 1
    for rung in facts.ladder.rungs:
        if rung.start and not inapplicable(rung, config, facts):
            config = config.replace(rung.args, rung.env)
    if machine.reserves(config) and machine.stable(config):
        return launches, True
    for rung in facts.ladder.rungs:
        if rung.start or inapplicable(rung, config, facts):
            continue
        for candidate in values(rung, machine, config):
            if len(facts.devices) < candidate.integer(
                "tensor-parallel-size", 1
            ) * candidate.integer("pipeline-parallel-size", 1):
                break
            config = candidate
            launches += 1
            if machine.reserves(config) and machine.stable(config):
                return launches, True
            if launches >= MOST:
                return launches, False
    return launches, False


def bisection(machine: Machine) -> int:
    """Bisect the length on the rungs up to each one, as the naive ladder goes down."""
    facts, config, launches = machine.facts, machine.facts.base(), 0
    low = facts.workload.min_context
    for rung in (None, *facts.ladder.rungs):
        if rung is not None:
            if rung.fit == "max-model-len" or inapplicable(rung, config, facts):
                continue
            config = next(values(rung, machine, config), config)
        shortest = config.replace({"max-model-len": low})
        if len(facts.used(shortest)) > len(facts.devices):
            continue
        for length in (facts.context, low):
            candidate = config.replace({"max-model-len": length})
            launches += 1
            if machine.reserves(candidate) and machine.stable(candidate):
                return launches + (_bisected(machine, config, low) if length == low else 0)
    return launches


def _bisected(machine: Machine, config: LaunchConfig, low: int) -> int:
    high, launches = machine.facts.context, 0
    while high - low > max(16, CLOSE * low):
        middle = (low + high) // 2
        launches += 1
        stable = machine.stable(config.replace({"max-model-len": middle}))
        low, high = (middle, high) if stable else (low, middle)
    return launches


def spread(numbers: Sequence[int]) -> dict[str, float]:
    """Return median, 95th percentile, maximum and mean."""
    ordered = sorted(numbers)
    return {
        "median": ordered[len(ordered) // 2],
        "p95": ordered[int(len(ordered) * 0.95)],
        "max": ordered[-1],
        "mean": round(sum(ordered) / len(ordered), 2),
    }


def figures(cells: Sequence[Walked]) -> dict[str, object]:
    """Return what the grid shows, over the cells that were launched at all."""
    launched = [cell for cell in cells if cell.launches]
    shortened = [cell for cell in launched if cell.optimum]
    ratios = [(cell.context or 0) / (cell.optimum or 1) for cell in shortened]
    return {
        "cells": len(cells),
        "ruled_out_without_a_launch": len(cells) - len(launched),
        "launches": spread([cell.launches for cell in launched]),
        "launches_histogram": {
            str(n): sum(cell.launches == n for cell in cells)
            for n in sorted({cell.launches for cell in cells})
        },
        "stable": sum(cell.stable for cell in launched),
        "context_over_optimum": {
            "median": sorted(ratios)[len(ratios) // 2],
            "least": round(min(ratios), 4),
            "below_98_percent": sum(ratio < ENOUGH for ratio in ratios),
            "below_98_percent_of_what_leaves_the_margin": sum(
                (cell.context or 0) < ENOUGH * (cell.deployable or 0) for cell in shortened
            ),
        },
        "ended_at_a_later_rung": sum(cell.later_rung for cell in launched),
        "regret": told(launched, known=True),
        "could_not_be_known": told(launched, known=False),
        "wrongly_ruled_out": sum(bool(cell.wrongly_ruled_out) for cell in cells),
        "naive": {
            **spread([cell.naive for cell in launched]),
            "stable": sum(cell.naive_stable for cell in launched),
        },
        "bisection": spread([cell.bisection for cell in launched]),
    }


def told(cells: Sequence[Walked], *, known: bool) -> dict[str, object]:
    """Return the needless rungs that could be known before the launch, or those that could not."""
    found = [one for cell in cells for one in cell.needless if one.known is known]
    return {
        "cells": len({one.cell for one in found}),
        "rungs": dict(Counter(one.rung for one in found)),
        "each": [asdict(one) for one in found],
    }


def walk_part(most: int | None, part: int, parts: int) -> list[Walked]:
    return [walked(name, machine) for name, machine in grid(most, part=part, parts=parts)]


def run(most: int | None = None) -> tuple[dict[str, object], list[Walked]]:
    """Walk the grid with every core; return its figures and cells."""
    began, cores = time.monotonic(), os.cpu_count() or 1
    with ProcessPoolExecutor(cores) as pool:
        parts = list(pool.map(walk_part, repeat(most), range(cores), repeat(cores)))
    cells = sorted(chain(*parts), key=lambda cell: cell.cell)
    about = {
        "shapes": len({cell.cell.partition(" on ")[0] for cell in cells}),
        "cards": len(CARDS),
        "workloads": len(WORKLOADS),
        "cores": os.cpu_count() or 1,
        "seconds": round(time.monotonic() - began, 1),
        "python": platform.python_version(),
    }
    return {**about, **figures(cells)}, cells


if __name__ == "__main__":
    found, rows = run()
    print(json.dumps(found, indent=2))
    worst = sorted(rows, key=lambda cell: -cell.launches)[:5]
    print("worst:", *(f"{cell.launches} {cell.cell}" for cell in worst), sep="\n  ")
    if sys.argv[1:]:
        Path(sys.argv[1]).write_text(json.dumps(found, indent=2) + "\n")
