"""The devices to run on: NVIDIA GPUs through NVML, or the CPU. The only module that knows NVML."""

import os
import platform
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path
from typing import Any, Literal

from ..errors import BadUsage, NoDevice
from ..files import text_of
from . import cgroup
from .topology import arranged

NODES = Path("/sys/devices/system/node")
SHARED = Path("/dev/shm")  # noqa: S108
MEMINFO = Path("/proc/meminfo")
# What makes CUDA number GPUs of several kinds as the driver does, and not by their speed.
IN_ORDER = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One device as vLLM would see it.

    `share_bytes` is what vLLM's utilization is a share of, where that is not `memory_bytes` but
    the memory of one NUMA node. `free_bytes` was free when the device was detected; `limit_bytes`
    is the most that the user lets us use. `capability` is NVIDIA's compute capability, (8, 9) for
    8.9. A `unified` device shares the host's memory (GB10). An `imagined` one is not in this
    machine and can only be planned for.
    """

    kind: Literal["cuda", "cpu"]
    index: int
    name: str
    uuid: str
    memory_bytes: int
    free_bytes: int
    share_bytes: int | None = None
    limit_bytes: int | None = None
    capability: tuple[int, int] | None = None
    driver: str | None = None
    mig: bool = False
    unified: bool = False
    imagined: bool = False

    @property
    def uses_host_memory(self) -> bool:
        return self.kind == "cpu" or self.unified

    @property
    def utilization_base(self) -> int:
        """Return the bytes that a utilization of 1.0 stands for."""
        return self.share_bytes or self.memory_bytes

    @property
    def slug(self) -> str:
        """Return the device as a folder name: `nvidia-h200-140g`."""
        name = re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-") or self.kind
        return f"{name[:60]}-{round(self.memory_bytes / 2**30)}g"


def differ(devices: Sequence[Device]) -> bool:
    """Tell whether devices are of several kinds."""
    return len({(device.name, device.memory_bytes) for device in devices}) > 1


def counted(devices: Iterable[Device]) -> str:
    """Return how many devices of which kinds there are: `2 x NVIDIA L40S + 1 x NVIDIA A40`."""
    kinds = Counter(device.name for device in devices)
    return " + ".join(f"{count} x {name}" for name, count in kinds.items())


def detect(kind: Literal["cuda", "cpu"], wanted: str | None = None) -> list[Device]:
    """Return the devices that may be used: the freest first, then the best linked to those before.

    `wanted` picks GPUs by index or UUID, separated by commas, among those that
    `CUDA_VISIBLE_DEVICES` leaves visible. Raises NoDevice when there is none or a wanted one does
    not respond, BadUsage when one does not exist.
    """
    if kind == "cpu":
        if wanted is None:
            return [_cpu()]
        hint = "drop --gpus, or point --vllm-python at a CUDA build of vLLM"
        raise BadUsage(f"--gpus {wanted}: this vLLM is a CPU build and cannot use a GPU", hint)
    gpus, lost, distances = _nvidia()
    variable = os.environ.get("CUDA_VISIBLE_DEVICES")
    visible = gpus if variable is None else _visible(variable, gpus, lost)
    if not visible:
        why = [f"GPU {index} does not respond ({error})" for index, error in lost.items()]
        if gpus:
            why.append(f"CUDA_VISIBLE_DEVICES={variable} hides {_listed(gpus)}")
        hint = "check `nvidia-smi` and CUDA_VISIBLE_DEVICES; a container must be given the GPUs"
        raise NoDevice(f"no NVIDIA GPU is visible{': ' if why else ''}{'; '.join(why)}", hint)
    if wanted is None:
        return arranged(visible, lambda one, other: distances.get((one.uuid, other.uuid), 0.0))
    return list(dict.fromkeys(_wanted(name.strip(), visible, lost) for name in wanted.split(",")))


def host_free_bytes() -> int:
    """Return the host memory that weights may be offloaded into now."""
    match = re.search(r"MemAvailable:\s+(\d+) kB", text_of(MEMINFO))
    return cgroup.free_bytes(int(match[1]) * 1024 if match else 0)


def shared_free_bytes() -> int | None:
    """Return what is free for segments of shared memory, None where that cannot be told."""
    try:
        found = os.statvfs(SHARED)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize


def host_memory_bytes() -> int:
    """Return the memory of the host, or what our cgroup may use of it."""
    return cgroup.limit_bytes(_physical_bytes())


def _physical_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def free_bytes(device: Device) -> int:
    if device.kind == "cpu":
        return _cpu().free_bytes
    if device.unified:
        return host_free_bytes()
    with _nvml() as nvml:
        handle = nvml.nvmlDeviceGetHandleByUUID(device.uuid)
        return int(nvml.nvmlDeviceGetMemoryInfo(handle).free)


def refreshed(device: Device) -> Device:
    """Return the device as it is now, the same object unless its memory changed.

    A virtual machine may be given memory while it runs, other processes take and free some. Free
    memory always changes a little: up to 2 % counts as no change.
    """
    now = _cpu() if device.kind == "cpu" else replace(device, free_bytes=free_bytes(device))
    little = abs(now.free_bytes - device.free_bytes) <= 0.02 * device.free_bytes
    if little and now.share_bytes == device.share_bytes:
        return device
    return replace(device, share_bytes=now.share_bytes, free_bytes=now.free_bytes)


def visible_environment(devices: Sequence[Device]) -> dict[str, str]:
    """Return the environment variables that show a child exactly these GPUs, in this order."""
    if devices[0].kind == "cpu":
        return {}
    # Indices rather than UUIDs: vLLM before 0.10 reads them as integers. A MIG slice has none.
    names = [d.uuid if d.mig else str(d.index) for d in devices]
    return {**IN_ORDER, "CUDA_VISIBLE_DEVICES": ",".join(names)}


@contextmanager
def _nvml() -> Iterator[Any]:
    import pynvml  # noqa: PLC0415  loading it costs 30 ms that `--help` need not pay

    try:
        pynvml.nvmlInit()
        try:
            yield pynvml
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        hint = "check `nvidia-smi`; on a machine without a GPU, install the CPU build of vLLM"
        raise NoDevice(f"the NVIDIA driver does not respond ({error})", hint) from error


def _nvidia() -> tuple[list[Device], dict[str, str], dict[tuple[str, str], float]]:
    """Return the GPUs that respond, the errors of others by index, and how far pairs are apart."""
    found: list[Device] = []
    lost = {}
    distances: dict[tuple[str, str], float] = {}
    with _nvml() as nvml:
        for index in range(nvml.nvmlDeviceGetCount()):
            try:
                found += _on_card(nvml, index)
            except nvml.NVMLError as error:
                lost[str(index)] = str(error)
        if len(found) > 2:
            for one, other in permutations(found, 2):
                distances[one.uuid, other.uuid] = _distance(nvml, one, other)
    return found, lost, distances


def _distance(nvml: Any, one: Device, other: Device) -> float:
    """Return how far two GPUs are apart: 0 with NVLink, else by what is between them on PCIe.

    That is 10 for one switch to 50 for another socket (nvmlGpuTopologyLevel_t), 100 if unknown.
    """
    with suppress(nvml.NVMLError):
        handles = [nvml.nvmlDeviceGetHandleByUUID(device.uuid) for device in (one, other)]
        with suppress(nvml.NVMLError):
            status = nvml.nvmlDeviceGetP2PStatus(*handles, nvml.NVML_P2P_CAPS_INDEX_NVLINK)
            if status == nvml.NVML_P2P_STATUS_OK:
                return 0.0
        return float(nvml.nvmlDeviceGetTopologyCommonAncestor(*handles))
    return 100.0


def _on_card(nvml: Any, index: int) -> Iterator[Device]:
    """Yield a card, or its MIG slices."""
    card = nvml.nvmlDeviceGetHandleByIndex(index)
    slices = list(_mig_slices(nvml, card))
    capability = None
    with suppress(nvml.NVMLError):
        major, minor = nvml.nvmlDeviceGetCudaComputeCapability(card)
        capability = (int(major), int(minor))
    for handle in slices or [card]:
        total, free, unified = _memory(nvml, handle)
        yield Device(
            kind="cuda",
            index=index,
            name=str(nvml.nvmlDeviceGetName(handle)),
            uuid=str(nvml.nvmlDeviceGetUUID(handle)),
            memory_bytes=total,
            free_bytes=free,
            capability=capability,
            driver=str(nvml.nvmlSystemGetDriverVersion()),
            mig=bool(slices),
            unified=unified,
        )


def _memory(nvml: Any, handle: Any) -> tuple[int, int, bool]:
    """Return total and free bytes of a GPU, and whether it shares the host's memory."""
    try:
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    except nvml.NVMLError_NotSupported:  # a GPU that shares it (GB10, driver 580)
        # There vLLM takes what the host has available as free (utils/mem_utils.py, 0.32).
        return _physical_bytes(), host_free_bytes(), True
    return int(memory.total), int(memory.free), False


def _mig_slices(nvml: Any, card: Any) -> Iterator[Any]:
    mode = None
    with suppress(nvml.NVMLError):  # the card does not support MIG
        mode, _ = nvml.nvmlDeviceGetMigMode(card)
    if mode == nvml.NVML_DEVICE_MIG_ENABLE:
        for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(card)):
            with suppress(nvml.NVMLError):  # an unused slot
                yield nvml.nvmlDeviceGetMigDeviceHandleByIndex(card, index)


def _visible(variable: str, devices: list[Device], lost: Mapping[str, str]) -> list[Device]:
    visible: list[Device] = []
    for name in filter(None, map(str.strip, variable.split(","))):
        device = _named(name, devices)
        if device is None and name not in lost:
            break  # CUDA stops at the first name it does not know: -1, NoDevFiles, none
        visible += [device] if device else []
    return list(dict.fromkeys(visible))


def _wanted(name: str, devices: list[Device], lost: Mapping[str, str]) -> Device:
    device, hint = _named(name, devices), f"available: {_listed(devices)}"
    if device is None and name in lost:
        raise NoDevice(f"--gpus names GPU `{name}`, which does not respond ({lost[name]})", hint)
    if device is None:
        raise BadUsage(f"--gpus names GPU `{name}`, which does not exist", hint)
    return device


def _named(name: str, devices: Iterable[Device]) -> Device | None:
    name = name or "?"  # every UUID starts with an empty text
    return next((d for d in devices if name == str(d.index) or d.uuid.startswith(name)), None)


def _listed(devices: Iterable[Device]) -> str:
    return ", ".join(f"{device.index} ({device.uuid})" for device in devices)


def _cpu() -> Device:
    node, free = _node_memory()
    model = re.search(r"model name\s*:\s*(.+)", text_of(Path("/proc/cpuinfo")))
    name = model[1].strip() if model else platform.processor() or platform.machine() or "CPU"
    return Device(
        kind="cpu",
        index=0,
        name=name,
        uuid="cpu-0",
        memory_bytes=host_memory_bytes(),
        share_bytes=min(node, host_memory_bytes()),
        free_bytes=cgroup.free_bytes(free),
    )


def _node_memory() -> tuple[int, int]:
    """Return total and free bytes of vLLM's NUMA node (cpu_resource_utils.py, 0.32)."""
    cpu = min(os.sched_getaffinity(0))
    nodes = (path.parent for path in sorted(NODES.glob(f"node[0-9]*/cpu{cpu}")))
    text = text_of(next(nodes, NODES / "node0") / "meminfo") or text_of(MEMINFO)
    kib = {m[1]: int(m[2]) for m in re.finditer(r"(\w+(?:\(\w+\))?):\s+(\d+) kB", text)}
    parts = ("MemFree", "Active(file)", "Inactive(file)", "SReclaimable")
    return kib["MemTotal"] * 1024, sum(kib.get(part, 0) for part in parts) * 1024
