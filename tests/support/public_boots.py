"""Boots that others measured and published, and what the arithmetic makes of them.

    python -m tests.support.public_boots          the table, and how wide its intervals are

`public/boots.json` holds what each printed, with its source. `public/models.json.xz` holds the
configurations of their models and lists of their tensors by name pattern, dtype and shape, worked
out from what is published: small tensors may be missing.
"""

import itertools
import json
import lzma
import math
import re
import struct
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

from tests.support.paths import ROOT
from vllm_autotune.checkpoint import Checkpoint, read_checkpoint
from vllm_autotune.machine.device import Device
from vllm_autotune.memory import Footprint, Interval, Setup, estimate
from vllm_autotune.units import GIB
from vllm_autotune.vllm.config import LaunchConfig, parse_arguments

PUBLIC = ROOT / "tests" / "support" / "public"
ITEM_BYTES = {"F32": 4, "BF16": 2, "F16": 2, "F8_E4M3": 1, "U8": 1, "I8": 1, "I32": 4, "I64": 8}
# GiB that CUDA (or HIP) programs see, and the compute capability; None on AMD.
CARDS: Mapping[str, tuple[float, tuple[int, int] | None]] = {
    "H200": (139.8, (9, 0)),
    "H100 80GB": (79.11, (9, 0)),
    "H100 NVL": (93.0, (9, 0)),
    "A100 80GB": (79.25, (8, 0)),  # 79.15 with some drivers
    "A10G": (21.96, (8, 6)),
    "B200": (178.35, (10, 0)),
    "GB10": (121.6, (12, 1)),
    "MI300X": (191.98, None),  # AMD
    "RTX 3090": (23.52, (8, 6)),
    "RTX 5090": (31.37, (12, 0)),
    "T4": (14.56, (7, 5)),
}
# Why a measured number lies outside its interval, by the number of the boot. AMD's are apart.
LISTED = "what stays in 16 bits is a guess in the list of its tensors"
SIZED = "its sizes are a guess in the list of its tensors"
TOWERLESS = "its tower is missing in the list of its tensors"
REASONS: Mapping[tuple[int, str], str] = {
    (36, "weights"): f"{LISTED}: with 16 bits in its linear attention it would be inside",
    (37, "weights"): LISTED,
    (37, "available"): LISTED,
    (38, "weights"): LISTED,
    (39, "weights"): LISTED,
    (39, "available"): LISTED,
    (24, "weights"): "its configuration here does not say what stays in 16 bits",
    (24, "available"): "its configuration here does not say what stays in 16 bits",
    (45, "sequence"): "the blocks are those of the fullest GPU, the bytes another one's",
    (66, "weights"): "the list has more in 16 bits than the checkpoint's own configuration",
    (78, "weights"): SIZED,
    (79, "available"): "a GB10 shares its memory with the host",
    (81, "available"): "vLLM 0.10; estimates begin with 0.11",
    (87, "available"): "engine V0",
    (88, "available"): "engine V0",
    (92, "weights"): SIZED,
    (104, "weights"): TOWERLESS,
    (105, "weights"): TOWERLESS,
}
AMD = "AMD: neither the padding of its kernels nor what its driver takes is modelled"
# Why an interval of weights is wider than it should be.
WIDE: Mapping[int, str] = {
    **dict.fromkeys((80, 81, 82, 102), "which kernel pads the experts of GPT-OSS, and how far"),
    95: "4 bits made while loading: scales differ from version to version",
    103: "8 bits made while loading: whether its plain MLPs shrink, too",
    105: "no description of its tower, so without headers anything is possible",
}
WIDEST = {True: 0.04, False: 0.08}  # with headers, and from config.json alone
# What is assumed where a boot does not name its vLLM.
UNNAMED = (0, 11, 0)
ROUNDING = 0.0051 * GIB  # two decimals are printed


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicBoot:
    """One published start, in bytes of one device; None where nothing was printed.

    `sequence` is what one sequence of `length` tokens took, as far as two decimals tell.
    """

    number: int
    model: str
    folder: str | None
    gpu: str | None
    vllm: tuple[int, ...]
    args: Mapping[str, Any]
    weights: Interval | None
    available: Interval | None
    length: int
    sequence: Interval | None

    @property
    def amd(self) -> bool:
        return self.gpu == "MI300X" or "AMD" in (self.gpu or "")

    @property
    def named(self) -> str:
        release = ".".join(map(str, self.vllm))
        return f"{self.number} {self.folder or self.model} on {self.gpu or 'a card'}, {release}"

    def setup(self, checkpoint: Checkpoint) -> Setup:
        size, capability = CARDS.get(self.gpu or "", (79.1, (9, 0)))
        total = int(size * GIB)
        device = Device(
            kind="cuda",
            index=0,
            name=self.gpu or "a card",
            uuid="GPU-0",
            memory_bytes=total,
            free_bytes=total,
            capability=capability,
        )
        return Setup(checkpoint, LaunchConfig("m", dict(self.args)), device, self.vllm)

    def reserved(self) -> float:
        """Return the bytes vLLM could use of each device."""
        default = 0.92 if self.vllm >= (0, 20) else 0.9
        share = float(self.args.get("gpu-memory-utilization", default))
        assert self.gpu
        return CARDS[self.gpu][0] * GIB * share


def public_boots() -> list[PublicBoot]:
    rows = json.loads((PUBLIC / "boots.json").read_text())
    return [_boot(number, row) for number, row in enumerate(rows)]


def _boot(number: int, row: Mapping[str, Any]) -> PublicBoot:
    release = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", row["vllm"] or "")
    vllm = tuple(int(part or 0) for part in release.groups()) if release else UNNAMED
    available = _printed(row["kv_available_gib"])
    length, times = row["concurrency_at"] or (0, None)
    sequence = None
    if available and times:
        sequence = Interval(available.low / (times + 0.005), available.high / (times - 0.005))
    return PublicBoot(
        number=number,
        model=row["model"],
        folder=row["folder"],
        gpu=row["gpu"],
        vllm=vllm,
        args=parse_arguments(row["flags"]),
        weights=_printed(row["weights_gib"]),
        available=available,
        length=length,
        sequence=sequence,
    )


def _printed(gib: float | None) -> Interval | None:
    return None if gib is None else Interval(gib * GIB - ROUNDING, gib * GIB + ROUNDING)


@cache
def described() -> Mapping[str, Any]:
    """Return every model's files, and rows of its tensors: pattern, dtype, shape, ranges."""
    return dict(json.loads(lzma.decompress((PUBLIC / "models.json.xz").read_bytes())))


def write_model(name: str, folder: Path, *, weights: bool = True) -> Path:
    """Write a model's configuration, and a safetensors file with a true header and no data."""
    folder.mkdir(parents=True, exist_ok=True)
    model = described()[name]
    for file, content in model["files"].items():
        (folder / file).write_text(json.dumps(content))
    if weights:
        head, data = _header(model["tensors"])
        with (folder / "model.safetensors").open("wb") as out:
            out.write(struct.pack("<Q", len(head)) + head)
            out.truncate(8 + len(head) + data)
    return folder


def _header(rows: Sequence[Any]) -> tuple[bytes, int]:
    """Return a safetensors header, and the bytes of the data it describes."""
    entries, end = [], 0
    for pattern, dtype, shape, ranges in rows:
        size = ITEM_BYTES[dtype] * math.prod(shape)
        rest = json.dumps({"dtype": dtype, "shape": shape})[:-1]
        for values in itertools.product(*map(_numbers, ranges.values())):
            name = pattern.format(**dict(zip(ranges, values, strict=True)))
            entries.append(f'"{name}":{rest},"data_offsets":[{end},{end + size}]}}')
            end += size
    text = f"{{{','.join(entries)}}}".encode()
    return text + b" " * (-len(text) % 8), end


def _numbers(ranges: str) -> Iterator[int]:
    """Yield the numbers in `0-3,7`."""
    for part in ranges.split(","):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)


@dataclass(frozen=True, slots=True)
class Row:
    """One quantity of one boot: what was predicted, and what was measured."""

    boot: PublicBoot
    quantity: str
    predicted: Interval
    measured: Interval

    @property
    def inside(self) -> bool:
        """Whether the measured number, as far as it was printed, may lie within the interval."""
        return self.predicted.low <= self.measured.high and self.measured.low <= self.predicted.high

    @property
    def reason(self) -> str:
        """Why it may lie outside, empty where it may not."""
        return AMD if self.boot.amd else REASONS.get((self.boot.number, self.quantity), "")

    @property
    def width(self) -> float:
        """The width of the predicted interval over what was measured."""
        return (self.predicted.high - self.predicted.low) / self.measured.middle


def compare(boot: PublicBoot, checkpoint: Checkpoint) -> Iterator[Row]:
    """Yield what can be compared of one boot."""
    expected: Footprint = estimate(boot.setup(checkpoint))
    if boot.weights:
        yield Row(boot, "weights", expected.weights, boot.weights)
    if boot.sequence:
        yield Row(boot, "sequence", expected.kv_bytes(boot.length), boot.sequence)
    if boot.available and boot.gpu in CARDS:
        yield Row(boot, "available", expected.kv_available(boot.reserved()), boot.available)


def table(*, weights: bool = True) -> Iterator[Row]:
    """Yield every row, of models with their weights or from config.json alone."""
    boots = [boot for boot in public_boots() if boot.folder]
    with tempfile.TemporaryDirectory() as folder:
        for name in sorted({str(boot.folder) for boot in boots}):
            path = write_model(name, Path(folder) / name, weights=weights)
            checkpoint = read_checkpoint(str(path), weights_required=weights)
            for boot in boots:
                if boot.folder == name:
                    yield from compare(boot, checkpoint)


def main() -> None:
    """Print both tables, with reasons, and how wide the intervals of weights are."""
    for weights in (True, False):
        print("\nwith headers" if weights else "\nfrom config.json alone")
        widths = []
        for row in table(weights=weights):
            low, high = row.predicted.low / GIB, row.predicted.high / GIB
            note = "" if row.inside else row.reason or "NO REASON"
            print(
                f"{row.boot.named:56} {row.quantity:9} {low:8.2f} to {high:8.2f} GiB,"
                f" measured {row.measured.middle / GIB:8.2f}  {note}"
            )
            if row.quantity == "weights" and row.boot.number not in WIDE:
                widths.append(row.width)
        print(f"weights: median width {median(widths):.1%}, largest {max(widths):.1%}")


if __name__ == "__main__":
    main()
