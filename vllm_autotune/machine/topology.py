"""Which GPUs are well linked to each other."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .device import Device

# So much alike is the free memory of GPUs that nobody uses.
ALIKE = 0.02


def arranged(
    devices: "Iterable[Device]", distance: "Callable[[Device, Device], float]"
) -> "list[Device]":
    """Return GPUs so that as many as are used from the front are well linked.

    The freest comes first; of those as free, one of the closest pair. Each of the others is as
    close as can be to those before it, the freest first where that is the same.
    """
    left = sorted(devices, key=lambda d: -d.free_bytes)
    if len(left) < 3:
        return left
    freest = [d for d in left if d.free_bytes >= (1 - ALIKE) * left[0].free_bytes]

    def closest(device: "Device") -> float:
        return min((distance(device, d) for d in freest if d is not device), default=0.0)

    order = [min(freest, key=closest)]
    left.remove(order[0])
    while left:
        # Those that others use come last, however close they are.
        near = [d for d in left if d in freest] or left
        best = min(near, key=lambda d: sum(distance(d, other) for other in order))
        order.append(best)
        left.remove(best)
    return order
