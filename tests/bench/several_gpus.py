"""Walk a grid of hosts with 1, 2, 4 and 8 GPUs, busy ones among them, over the simulated vLLM.

    python -m tests.bench.several_gpus [OUT.json]

For every cell: launches, whether the winner leaves weights on the host though the idle GPUs could
have held them, and whether the same GPUs could have served more, or as much with less given up.
"""

import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeVar
from zlib import crc32

from tests.bench.simulated import ENOUGH, ended_late, longest_deployable, spread
from tests.support.memory_model import (
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
from vllm_autotune.machine.device import Device
from vllm_autotune.machine.selection import Selection, select
from vllm_autotune.outcome import Stable
from vllm_autotune.search.auto_length import deployed

KINDS = (
    ("NVIDIA GeForce RTX 3090", 23.6, (8, 6)),
    ("NVIDIA L40S", 44.4, (8, 9)),
    ("NVIDIA H100 80GB HBM3", 79.2, (9, 0)),
    ("NVIDIA H200", 139.8, (9, 0)),
)
COUNTS = (1, 2, 4, 8)
LADDERS = ("default", "all-gpus")
# So much of a busy GPU others hold.
HELD = 0.6

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One host and what was found there; `regrets` says what could have been had instead."""

    name: str
    gpus: int
    idle: int
    launches: int
    stable: bool
    used: int = 0
    offloads: bool = False
    regrets: tuple[str, ...] = ()


def hosts(most: int | None = None) -> Iterator[tuple[str, int, Machine]]:
    """Yield names, the GPUs of each host, and machines; `most` takes that many, spread evenly."""
    with tempfile.TemporaryDirectory() as folder:
        shapes, site = Path(folder) / "shapes", Path(folder) / "site"
        shapes.mkdir()
        found, vllm = checkpoints(shapes), engine(install(site))
        ratios = measured(found)
        cells = [
            (shape, kind, count, busy, number, ladder)
            for shape in sorted(found)
            for kind in KINDS
            for count in COUNTS
            for busy in sorted({0, count // 2})
            for number in range(len(WORKLOADS))
            for ladder in LADDERS
        ]
        for shape, kind, count, busy, number, ladder in spread_evenly(cells, most):
            name = f"{shape} on {count} x {kind[0]}, {busy} busy, workload {number}, {ladder}"
            rungs, workload = default_ladder(ladder), WORKLOADS[number]
            devices = idle(cards(*kind, count), busy)
            facts = gather(found[shape], devices.devices, workload, vllm, ladder=rungs)
            yield name, count, Machine(facts, crc32(name.encode()), ratios)


def spread_evenly(cells: Sequence[T], most: int | None) -> Sequence[T]:
    """Return so many of the cells; the step shares no factor with the sizes of the grid."""
    if most is None or most >= len(cells):
        return cells
    step = len(cells) // most
    return cells[:: step + 1 - step % 2]


def idle(devices: Sequence[Device], busy: int) -> Selection:
    """Return what is left to use where others hold memory of the first GPUs."""
    held = [replace(d, free_bytes=int(d.free_bytes * (1 - HELD))) for d in devices[:busy]]
    return select((*held, *devices[busy:]), keep_busy=False, least=1, fits=lambda _: "yes")


def walked(name: str, gpus: int, machine: Machine) -> Cell:
    facts = machine.facts
    history, _ = machine.walk()
    stable = bool(history) and isinstance(history[-1].outcome, Stable)
    cell = Cell(name=name, gpus=gpus, idle=len(facts.devices), launches=len(history), stable=stable)
    if not stable:
        return cell
    winner = deployed(facts, history[-1].candidate, history[-1].readings)
    config = winner.config
    regrets = []
    if config.cpu_offload_gib and holds_without_offload(machine):
        regrets.append("weights on the host, though the GPUs could hold them")
    if facts.length(config) < ENOUGH * longest_deployable(machine, config):
        regrets.append("a shorter context than the same configuration can have")
    if ended_late(machine, winner):
        regrets.append("a dearer rung than needed")
    return replace(
        cell,
        used=len(facts.used(config)),
        offloads=config.cpu_offload_gib > 0,
        regrets=tuple(regrets),
    )


def holds_without_offload(machine: Machine) -> bool:
    """Tell whether any way to spread the model over these GPUs is stable without offloading."""
    facts = machine.facts
    offloading = [rung.name for rung in facts.ladder.rungs if rung.fit == "cpu-offload-gb"]
    alone = replace(facts, ladder=facts.ladder.without(offloading))
    other = Machine(alone, machine.seed, machine.ratios)
    history, _ = other.walk()
    return bool(history) and isinstance(history[-1].outcome, Stable)


def figures(cells: Sequence[Cell]) -> dict[str, object]:
    """Return what the grid shows, in all and by the number of GPUs."""
    launched = [cell for cell in cells if cell.launches]
    by_count = {
        str(count): {
            "cells": sum(cell.gpus == count for cell in cells),
            "launches": spread([cell.launches for cell in launched if cell.gpus == count]),
            "stable": sum(cell.stable for cell in launched if cell.gpus == count),
            "offload": sum(cell.offloads for cell in launched if cell.gpus == count),
        }
        for count in COUNTS
    }
    return {
        "cells": len(cells),
        "with_busy_gpus": sum(cell.idle < cell.gpus for cell in cells),
        "ruled_out_without_a_launch": len(cells) - len(launched),
        "launches": spread([cell.launches for cell in launched]),
        "stable": sum(cell.stable for cell in launched),
        "by_gpus": by_count,
        "regrets": dict(Counter(regret for cell in cells for regret in cell.regrets)),
    }


def run(most: int | None = None) -> tuple[dict[str, object], list[Cell]]:
    began = time.monotonic()
    cells = [walked(*host) for host in hosts(most)]
    return {"seconds": round(time.monotonic() - began, 1), **figures(cells)}, cells


if __name__ == "__main__":
    shown, rows = run(int(sys.argv[2]) if sys.argv[2:] else None)
    print(json.dumps(shown, indent=2))
    for row in [row for row in rows if row.regrets][:20]:
        print(json.dumps(asdict(row)))
    if sys.argv[1:]:
        Path(sys.argv[1]).write_text(json.dumps(shown, indent=2) + "\n")
