"""Well-known NVIDIA GPUs, to plan for one that is not in this machine."""

import difflib
import re
from contextlib import suppress
from dataclasses import dataclass, replace

from ..errors import BadUsage
from ..units import GIB
from .device import Device


@dataclass(frozen=True, slots=True)
class Card:
    """One kind of GPU: its size as NVIDIA names it, and the GiB that CUDA programs see of it.

    A `unified` one shares them with the host.
    """

    name: str
    size: str
    gib: float
    capability: tuple[int, int]
    unified: bool = False

    def __str__(self) -> str:
        sizes = sum(card.name == self.name for card in CARDS)
        return f"{self.name} {self.size}" if sizes > 1 else self.name


# The GiB are torch's total, of which vLLM's utilization is a share: "GPU 0 has a total capacity
# of ..." in reports on GitHub, the lowest found. Newer drivers leave up to 0.1 GiB less than older
# ones. Capabilities: https://developer.nvidia.com/cuda-gpus.
CARDS = (
    Card("V100", "16GB", 15.77, (7, 0)),  # meta-llama/llama#918
    Card("V100", "32GB", 31.74, (7, 0)),  # liucongg/ChatGLM-Finetuning#73
    Card("T4", "16GB", 14.56, (7, 5)),  # Zheng-Chong/CatVTON#133
    Card("RTX 2080 Ti", "11GB", 10.57, (7, 5)),  # vllm-project/vllm#19445
    Card("A100", "40GB", 39.50, (8, 0)),  # TianheWu/CoSeR#10
    Card("A100", "80GB", 79.15, (8, 0)),  # vllm-project/vllm#4408
    Card("A30", "24GB", 23.53, (8, 0)),  # google/RB-Modulation#5
    Card("A10", "24GB", 22.18, (8, 6)),  # OpenBMB/MiniCPM-V#640
    Card("A10G", "24GB", 21.96, (8, 6)),  # the least of a 24 GB card with ECC: rhymes-ai/Aria#24
    Card("A40", "48GB", 44.43, (8, 6)),  # 46,068 MiB in nvidia-smi, as the L40S
    Card("RTX A2000", "12GB", 11.53, (8, 6)),  # vllm-project/vllm#12030
    Card("RTX A4000", "16GB", 15.61, (8, 6)),  # DengKaiCQ/VGGT-Long#6
    Card("RTX A5000", "24GB", 23.52, (8, 6)),  # as the RTX 4090
    Card("RTX A6000", "48GB", 47.4, (8, 6)),  # no report found: 48 less 0.6
    Card("RTX 3060", "12GB", 11.53, (8, 6)),  # as the RTX A2000
    Card("RTX 3090", "24GB", 23.52, (8, 6)),  # as the RTX 4090; 23.69 in OpenBMB/MiniCPM-V#612
    Card("RTX 4060", "8GB", 7.62, (8, 9)),  # 7.75 in ESRSchao/EdgeRegNet#2, less 0.1
    Card("RTX 4060 Ti", "16GB", 15.48, (8, 9)),  # as the RTX 5080
    Card("RTX 4080", "16GB", 15.48, (8, 9)),  # as the RTX 5080
    Card("RTX 4090", "24GB", 23.52, (8, 9)),  # Soul-AILab/SoulX-FlashTalk#5
    Card("L4", "24GB", 22.05, (8, 9)),  # pytorch/pytorch#175666
    Card("L40S", "48GB", 44.43, (8, 9)),  # 46,068 MiB, modal-labs/modal-client#2797
    Card("RTX 6000 Ada", "48GB", 44.43, (8, 9)),  # with ECC: DINGYANB/MTVCrafter#21
    Card("H100", "80GB", 79.11, (9, 0)),  # vllm-project/vllm#27508
    Card("H100 NVL", "94GB", 93.0, (9, 0)),  # ali-vilab/VACE#56
    Card("H200", "141GB", 139.8, (9, 0)),  # our own logs of vLLM 0.26
    Card("B200", "180GB", 178.35, (10, 0)),  # pytorch/ao#4002
    Card("RTX 5080", "16GB", 15.48, (12, 0)),  # vllm-project/vllm#14452
    Card("RTX 5090", "32GB", 31.37, (12, 0)),  # Wan-Video/Wan2.1#465
    Card("RTX PRO 6000", "96GB", 94.9, (12, 0)),  # no report found: 97,887 MiB less 0.7 GiB
    # Shared with the host, so what is free there is the host's matter.
    # vllm-project/vllm#46329, AlexsJones/llmfit#872
    Card("GB10 Spark", "128GB", 121.6, (12, 1), unified=True),
)

# Words that people use for a card and that tell it from no other.
NOISE = re.compile(
    r"nvidia|geforce|tesla|quadro|rtx|gpu|graphics|card|generation|blackwell|workstation|server"
    r"|edition|pcie|sxm\d?|hbm\d?e?|dgx"
)
SIZE = re.compile(r"(\d+)g(?:i?b)?")
# How far the memory of one kind of card differs by driver and by ECC.
SIZE_TOLERANCE = 0.05


def find_card(name: str) -> Card:
    """Return the card that `4090` or `NVIDIA A100-SXM4-80GB` means, or raise BadUsage."""
    asked = _words(name)
    found = [card for card in CARDS if asked and asked <= _words(f"{card.name} {card.size}")]
    # `4060` means the RTX 4060 and not the 4060 Ti: fewest words of the card's name are missing.
    missing = {card: len(_words(card.name) - asked) for card in found}
    nearest = [card for card in found if missing[card] == min(missing.values())]
    if len(nearest) == 1:
        return nearest[0]
    describe = "or describe the GPU: --memory-limit 24GiB --capability 8.9"
    if nearest:
        choices = " or ".join(f"`{card}`" for card in nearest)
        raise BadUsage(f"--device {name} could be {choices}", f"name one of them, {describe}")
    names = {card.name.lower(): str(card) for card in CARDS}
    plain = name.lower().replace("nvidia", "").strip()
    close = difflib.get_close_matches(plain, names, n=3, cutoff=0.5)
    known = ", ".join(names[near] for near in close) or ", ".join(map(str, CARDS))
    raise BadUsage(f"--device {name}: unknown GPU", f"known GPUs: {known}; {describe}")


def known_card(device: Device) -> Card | None:
    """Return the card that a GPU is by its name and its memory, None for another or a slice."""
    with suppress(BadUsage):
        card = find_card(device.name)
        size = card.gib * GIB
        if device.kind == "cuda" and abs(device.memory_bytes - size) <= SIZE_TOLERANCE * size:
            return card
    return None


def kind_slug(device: Device) -> str:
    """Return the kind of a GPU as a folder name, the same whether the GPU is here or imagined.

    It is told by the card's usual name and size, not by what a driver says: `nvidia-a100-79g`.
    """
    card = known_card(device)
    if card is None:
        return device.slug
    return replace(device, name=f"nvidia {card.name}", memory_bytes=int(card.gib * GIB)).slug


def hypothetical_devices(
    device: str | None, memory_bytes: int | None, capability: tuple[int, int] | None
) -> list[Device]:
    """Return idle GPUs as named (`2 x A100 80GB + L40S`), or one of this size and capability.

    Raises BadUsage for an unknown card, and for a contradiction.
    """
    if device is not None and "+" in device:
        kinds = [hypothetical_devices(each, None, capability) for each in device.split("+")]
        return [
            replace(each, index=index, uuid=f"imagined-{index}")
            for index, each in enumerate(each for kind in kinds for each in kind)
        ]
    unified = False
    if device is not None:
        match = re.fullmatch(r"\s*(\d+)\s*[x*]\s*(.+)", device)
        count, name = (int(match[1]), match[2]) if match else (1, device)
        card = find_card(name)
        if not 1 <= count <= 64:
            example = "for example --device '2 x A100 80GB'"
            raise BadUsage(f"--device {device}: the GPU count must be 1 to 64", example)
        if capability not in (None, card.capability):
            has = "{} has {}.{}".format(card, *card.capability)
            raise BadUsage(f"--capability contradicts --device: {has}", "drop one of them")
        name, size, capability = str(card), int(card.gib * GIB), card.capability
        unified = card.unified
    elif memory_bytes is not None:
        count, name, size = 1, "an unnamed GPU", memory_bytes
    else:
        hint = "add --memory-limit 24GiB, or name the GPU: --device 'RTX 4090'"
        raise BadUsage("--capability describes a GPU, but its memory is missing", hint)
    return [
        Device(
            kind="cuda",
            index=index,
            name=name,
            uuid=f"imagined-{index}",
            memory_bytes=size,
            free_bytes=size,
            capability=capability,
            unified=unified,
            imagined=True,
        )
        for index in range(count)
    ]


def _words(name: str) -> frozenset[str]:
    """Return the words that tell a card from others, a size (`80g`) among them."""
    text = re.sub(r"(rtx|gtx)(?=[a-z]?\d)", r"\1 ", name.lower())
    text = re.sub(r"(\d{3,})(ti|super|nvl)\b", r"\1 \2", text)
    text = re.sub(r"(\d+)\s+(g(?:i?b)?)\b", r"\1\2", text)
    words = [word for word in re.split(r"[^a-z0-9]+", text) if word and not NOISE.fullmatch(word)]
    return frozenset(f"{size[1]}g" if (size := SIZE.fullmatch(word)) else word for word in words)
