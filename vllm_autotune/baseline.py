"""What was free on the devices before a launch, and whether it came back."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from . import device
from .device import Device
from .memory import format_bytes
from .outcome import Environment

# The driver gives memory back a moment after the process is gone; some of it stays in caches.
RETURN_SECONDS = 30.0
RETURN_TOLERANCE = 200 * 2**20
POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Baseline:
    """Devices, and the free bytes of each."""

    devices: tuple[Device, ...]
    free_bytes: tuple[int, ...]

    @classmethod
    def of(cls, devices: Sequence[Device]) -> Self:
        """Return what is free now."""
        return cls(tuple(devices), tuple(device.free_bytes(d) for d in devices))

    def missing_bytes(self) -> int:
        """Wait until each GPU has as much free memory as before; return what still lacks.

        The host's memory is everyone's; there the end of the processes is the proof.
        """
        deadline = time.monotonic() + RETURN_SECONDS
        while True:
            missing = [
                then - device.free_bytes(d)
                for d, then in zip(self.devices, self.free_bytes, strict=True)
                if not d.uses_host_memory
            ]
            most = max(missing, default=0)
            if most <= RETURN_TOLERANCE:
                return 0
            if time.monotonic() > deadline:
                return most
            time.sleep(POLL_SECONDS)


def not_returned(missing: int) -> Environment:
    """Return the outcome of a launch after which so many bytes are missing."""
    return Environment(
        cause="memory_not_returned",
        phase="serving",
        reason=f"the server's processes ended, but {format_bytes(missing)} did not come back: "
        "another program took them, or the driver holds them",
    )


def unkillable() -> Environment:
    """Return the outcome of a launch whose processes hold their memory for good."""
    reason = "a process of the server could not be killed"
    return Environment(cause="memory_not_returned", phase="serving", reason=reason)
