"""The host's memory while a trial runs: when it is used up, the kernel kills any process."""

from ..machine.device import host_free_bytes, host_memory_bytes
from ..outcome import Environment, OutOfMemory, Phase
from ..units import format_bytes
from ..vllm.config import LaunchConfig
from ..vllm.flags import OFFLOADING

HOST_MEMORY_LOW = "host_memory_low"
# A host with less free memory begins to thrash: a share of its memory, within bounds.
SHARE = 0.04
LEAST = 128 * 2**20
MOST = 512 * 2**20


def host_alarm(
    config: LaunchConfig, phase: Phase, *, uses_host_memory: bool
) -> OutOfMemory | Environment | None:
    """Return the failure for which the trial must stop now to spare the host, None without one.

    The configuration is blamed where it can fill the host's memory: on a device that
    `uses_host_memory`, or by offloading.
    """
    free, floor = host_free_bytes(), int(min(MOST, max(LEAST, SHARE * host_memory_bytes())))
    if free >= floor:
        return None
    blamed = uses_host_memory or any(config.number(flag) for flag in OFFLOADING)
    left, least = format_bytes(free), format_bytes(floor)
    reason = f"stopped with {left} of host memory left, {least} must stay free"
    if not blamed or phase in ("spawn", "config"):  # it has not used any memory yet
        return Environment(cause=HOST_MEMORY_LOW, phase=phase, reason=reason)
    missing = floor - free
    return OutOfMemory(
        cause=HOST_MEMORY_LOW, phase=phase, reason=reason, where="host", shortfall_bytes=missing
    )
