"""Which of the GPUs to use: those that nobody uses, of one kind where that is enough."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from ..units import format_bytes
from .device import Device, differ

# What other programs may use of a GPU before it counts as busy: a desktop, the driver itself.
BUSY_BYTES = 2 * 2**30
BUSY_SHARE = 0.02


@dataclass(frozen=True, slots=True)
class Selection:
    """GPUs that may be used, `busy` ones of their kinds, and why any are left alone."""

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
    found: Sequence[Device], *, keep_busy: bool, least: int, fits: Callable[[Selection], str]
) -> Selection:
    """Return what to use of the GPUs found.

    Busy ones are left alone where `least` others of their kind are idle, unless `keep_busy`. Of
    several kinds it is the one with the most memory on a card that `fits` (`yes`, `perhaps`, `no`
    or `unknown`), else as few as surely fit together, or all that perhaps do, else the one with the
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
    chosen = largest
    if len(choices) > 1:
        alone = (choice for choice in choices if fits(choice) != "no")
        chosen = next(alone, None) or _enough(_together(choices), fits) or largest
    reasons = [
        f"the GPU {d.name} ({d.uuid}) is left alone: {_why_alone(chosen)}"
        for d in found
        if d not in (*chosen.devices, *chosen.busy)
    ]
    return Selection(chosen.devices, chosen.busy, (*chosen.left_alone, *reasons))


def alike(found: Sequence[Device], wanted: Sequence[Device]) -> Selection | None:
    """Return GPUs of the same kinds in the same order, idle ones first; None where one lacks."""
    left, devices = sorted(found, key=is_busy), []
    for each in wanted:
        same = next((device for device in left if _kind(device) == _kind(each)), None)
        if same is None:
            return None
        left.remove(same)
        devices.append(same)
    return Selection(tuple(devices)) if devices else None


def _enough(choices: Iterable[Selection], fits: Callable[[Selection], str]) -> Selection | None:
    """Return the first that surely fits, else the last that perhaps does."""
    perhaps = None
    for choice in choices:
        said = fits(choice)
        if said == "yes":
            return choice
        perhaps = choice if said == "perhaps" else perhaps
    return perhaps


def _together(choices: Sequence[Selection]) -> Iterator[Selection]:
    """Yield GPUs of several kinds: the freest two, then one more each time.

    They are in the order of their indices, in which a container sees them, too.
    """
    able = [c for c in choices if not (c.devices[0].mig or c.devices[0].unified)]
    devices = sorted((d for choice in able for d in choice.devices), key=lambda d: -d.free_bytes)
    for count in range(2, len(devices) + 1):
        some = tuple(sorted(devices[:count], key=lambda device: device.index))
        if differ(some):
            kinds = {_kind(device) for device in some}
            own = [c for c in able if _kind(c.devices[0]) in kinds]
            busy = tuple(device for choice in own for device in choice.busy)
            yield Selection(some, busy, tuple(map(busy_sentence, busy)))


def _why_alone(chosen: Selection) -> str:
    return "not needed" if differ(chosen.devices) else f"not a {chosen.devices[0].name}"


def _idle(group: Sequence[Device], *, keep_busy: bool, least: int) -> Selection:
    idle = [device for device in group if not is_busy(device)]
    if keep_busy or len(idle) < max(1, least):
        return Selection(tuple(group))
    busy = tuple(device for device in group if device not in idle)
    return Selection(tuple(idle), busy, tuple(map(busy_sentence, busy)))


def _kind(device: Device) -> tuple[object, ...]:
    return device.kind, device.name, device.memory_bytes, device.mig
