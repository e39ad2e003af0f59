"""A stand-in for NVIDIA's library: H200s whose memory other programs take by writing a file.

FAKE_NVML is a folder; `<index>-<pid>` in it holds the bytes that a living process has on that GPU,
`count` how many GPUs there are, `unified` says that they have no memory but the host's, and `lost`
that they do not answer any more; `lost-<index>` says so of one. `links` holds pairs with NVLink
between them (`0-3 1-2`); all others are on one PCIe switch if `index // 4` is the same. `kinds` has
a line for each GPU that is none of these: its name, its GiB and its compute capability.
"""

import os
from pathlib import Path
from types import SimpleNamespace

NVML_DEVICE_MIG_ENABLE = 1
NVML_P2P_CAPS_INDEX_NVLINK = 2
NVML_P2P_STATUS_OK = 0
NVML_P2P_STATUS_NOT_SUPPORTED = 5
TOTAL = 150_754_820_096
IDLE = 650 * 2**20


class NVMLError(Exception):
    """What the library raises."""


class NVMLError_NotSupported(NVMLError):  # noqa: N801
    """What it raises for what a card does not have."""


def _folder() -> Path:
    return Path(os.environ["FAKE_NVML"])


def _kind(index: int) -> tuple[str, int, tuple[int, int]]:
    """Return the name, the bytes and the compute capability of a card."""
    kinds = _folder() / "kinds"
    if not kinds.exists():
        return "NVIDIA H200", TOTAL, (9, 0)
    name, gib, major, minor = kinds.read_text().splitlines()[index].rsplit(maxsplit=3)
    return name, int(float(gib) * 2**30), (int(major), int(minor))


def _taken(index: int) -> dict[int, int]:
    found = {}
    for file in _folder().glob(f"{index}-*"):
        pid = int(file.name.partition("-")[2])
        if Path(f"/proc/{pid}").exists():
            found[pid] = int(file.read_text() or 0)
    return found


def nvmlInit() -> None:  # noqa: N802
    if not _folder().is_dir():
        raise NVMLError("no driver")


def nvmlShutdown() -> None:  # noqa: N802
    pass


def nvmlSystemGetDriverVersion() -> str:  # noqa: N802
    return "580.159.04"


def nvmlDeviceGetCount() -> int:  # noqa: N802
    return int((_folder() / "count").read_text())


def nvmlDeviceGetHandleByIndex(index: int) -> int:  # noqa: N802
    if (_folder() / f"lost-{index}").exists():
        raise NVMLError("GPU is lost")
    return index


def nvmlDeviceGetHandleByUUID(uuid: str) -> int:  # noqa: N802
    return int(uuid.removeprefix("GPU-"))


def nvmlDeviceGetMemoryInfo(index: int) -> SimpleNamespace:  # noqa: N802
    if (_folder() / "lost").exists():
        raise NVMLError("GPU is lost")
    if (_folder() / "unified").exists():
        raise NVMLError_NotSupported("Not Supported")
    total, used = _kind(index)[1], IDLE + sum(_taken(index).values())
    return SimpleNamespace(total=total, used=used, free=total - used)


def nvmlDeviceGetComputeRunningProcesses(index: int) -> list[SimpleNamespace]:  # noqa: N802
    return [SimpleNamespace(pid=pid) for pid in _taken(index)]


def nvmlDeviceGetMigMode(index: int) -> tuple[int, int]:  # noqa: N802
    raise NVMLError_NotSupported("Not Supported")


def nvmlDeviceGetCudaComputeCapability(index: int) -> tuple[int, int]:  # noqa: N802
    return _kind(index)[2]


def nvmlDeviceGetName(index: int) -> str:  # noqa: N802
    return _kind(index)[0]


def nvmlDeviceGetUUID(index: int) -> str:  # noqa: N802
    return f"GPU-{index}"


def nvmlDeviceGetP2PStatus(one: int, other: int, index: int) -> int:  # noqa: N802
    links = _folder() / "links"
    if index != NVML_P2P_CAPS_INDEX_NVLINK or not links.exists():
        raise NVMLError_NotSupported("Not Supported")
    linked = f"{min(one, other)}-{max(one, other)}" in links.read_text().split()
    return NVML_P2P_STATUS_OK if linked else NVML_P2P_STATUS_NOT_SUPPORTED


def nvmlDeviceGetTopologyCommonAncestor(one: int, other: int) -> int:  # noqa: N802
    return 10 if one // 4 == other // 4 else 50
