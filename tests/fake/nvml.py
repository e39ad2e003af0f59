"""A stand-in for NVIDIA's library: one card, whose free memory the test sets."""

from types import ModuleType, SimpleNamespace

from vllm_autotune.device import Device

TOTAL = 24 * 2**30


class FakeNvml(ModuleType):
    """Put it into sys.modules as `pynvml`; `free` is what is free on the card, in bytes."""

    class NVMLError(Exception):
        pass

    def __init__(self) -> None:
        super().__init__("pynvml")
        self.free = TOTAL

    def nvmlInit(self) -> None:  # noqa: N802
        """Do nothing."""

    def nvmlShutdown(self) -> None:  # noqa: N802
        """Do nothing."""

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        return uuid

    def nvmlDeviceGetMemoryInfo(self, _: str) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(total=TOTAL, free=self.free)


CARD = Device(
    kind="cuda",
    index=0,
    name="NVIDIA L4",
    uuid="GPU-0",
    memory_bytes=TOTAL,
    free_bytes=TOTAL,
    capability=(8, 9),
    driver="570",
)
