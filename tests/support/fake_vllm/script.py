"""What the fake is told: its script, and the command line."""

import dataclasses
import json
import os
import re
from pathlib import Path

SHORT = {
    "-tp": "tensor-parallel-size",
    "-pp": "pipeline-parallel-size",
    "-q": "quantization",
}


@dataclasses.dataclass
class Script:
    """Everything that can be scripted; sizes are per device."""

    mode: str | list[str] = ""
    die_at: str = ""
    how: str = "oom"
    text: str = "ValueError: scripted"
    unless: list[str] = dataclasses.field(default_factory=list)  # arguments that prevent all that
    only_with: list[str] = dataclasses.field(default_factory=list)  # arguments that all that needs
    # The card and the model.
    device: str = "cpu"
    total_gib: float | None = None
    budget_gib: float | None = None  # instead of utilization x total
    context: int = 32768
    weights_gib: float = 0.5
    other_gib: float = 0.25
    activation_gib: float = 0.1
    graph_gib: float = 0.1
    # GiB of each device of a pipeline, where they differ, and the layers that are dealt to them.
    stages_gib: list[float] = dataclasses.field(default_factory=list)
    layers: int = 0
    beyond_gib: float | None = None  # taken beside its share; NVML's stand-in counts both then
    kv_bytes_per_token: int = 32768
    vocab_size: int = 152064
    image_tokens: int = 256
    # With a limit: so many tokens of images or videos are more than the profiling run has room for.
    video_tokens: int = 0
    media_limit: int | None = None
    version: str = "0.32.0"
    # Speed, and seconds to spend in a phase.
    prefill_tokens_per_second: float = 2e6
    decode_tokens_per_second: float = 5000
    delay: dict[str, float] = dataclasses.field(default_factory=dict)
    lifetime: int = 300  # seconds after which every process ends itself
    linger: float = 0.0  # seconds the API server takes to end after its engine failed
    # What the modes need.
    after: int = 1
    long_tokens: int | None = None
    seconds: float = 0.5
    limit: int = 2
    every: int = 3
    flood_mib: int = 32
    rename: dict[str, str] = dataclasses.field(
        default_factory=lambda: {"vllm:kv_cache_usage_perc": "vllm:gpu_cache_usage_perc"}
    )

    def is_on(self, mode: str) -> bool:
        return mode in (self.mode.split() if isinstance(self.mode, str) else self.mode)


def read_script(argv: list[str]) -> Script:
    text = os.environ.get("FAKE_VLLM", "{}")
    if not text.lstrip().startswith("{"):
        text = Path(text).read_text(encoding="utf-8")
    script = Script(**json.loads(text))
    if any(word in argv for word in script.unless) or not all(
        word in argv for word in script.only_with
    ):
        script.mode = script.die_at = ""
        script.delay = {}
    return script


def parse(argv: list[str]) -> dict[str, list[str]]:
    """Return every flag with its values; a positional model counts as `--model`."""
    args: dict[str, list[str]] = {}
    name = "model"
    for word in argv[1:] if argv[:1] == ["serve"] else argv:
        if re.match(r"--?[A-Za-z]", word):
            flag, equals, value = word.partition("=")
            name = SHORT.get(flag, flag.lstrip("-").replace("_", "-"))
            args[name] = [value] if equals else []
        else:
            args.setdefault(name, []).append(word)
    return args


def number(text: str) -> int:
    """Read `20M` and `8k` as vLLM does."""
    suffix = text[-1]
    if suffix.isdigit():
        return int(text)
    power = "KMGT".index(suffix.upper()) + 1
    return int(float(text[:-1]) * (1024 if suffix.isupper() else 1000) ** power)
