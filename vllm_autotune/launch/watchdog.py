"""The host's memory while a trial runs: when it is used up, the kernel kills any process."""

from dataclasses import dataclass
from typing import Self

from ..machine.device import host_free_bytes, host_memory_bytes
from ..outcome import Environment, OutOfMemory, Phase
from ..units import format_bytes
from ..vllm.config import LaunchConfig
from ..vllm.flags import OFFLOADING

HOST_MEMORY_LOW = "host_memory_low"
# A host with less than this left begins to thrash: a share of what it has, within bounds.
SHARE = 0.04
LEAST = 128 * 2**20
MOST = 512 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Watchdog:
    """Says when a trial must stop to spare the host.

    `blames` tells whether the candidate is what fills it: on the host itself, or by offloading.
    """

    floor_bytes: int
    blames: bool

    @classmethod
    def over(cls, config: LaunchConfig, *, uses_host_memory: bool) -> Self:
        """Watch over a configuration, on a device that may have the host's memory."""
        floor = int(min(MOST, max(LEAST, SHARE * host_memory_bytes())))
        blames = uses_host_memory or any(config.number(flag) for flag in OFFLOADING)
        return cls(floor_bytes=floor, blames=blames)

    def alarm(self, phase: Phase) -> OutOfMemory | Environment | None:
        """Return the failure for which the trial must stop now, None while it may go on."""
        free = host_free_bytes()
        if free >= self.floor_bytes:
            return None
        reason = (
            f"stopped with {format_bytes(free)} of host memory left, "
            f"{format_bytes(self.floor_bytes)} must stay free"
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
