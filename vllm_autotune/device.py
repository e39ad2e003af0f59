"""What we run on: NVIDIA GPUs through NVML, or the CPU. The only module that knows NVML."""

import os
import platform
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from . import cgroup
from .errors import BadUsage, NoDevice

NODES = Path("/sys/devices/system/node")


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One device as vLLM would see it; memory in bytes.

    `memory_bytes` tells its type. `share_bytes` is what vLLM's utilization is a share of, where
    that is another number: the memory of one NUMA node. `free_bytes` is what was free when it
    was detected; `limit_bytes` is the most the user lets us use. `capability` is NVIDIA's
    compute capability, (8, 9) for 8.9. A `unified` one has no memory but the host's (GB10). An
    `imagined` one is not here: it can be planned for.
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
        """Return whether its memory is everyone's on this host."""
        return self.kind == "cpu" or self.unified

    @property
    def utilization_base(self) -> int:
        """Return the bytes that a utilization of 1 stands for."""
        return self.share_bytes or self.memory_bytes

    @property
    def slug(self) -> str:
        """Return the device as a folder name: `nvidia-h200-140g`."""
        name = re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-") or self.kind
        return f"{name[:60]}-{round(self.memory_bytes / 2**30)}g"


def detect(kind: Literal["cuda", "cpu"], wanted: str | None = None) -> list[Device]:
    """Return the devices to use, the freest first.

    `wanted` picks GPUs by index or UUID, comma separated, among those that
    `CUDA_VISIBLE_DEVICES` leaves visible.

    Raises NoDevice when there is none, or `wanted` names one that does not answer; BadUsage when
    it names one that is not there.
    """
    if kind == "cpu":
        if wanted is not None:
            raise BadUsage(
                f"--gpus {wanted}: the installed vLLM is a CPU build and uses no GPU",
                "drop --gpus, or point --vllm-python at a CUDA build of vLLM",
            )
        return [_cpu()]
    there, silent = _nvidia()
    variable = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = there if variable is None else _visible(variable, there, silent)
    if not devices:
        why = [f"GPU {index} does not answer ({error})" for index, error in silent.items()]
        why += [f"CUDA_VISIBLE_DEVICES={variable} hides {_listed(there)}"] if there else []
        raise NoDevice(
            f"no NVIDIA GPU is visible{': ' if why else ''}{'; '.join(why)}",
            "check `nvidia-smi` and CUDA_VISIBLE_DEVICES; in a container, start it with the GPUs",
        )
    if wanted is not None:
        found = [_wanted(name.strip(), devices, silent) for name in wanted.split(",")]
        return list(dict.fromkeys(found))
    return sorted(devices, key=lambda d: -d.free_bytes)


def host_free_bytes() -> int:
    """Return the host memory that weights may be offloaded into now."""
    match = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    available = int(match[1]) * 1024 if match else 0
    allowed = cgroup.free_bytes()
    return available if allowed is None else min(available, allowed)


def host_memory_bytes() -> int:
    """Return the memory of the host, or what our cgroup may use of it."""
    limit = cgroup.limit_bytes()
    return _physical_bytes() if limit is None else min(_physical_bytes(), limit)


def _physical_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def free_bytes(device: Device) -> int:
    """Return the memory that is free on `device` now."""
    if device.kind == "cpu":
        return _cpu().free_bytes
    if device.unified:
        return host_free_bytes()
    with _nvml() as nvml:
        handle = nvml.nvmlDeviceGetHandleByUUID(device.uuid)
        return int(nvml.nvmlDeviceGetMemoryInfo(handle).free)


def refreshed(device: Device) -> Device:
    """Return the device as it is now, the same object unless its memory changed.

    Free memory always changes a little; 2 % of it count as no change.

    A virtual machine may be given memory while it runs; another tenant may take or leave some.
    """
    now = _cpu() if device.kind == "cpu" else replace(device, free_bytes=free_bytes(device))
    much = abs(now.free_bytes - device.free_bytes) > 0.02 * device.free_bytes
    if not much and now.share_bytes == device.share_bytes:
        return device
    return replace(device, share_bytes=now.share_bytes, free_bytes=now.free_bytes)


def visible_environment(devices: Sequence[Device]) -> dict[str, str]:
    """Return the variables that show a child exactly these GPUs, in this order."""
    if devices[0].kind == "cpu":
        return {}
    # Indices rather than UUIDs: vLLM before 0.10 reads them as integers. A MIG slice has none.
    names = [d.uuid if d.mig else str(d.index) for d in devices]
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(names)}


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
        raise NoDevice(
            f"no NVIDIA driver answers ({error})",
            "check `nvidia-smi`; for a CPU, install the CPU build of vLLM",
        ) from error


def _nvidia() -> tuple[list[Device], dict[str, str]]:
    """Return the GPUs, and by index why others do not answer: one that is lost spoils no other."""
    found: list[Device] = []
    silent = {}
    with _nvml() as nvml:
        for index in range(nvml.nvmlDeviceGetCount()):
            try:
                found += list(_on_card(nvml, index))
            except nvml.NVMLError as error:
                silent[str(index)] = str(error)
    return found, silent


def _on_card(nvml: Any, index: int) -> Iterator[Device]:
    """Yield a card, or the slices it is cut into."""
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
    """Return total and free bytes of a GPU, and whether they are the host's.

    NVML has no numbers for a GPU without memory of its own (GB10, driver 580). vLLM takes what
    the host has available as free there (utils/mem_utils.py, 0.32).
    """
    try:
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    except nvml.NVMLError_NotSupported:
        return _physical_bytes(), host_free_bytes(), True
    return int(memory.total), int(memory.free), False


def _mig_slices(nvml: Any, card: Any) -> Iterator[Any]:
    try:
        mode, _ = nvml.nvmlDeviceGetMigMode(card)
    except nvml.NVMLError:
        return  # the card knows no MIG
    if mode != nvml.NVML_DEVICE_MIG_ENABLE:
        return
    for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(card)):
        with suppress(nvml.NVMLError):  # an unused slot
            yield nvml.nvmlDeviceGetMigDeviceHandleByIndex(card, index)


def _visible(variable: str, devices: list[Device], silent: Mapping[str, str]) -> list[Device]:
    visible: list[Device] = []
    for name in filter(None, map(str.strip, variable.split(","))):
        if name in silent:
            continue
        device = _named(name, devices)
        if device is None:
            break  # CUDA stops at the first name it does not know: -1, NoDevFiles, none
        visible.append(device)
    return list(dict.fromkeys(visible))


def _wanted(name: str, devices: list[Device], silent: Mapping[str, str]) -> Device:
    device, hint = _named(name, devices), f"there are: {_listed(devices)}"
    if device is None and name in silent:
        raise NoDevice(f"--gpus names GPU `{name}`, which does not answer ({silent[name]})", hint)
    if device is None:
        raise BadUsage(f"--gpus names GPU `{name}`, which is not there", hint)
    return device


def _named(name: str, devices: Iterable[Device]) -> Device | None:
    for device in devices:
        if name == str(device.index) or device.uuid.startswith(name or "?"):
            return device
    return None


def _listed(devices: Iterable[Device]) -> str:
    return ", ".join(f"{device.index} ({device.uuid})" for device in devices)


def _cpu() -> Device:
    node, free = _node_memory()
    allowed = cgroup.free_bytes()
    return Device(
        kind="cpu",
        index=0,
        name=_processor(),
        uuid="cpu-0",
        memory_bytes=host_memory_bytes(),
        share_bytes=min(node, host_memory_bytes()),
        free_bytes=free if allowed is None else min(free, allowed),
    )


def _node_memory() -> tuple[int, int]:
    """Total and available bytes of the NUMA node vLLM binds to (cpu_resource_utils.py, 0.32)."""
    try:
        text = (NODES / f"node{_allowed_node()}" / "meminfo").read_text()
    except OSError:
        text = Path("/proc/meminfo").read_text()
    kib = {m[1]: int(m[2]) for m in re.finditer(r"(\w+(?:\(\w+\))?):\s+(\d+) kB", text)}
    parts = ("MemFree", "Active(file)", "Inactive(file)", "SReclaimable")
    return kib["MemTotal"] * 1024, sum(kib.get(part, 0) for part in parts) * 1024


def _allowed_node() -> int:
    cpu = min(os.sched_getaffinity(0))
    for node in sorted(NODES.glob("node[0-9]*")):
        if (node / f"cpu{cpu}").exists():
            return int(node.name.removeprefix("node"))
    return 0


def _processor() -> str:
    with suppress(OSError):
        match = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
        if match:
            return match[1].strip()
    return platform.processor() or platform.machine() or "CPU"
