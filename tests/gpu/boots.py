"""Boot many model shapes on one GPU and record what vLLM takes for each.

    python -m tests.gpu.boots OUT.json SECONDS

Each boot is a fork of one process that has imported vLLM, runs the engine inside itself with
dummy weights, serves many short and a few long prompts, and adds a row to OUT.json: bytes as
vLLM's worker counted them, and what the device held at the end beyond the share it was given.
Where `layers` is set the model was cut to so many: activations do not depend on their number.
"""

import json
import os
import re
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.support.paths import SHAPES

BOOT_SECONDS = 100
FEW = 4
# Larger than one H200, or of an architecture that needs a processor's files.
LEFT_OUT = {"deepseek-v3", "llama-4-scout", "qwen3-235b-a22b", "llava-1.5-7b", "qwen2-vl-7b"}
STEPS = ((2048, 256), (8192, 256), (8192, 64), (2048, 64), (512, 64), (2048, 1024))
STEPPED = ("qwen2.5-7b", "llama-3.1-8b", "qwen3-30b-a3b", "gemma-2-9b", "deepseek-v2-lite")
GRAPHED = ("qwen2.5-0.5b", "llama-3.2-1b", "qwen2.5-3b", "qwen2.5-7b", "qwen2.5-14b")
WHOLE = (
    *("qwen2.5-7b", "llama-3.1-8b", "gemma-2-9b", "mistral-7b-v0.1", "qwen3-8b", "phi-4"),
    *("falcon-7b", "starcoder2-7b", "olmoe-1b-7b", "deepseek-v2-lite", "gpt-oss-20b"),
    *("qwen1.5-moe-a2.7b", "granite-3.1-8b", "opt-6.7b", "glm-4-9b", "olmo-2-7b"),
)


@dataclass(frozen=True)
class Boot:
    """What to boot; `layers` None leaves the model whole."""

    shape: str
    tokens: int | None = None
    sequences: int | None = None
    layers: int | None = FEW
    eager: bool = True
    runner: str | None = None
    quantization: str | None = None


def boots() -> Iterator[Boot]:
    """Yield what is worth booting, the most telling first."""
    shapes = [p.stem for p in sorted(SHAPES.glob("*.json")) if p.stem not in LEFT_OUT]
    yield from (Boot(shape) for shape in shapes)
    for shape in STEPPED:
        yield from (Boot(shape, tokens, sequences) for tokens, sequences in STEPS)
    for shape in GRAPHED:
        yield Boot(shape, eager=False, layers=None)
    yield from (Boot(shape, layers=None) for shape in WHOLE)
    for shape in STEPPED[:4]:
        yield Boot(shape, quantization="fp8")
        yield Boot(shape, runner="0")
        yield Boot(shape, 8192, 64, runner="0")
        yield Boot(shape, 2048, 256, runner="0")
    for shape in GRAPHED[:4]:
        yield Boot(shape, eager=False, layers=None, runner="0")
        yield Boot(shape, 8192, 64, eager=False, layers=None)


def cut(shape: str, layers: int | None, folder: Path) -> Path:
    """Write the shape's config.json with so many layers."""
    config = json.loads((SHAPES / f"{shape}.json").read_text())
    if layers:
        for name in ("num_hidden_layers", "n_layer"):
            if name in config:
                config[name] = layers
        if "layer_types" in config:
            config["layer_types"] = config["layer_types"][:layers]
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def counted(worker: Any) -> dict[str, Any]:
    """Return what the worker of a running engine counted, in bytes."""
    import torch  # noqa: PLC0415

    free, total = torch.cuda.mem_get_info() if torch.cuda.is_available() else (0, 0)
    runner = worker.model_runner
    return {
        "weights": getattr(runner, "model_memory_usage", None),
        "activations": getattr(worker, "peak_activation_memory", None),
        "non_torch": getattr(worker, "non_torch_memory", None),
        "graphs_estimated": getattr(worker, "cudagraph_memory_estimate", None),
        "kv_cache": getattr(worker, "available_kv_cache_memory_bytes", None),
        "requested": int(getattr(worker, "requested_memory", 0)),
        "v2": bool(getattr(worker, "use_v2_model_runner", False)),
        "used": total - free,
    }


def boot(what: Boot, out: Path) -> None:
    """Boot, serve, and write the row."""
    if what.runner is not None:
        os.environ["VLLM_USE_V2_MODEL_RUNNER"] = what.runner
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    from vllm import LLM, SamplingParams  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as folder:
        model = cut(what.shape, what.layers, Path(folder))
        options: dict[str, Any] = {
            "max_num_batched_tokens": what.tokens,
            "max_num_seqs": what.sequences,
            "quantization": what.quantization,
        }
        # vLLM's defaults for its server, which are lower inside a process of one's own.
        defaults = {"max_num_batched_tokens": 8192, "max_num_seqs": 1024}
        context = json.loads((model / "config.json").read_text())
        length = min(4096, int(context.get("max_position_embeddings") or 2048))
        began = time.monotonic()
        llm = LLM(
            model=str(model),
            load_format="dummy",
            skip_tokenizer_init=True,
            max_model_len=length,
            gpu_memory_utilization=0.85,
            enforce_eager=what.eager,
            **defaults | {k: v for k, v in options.items() if v is not None},
        )
        ready = time.monotonic() - began
        row = {**asdict(what), "ready_seconds": round(ready, 1)}
        row |= llm.collective_rpc(counted)[0]
        out.write_text(json.dumps(row))  # whatever serving does to it
        answers = SamplingParams(max_tokens=4, ignore_eos=True, detokenize=False)
        many = what.sequences or 1024
        short = [{"prompt_token_ids": [n % 900 + 20, *range(30, 46)]} for n in range(many)]
        long = [{"prompt_token_ids": [n + 20] * (length - 8)} for n in range(6)]
        for name, prompts in (("short", short), ("long", long)):
            llm.generate(prompts, answers, use_tqdm=False)
            row[f"used_after_{name}"] = llm.collective_rpc(counted)[0]["used"]
            out.write_text(json.dumps(row))


def forked(what: Boot, out: Path, log: Path) -> dict[str, Any]:
    """Boot in a fork; return its row, or what it failed with."""
    out.unlink(missing_ok=True)
    sys.stdout.flush()
    pid = os.fork()
    if not pid:
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.setsid()
        try:
            boot(what, out)
        except BaseException:  # noqa: BLE001
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os.killpg(0, signal.SIGKILL)  # no engine outlives it
    deadline = time.monotonic() + BOOT_SECONDS
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        if time.monotonic() > deadline:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            break
        time.sleep(0.05)
    text = log.read_text(errors="replace")
    if not out.exists():
        return {**asdict(what), "failed": text.strip().splitlines()[-1:]}
    row: dict[str, Any] = json.loads(out.read_text())
    graphs = re.search(r"Graph capturing finished in .* took (-?[\d.]+) GiB", text)
    return row | ({"graphs_gib": float(graphs[1])} if graphs else {})


def main(table: Path, seconds: float) -> None:
    """Boot as many as fit into the time."""
    until = time.monotonic() + seconds
    import vllm  # noqa: PLC0415
    from vllm import LLM  # noqa: F401, PLC0415  before the forks, once for all

    rows: list[dict[str, Any]] = []
    for what in boots():
        if time.monotonic() > until:
            break
        began = time.monotonic()
        folder = table.parent
        rows.append(forked(what, folder / "row.json", folder / "boot.log"))
        print(f"{time.monotonic() - began:.1f} s {json.dumps(rows[-1])}", flush=True)
        table.write_text(json.dumps({"vllm": vllm.__version__, "boots": rows}, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
