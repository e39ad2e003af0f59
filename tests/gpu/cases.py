"""Cases for real NVIDIA GPUs: what autotune is asked, and what must come of it.

    python tests/gpu/cases.py OUT [CASE ...]

runs each as a user would, with shapes of real models and dummy weights, and leaves every
report below OUT. The limits rehearse smaller cards on one GPU of at least 80 GiB.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))

from tiny_model import tokenizer, tokenizer_config, write_json  # type: ignore  # noqa

QUANTIZED = ("fp8-weights", "4bit-weights")


@dataclass(frozen=True)
class Case:
    """One tuning: `rungs` are those the winner must have, `launches` the most it may take.

    `tenant_gib` is what another program holds meanwhile.
    """

    name: str
    shape: str
    options: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ("--enforce-eager",)
    rungs: tuple[str, ...] = ()
    launches: int = 2
    gpus: int = 1
    seconds: int = 240
    tenant_gib: int = 0


def skip(*rungs: str) -> tuple[str, ...]:
    """Return the options that leave rungs out."""
    return tuple(word for rung in rungs for word in ("--skip", rung))


CASES = (
    Case("7b-as-it-is", "qwen2.5-7b", launches=1),
    Case("7b-compiled", "qwen2.5-7b", fixed=(), launches=1),
    Case(
        "7b-16.8GiB-shorter-context",
        "qwen2.5-7b",
        ("--memory-limit", "16.8GiB"),
        rungs=("utilization", "shorter-context"),
    ),
    Case(
        "7b-16.8GiB-full-context",
        "qwen2.5-7b",
        ("--memory-limit", "16.8GiB", "--context", "32768"),
        rungs=("utilization", "smaller-batches"),
    ),
    Case(
        "7b-16.8GiB-8bit-kv",
        "qwen2.5-7b",
        ("--memory-limit", "16.8GiB", "--context", "32768", *skip("smaller-batches")),
        rungs=("utilization", "kv-cache-8bit"),
    ),
    Case(
        "7b-11GiB-fp8",
        "qwen2.5-7b",
        ("--memory-limit", "11GiB", "--context", "8192"),
        rungs=("utilization", "fp8-weights"),
    ),
    Case(
        "7b-11GiB-offload",
        "qwen2.5-7b",
        ("--memory-limit", "11GiB", "--context", "8192", *skip(*QUANTIZED)),
        rungs=("utilization", "cpu-offload"),
    ),
    Case("7b-tenant-60GiB", "qwen2.5-7b", rungs=("utilization",), launches=1, tenant_gib=60),
    Case(
        "7b-utilization-0.99-fixed",
        "qwen2.5-7b",
        fixed=("--gpu-memory-utilization", "0.99"),
        rungs=("fewer-sequences",),
    ),
    Case("72b-fp8", "qwen2.5-72b", ("--context", "32768"), rungs=("fp8-weights",)),
    Case(
        "72b-tp2",
        "qwen2.5-72b",
        ("--context", "32768", *skip(*QUANTIZED, "cpu-offload")),
        rungs=("tensor-parallel",),
        gpus=2,
    ),
    Case(
        "72b-2x48GiB",
        "qwen2.5-72b",
        ("--memory-limit", "48GiB", "--context", "32768", *skip("cpu-offload", "4bit-weights")),
        rungs=("utilization", "fp8-weights", "tensor-parallel"),
        gpus=2,
    ),
    Case(
        "72b-pp2",
        "qwen2.5-72b",
        ("--context", "32768", *skip(*QUANTIZED, "cpu-offload", "tensor-parallel")),
        rungs=("pipeline-parallel",),
        gpus=2,
    ),
)


def make_shape(folder: Path, shape: str) -> Path:
    """Write a real model's config.json with a small tokenizer, and no weights."""
    config = json.loads((TESTS / "unit" / "shapes" / f"{shape}.json").read_text())
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", config)
    write_json(folder / "tokenizer.json", tokenizer(2048))
    context = int(config["max_position_embeddings"])
    write_json(folder / "tokenizer_config.json", tokenizer_config(context))
    return folder


HOLD = """
import sys, torch
held = torch.empty(int(sys.argv[1]) << 30, dtype=torch.uint8, device="cuda")
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def tenant(gib: int) -> Iterator[None]:
    """Hold memory of the first GPU in another process."""
    if not gib:
        yield
        return
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(gib)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin
        assert process.stdout
        process.stdout.readline()
        try:
            yield
        finally:
            process.stdin.close()


def run(case: Case, out: Path) -> dict[str, object]:
    """Run a case; return a row of the table, with `ok` telling whether all was as it must be."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(case.gpus)))
    model = make_shape(out / "models" / case.shape, case.shape)
    argv = [
        *(sys.executable, "-c", "from vllm_autotune.cli import main; main()"),
        *("tune", "--model", str(model), "--json", "--gpus", visible),
        *("--results-dir", str(out / "results" / case.name), "--cache-dir", str(out / "cache")),
        *case.options,
        *("--", "--load-format", "dummy", *case.fixed),
    ]
    began = time.monotonic()
    log = out / f"{case.name}.txt"
    with log.open("w") as talk, tenant(case.tenant_gib):
        try:
            done = subprocess.run(
                argv, stdout=subprocess.PIPE, stderr=talk, timeout=case.seconds, check=False
            )
        except subprocess.TimeoutExpired:
            return {"case": case.name, "ok": False, "why": f"over {case.seconds} s"}
    row: dict[str, object] = {
        "case": case.name,
        "exit": done.returncode,
        "seconds": round(time.monotonic() - began),
    }
    try:
        report = json.loads(done.stdout)
    except ValueError:
        return {**row, "ok": False, "why": log.read_text()[-2000:]}
    winner = report["winner"] or {}
    rungs = tuple(winner.get("rungs", ()))
    return {
        **row,
        "ok": bool(winner)
        and set(case.rungs) <= set(rungs)
        and report["launches"] <= case.launches,
        "launches": report["launches"],
        "rungs": ", ".join(rungs),
        "context": winner.get("max_model_len"),
        "kv_tokens": winner.get("kv_cache_tokens"),
        "reason": report["reason"],
        "outcomes": [trial["outcome"].get("reason", "stable") for trial in report["trials"]],
    }


def main(words: Sequence[str]) -> int:
    """Run the cases named, or all that the GPUs at hand allow."""
    out, names = Path(words[0]), words[1:]
    rows = []
    for case in CASES:
        if not names or case.name in names:
            rows.append(run(case, out))
            print(json.dumps(rows[-1]), flush=True)
    (out / "table.json").write_text(json.dumps(rows, indent=1))
    return 0 if all(row["ok"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
