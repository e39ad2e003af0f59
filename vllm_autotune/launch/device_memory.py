"""Whether a launch gave back the memory that was free on the devices before it."""

import time
from collections.abc import Sequence

from ..machine import device
from ..machine.device import Device
from ..outcome import Environment
from ..units import format_bytes

# The driver frees memory a moment after the process has ended; some of it stays in caches.
RETURN_SECONDS = 30.0
RETURN_TOLERANCE = 200 * 2**20
POLL_SECONDS = 0.2


def missing_bytes(before: Sequence[tuple[Device, int]]) -> int:
    """Wait until each GPU has as much free memory as before; return what is still missing.

    Host memory is shared with other programs: there the end of the processes is the proof.
    """
    gpus = [(d, free) for d, free in before if not d.uses_host_memory]
    deadline = time.monotonic() + RETURN_SECONDS
    while True:
        most = max((free - device.free_bytes(d) for d, free in gpus), default=0)
        if most <= RETURN_TOLERANCE:
            return 0
        if time.monotonic() > deadline:
            return most
        time.sleep(POLL_SECONDS)


def not_returned(missing: int, *, ended: bool) -> Environment:
    """Return the outcome of a launch that left bytes missing, or a process running."""
    reason = "a process of the server could not be killed"
    if ended:
        reason = (
            f"the server's processes ended, but {format_bytes(missing)} did not come back: "
            "another program took them, or the driver still holds them"
        )
    return Environment(cause="memory_not_returned", phase="serving", reason=reason)
