"""How many seconds a server takes to start at least: by its devices, and by what it loads."""

from collections.abc import Sequence

from ..search.facts import Facts
from ..search.trial import Trial
from ..units import GIB
from ..vllm.config import LaunchConfig

# The quickest start on one device, and how much longer the quickest one on several took: 29 and
# 43 s of vLLM 0.26 on H200s (`bare_start` in results/examples); 33 s on one CPU (0.32).
ALONE, TOGETHER = 29.0, 14.0
# The quickest load: 3.4 GiB took 0.44 s from the page cache of a host with an H200.
BYTES_PER_SECOND = 7.7 * GIB
# The first start of an architecture on a machine takes up to twice as long as the next one.
NEXT = 0.5


def quickest_start(facts: Facts, config: LaunchConfig) -> float:
    """Return the least seconds until a server is ready, by what was seen on other machines."""
    loaded = facts.checkpoints[config.model].weight_bytes or 0
    if config.text("load-format") == "dummy":
        loaded = 0
    together = TOGETHER if config.world_size > 1 else 0.0
    return ALONE + together + loaded / BYTES_PER_SECOND


def quickest_here(facts: Facts, config: LaunchConfig, history: Sequence[Trial]) -> float | None:
    """Return the same by the newest start that this machine showed, None where it showed none."""
    for trial in reversed(history):
        if trial.startup_seconds is not None and trial.model in facts.checkpoints:
            pace = trial.startup_seconds / quickest_start(facts, trial.config)
            return NEXT * pace * quickest_start(facts, config)
    return None
