"""The host's memory while a trial runs: where it ends, the kernel kills what it likes."""

from dataclasses import dataclass

from .config import LaunchConfig
from .device import host_free_bytes, host_memory_bytes
from .memory import format_bytes
from .outcome import Environment, OutOfMemory, Phase

HOST_MEMORY_LOW = "host_memory_low"
# A host with less than this left begins to thrash: a share of what it has, within bounds.
SHARE = 0.04
LEAST = 128 * 2**20
MOST = 512 * 2**20
# vLLM's flags that put weights or KV cache into the host's memory.
OFFLOADS = ("cpu-offload-gb", "swap-space", "kv-offloading-size", "offload-group-size")


@dataclass(frozen=True, slots=True, kw_only=True)
class Watchdog:
    """Says when a trial must stop for the host's sake.

    `blames` tells whether the candidate is what fills it: on the host itself, or by offloading.
    """

    floor_bytes: int
    blames: bool

    @classmethod
    def over(cls, config: LaunchConfig, *, uses_host_memory: bool) -> "Watchdog":
        """Return the one for a configuration, on a device that may have the host's memory."""
        blames = uses_host_memory or any(config.number(flag) for flag in OFFLOADS)
        return cls(
            floor_bytes=int(min(MOST, max(LEAST, SHARE * host_memory_bytes()))), blames=blames
        )

    def alarm(self, phase: Phase) -> OutOfMemory | Environment | None:
        """Return why the trial must stop now, None if it need not."""
        free = host_free_bytes()
        if free >= self.floor_bytes:
            return None
        reason = (
            f"stopped with {format_bytes(free)} of the host's memory left, "
            f"{format_bytes(self.floor_bytes)} are kept free"
        )
        if not self.blames or phase in ("spawn", "config"):  # it has not taken any yet
            return Environment(cause=HOST_MEMORY_LOW, phase=phase, reason=reason)
        return OutOfMemory(
            cause=HOST_MEMORY_LOW,
            phase=phase,
            reason=reason,
            where="host",
            shortfall_bytes=self.floor_bytes - free,
        )
