"""What a healthy vLLM says on its way up: phases, and the numbers it prints.

Strings are from vLLM's sources, 0.6.6 to 0.33; each is checked against a real log where one exists.
"""

import re
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import Any

from ..outcome import Phase, Readings


@dataclass(frozen=True, slots=True)
class Milestone:
    """One telling line of a good start.

    `needle` is in every such line; groups of `pattern` are named like the fields of `Readings`.
    `phase` is what begins with this line.
    """

    needle: str
    pattern: re.Pattern[str]
    phase: Phase | None

    @property
    def of_a_tail(self) -> bool:
        """Whether it tells the phase only where the log does not have the start."""
        return self.needle in (ANSWERED, THROUGHPUT)


ANSWERED = 'HTTP/1.1" 200'
THROUGHPUT = "Avg prompt throughput"
_GIB = r"-?[\d.]+"
# fmt: off
_ROWS: tuple[tuple[str, str, Phase | None], ...] = (
    # the API server reads its arguments
    ("version ", r"(?:█|API server) +version v?(?P<version>\d+\.\d+\S*)", "config"),
    ("non-default args", r"'gpu_memory_utilization': (?P<utilization>[\d.]+)", None),
    ("non-default args", "", "config"),
    ("Automatically detected platform", "", "config"),
    ("Resolved architecture", "", "config"),
    ("Defaulting to use ", r"Defaulting to use \w+ for distributed inference", "config"),
    ("max model len ", r"Using max model len (?P<max_model_len>\d+)", "config"),
    # the engine begins
    ("Initializing a",
     r"Initializing an? (?:V[01] )?LLM engine \(v(?P<version>\d+\.\d+[^)\s]*)\)", "load"),
    ("V2 Model Runner", r"Using (?P<model_runner>V2) Model Runner", "load"),
    ("V1 model runner instead", r"using the (?P<model_runner>V1) model runner instead", None),
    ("Starting to load model", "", "load"),
    ("Loading model from scratch", "", "load"),
    ("Loading weights took", r"Loading weights took (?P<load_seconds>[\d.]+) s", "load"),
    ("CPU offloaded parameters", rf"CPU offloaded parameters: (?P<offloaded_bytes>{_GIB})", "load"),
    ("odel loading took",
     rf"Model loading took (?P<weights_bytes>{_GIB}) Gi?B(?: memory)?"
     r"(?: and (?P<load_seconds>[\d.]+) seconds)?", "profile"),
    ("model weights took",
     rf"Loading model weights took (?:in total )?(?P<weights_bytes>{_GIB} Gi?B)", "profile"),
    # it runs one batch of the largest size
    ("Encoder cache will be ",
     r"budget of (?P<media_tokens>[\d,]+) tokens,? and profiled with (?P<media_items>\d+) "
     r"(?P<modality>\w+) items", None),
    ("Warming up model for the compilation", "", "profile"),
    ("torch.compile t", r"torch\.compile (?:takes|took) (?P<compile_seconds>[\d.]+) s", "profile"),
    ("CUDA graph memory", rf"Estimated CUDA graph memory: (?P<graph_bytes>{_GIB}) GiB", "profile"),
    # the KV cache
    ("KV cache memory: ", rf"Available KV cache memory: (?P<kv_bytes>{_GIB}) GiB", "kv_cache"),
    ("GiB for KV cache",
     rf"(?:Explicitly|Auto) set \((?P<kv_bytes>{_GIB})/(?P<total_bytes>{_GIB})\) GiB for KV cache"
     rf"(?:.*?with (?P<requested_bytes>{_GIB}) GiB requested)?", "kv_cache"),
    ("KVCACHE_SPACE not set", rf"not set\. Using (?P<kv_bytes>{_GIB}) GiB for KV cache", None),
    ("memory for KV Cache as",
     rf"reserved (?P<kv_bytes>{_GIB}) GiB memory for KV Cache", "kv_cache"),
    ("reserved for KV Cache is",
     rf"memory reserved for KV Cache is (?P<kv_bytes>{_GIB}) ?GiB", "kv_cache"),
    ("model weights take ", rf"model weights take (?P<weights_bytes>{_GIB}) ?GiB", "profile"),
    ("Auto-fit max_model_len: ",
     r"Auto-fit max_model_len: (?:reduced from \d+ to |full model context length )"
     rf"(?P<max_model_len>\d+)(?:.*?\((?P<kv_bytes>{_GIB}) GiB)?", "kv_cache"),
    ("KV cache size: ", r"KV cache size: (?P<kv_tokens>[\d,]+) tokens", "graphs"),
    ("Maximum concurrency for",
     r"Maximum concurrency for (?P<max_model_len>[\d,]+) tokens per request: "
     r"(?P<concurrency>[\d.]+)x", "graphs"),
    # graphs and warm-up
    ("Capturing CUDA graph", "", "graphs"),
    ("Capturing cudagraphs for", "", "graphs"),
    ("Graph capturing finished",
     r"Graph capturing finished in (?P<graph_seconds>[\d.]+) secs, took "
     rf"(?P<graph_bytes>{_GIB}) GiB", "warmup"),
    ("graph pool memory",
     rf"CUDA graph pool memory: (?P<graph_bytes>{_GIB}) GiB \(actual\)", "warmup"),
    ("Desired GPU memory utilization",
     rf"Free memory on device \((?P<free_bytes>{_GIB})/(?P<total_bytes>{_GIB}) GiB\) on startup\. "
     rf"Desired GPU memory utilization is \((?P<utilization>[\d.]+), (?P<requested_bytes>{_GIB}) "
     rf"GiB\)\. Actual usage is (?:(?P<weights_bytes>{_GIB}) GiB for weight|{_GIB} GiB for "
     rf"consumed memory[^,]*), (?P<activation_bytes>{_GIB}) GiB for peak activation, "
     rf"(?:(?P<non_torch_bytes>{_GIB}) GiB for non-torch memory, )?and "
     rf"(?P<graph_bytes>{_GIB}) GiB for CUDAGraph memory", "warmup"),
    ("init engine (",
     r"init engine \([^)]*\) took (?P<init_seconds>[\d.]+) s"
     r"(?:econds)?(?: \(compilation: (?P<compile_seconds>[\d.]+) s)?", "warmup"),
    # it serves
    ("Application startup complete", "", "serving"),
    ("Uvicorn running on", "", "serving"),
    (THROUGHPUT, r"Avg prompt throughput: [\d.]+", "serving"),
    (ANSWERED, r'"(?:GET|POST) /(?!metrics)[^"\s]* HTTP/1\.1" 200', "serving"),
)
# fmt: on

MILESTONES: tuple[Milestone, ...] = tuple(
    Milestone(needle, re.compile(pattern or re.escape(needle)), phase)
    for needle, pattern, phase in _ROWS
)

_UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "GB": 2**30}
_UNITS |= {"K": 2**10, "M": 2**20, "G": 2**30}
_FIELDS = {f.name for f in fields(Readings)}
_FLOATS = {"utilization", "concurrency"}


def to_bytes(text: str) -> int:
    """Read `298.00 MiB` or `1.75`; without a unit it is GiB, which is how vLLM prints memory."""
    unit = text.lstrip("-.0123456789")
    number = text.removesuffix(unit)
    return round(float(number) * _UNITS[unit.strip() or "GiB"])


def readings_of(match: re.Match[str]) -> Readings:
    """Return the numbers in a match, typed by the names of its groups."""
    found: dict[str, Any] = {}
    for name, text in match.groupdict().items():
        if text is not None and name in _FIELDS:
            with suppress(ValueError):  # cut in the middle, or two lines run together: `1.2.3`
                found[name] = _typed(name, text)
    return Readings(**found)


def _typed(name: str, text: str) -> str | int | float:
    if name in ("version", "modality"):
        return text
    if name == "model_runner":
        return text.lower()
    if name.endswith("_bytes"):
        return to_bytes(text)
    if name.endswith("_seconds") or name in _FLOATS:
        return float(text)
    return int(float(text.replace(",", "")))
