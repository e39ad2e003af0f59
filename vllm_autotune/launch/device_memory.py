"""What was free on the devices before a launch, and whether it came back."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from ..machine import device
from ..machine.device import Device
from ..outcome import Environment
from ..units import format_bytes

# The driver gives memory back a moment after the process is gone; some of it stays in caches.
RETURN_SECONDS = 30.0
RETURN_TOLERANCE = 200 * 2**20
POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class FreeMemory:
    """Devices, and the bytes that were free on each."""

    devices: tuple[Device, ...]
    bytes: tuple[int, ...]

    @classmethod
    def now(cls, devices: Sequence[Device]) -> Self:
        return cls(tuple(devices), tuple(device.free_bytes(d) for d in devices))

    def missing_bytes(self) -> int:
        """Wait until each GPU has as much free memory as before; return what is still missing.

        The host's memory is everyone's; there the end of the processes is the proof.
        """
        deadline = time.monotonic() + RETURN_SECONDS
        while True:
            missing = [
                before - device.free_bytes(d)
                for d, before in zip(self.devices, self.bytes, strict=True)
                if not d.uses_host_memory
            ]
            most = max(missing, default=0)
            if most <= RETURN_TOLERANCE:
                return 0
            if time.monotonic() > deadline:
                return most
            time.sleep(POLL_SECONDS)


def not_returned(missing: int, *, ended: bool) -> Environment:
    """Return the outcome of a launch after which so many bytes, or a whole process, are left."""
    reason = "a process of the server could not be killed"
    if ended:
        reason = (
            f"the server's processes ended, but {format_bytes(missing)} did not come back: "
            "another program took them, or the driver still holds them"
        )
    return Environment(cause="memory_not_returned", phase="serving", reason=reason)
