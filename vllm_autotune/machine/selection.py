"""Which of the GPUs to use: those that nobody uses, of one kind."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..units import format_bytes
from .device import Device

# What other programs may use of a GPU before it counts as busy: a desktop, the driver itself.
BUSY_BYTES = 2 * 2**30
BUSY_SHARE = 0.02


@dataclass(frozen=True, slots=True)
class Selection:
    """GPUs of one kind that may be used, `busy` ones of this kind, and why any are left alone."""

    devices: tuple[Device, ...]
    busy: tuple[Device, ...] = ()
    left_alone: tuple[str, ...] = ()


def is_busy(device: Device) -> bool:
    """Tell whether other programs use a GPU: they would distort every measurement."""
    taken = device.memory_bytes - device.free_bytes
    return not device.uses_host_memory and taken > max(BUSY_BYTES, BUSY_SHARE * device.memory_bytes)


def busy_sentence(device: Device) -> str:
    taken = format_bytes(device.memory_bytes - device.free_bytes)
    held = f"other processes hold {taken} of {format_bytes(device.memory_bytes)}"
    return f"the GPU {device.name} ({device.uuid}) is busy: {held}"


def select(
    found: Sequence[Device], *, keep_busy: bool, least: int, fits: Callable[[Selection], bool]
) -> Selection:
    """Return what to use of the GPUs found.

    Busy ones are left alone where `least` others of their kind are idle, unless `keep_busy`. Of
    several kinds it is the one with the most memory on a card that `fits`, else the one with the
    most memory in all.
    """
    kinds = dict.fromkeys(map(_kind, found))
    groups = [[d for d in found if _kind(d) == kind] for kind in kinds]
    choices = [_idle(group, keep_busy=keep_busy, least=least) for group in groups]
    choices.sort(key=lambda choice: -choice.devices[0].memory_bytes)
    if not keep_busy:
        idle = [c for c in choices if not all(map(is_busy, c.devices))]
        choices = idle or choices
    largest = max(choices, key=lambda choice: sum(d.free_bytes for d in choice.devices))
    fitting = (choice for choice in choices if fits(choice)) if len(choices) > 1 else iter(())
    chosen = next(fitting, largest)
    others = [d for d in found if _kind(d) != _kind(chosen.devices[0])]
    name = chosen.devices[0].name
    reasons = [f"the GPU {d.name} ({d.uuid}) is left alone: not a {name}" for d in others]
    return Selection(chosen.devices, chosen.busy, (*chosen.left_alone, *reasons))


def _idle(group: Sequence[Device], *, keep_busy: bool, least: int) -> Selection:
    idle = [device for device in group if not is_busy(device)]
    if keep_busy or len(idle) < max(1, least):
        return Selection(tuple(group))
    busy = tuple(device for device in group if device not in idle)
    return Selection(tuple(idle), busy, tuple(map(busy_sentence, busy)))


def _kind(device: Device) -> tuple[object, ...]:
    return device.kind, device.name, device.memory_bytes, device.mig
