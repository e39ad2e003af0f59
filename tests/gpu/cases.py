"""What autotune is asked on real NVIDIA GPUs, and what must come of it; `run.py` runs it.

Limits and ballast rehearse smaller cards on GPUs of 141 GB. A case that is passed over is none
that passed: `run.py` says which, and why.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

# What happens meanwhile, when the line `at` of autotune's own output is seen.
Event = Literal[
    "",
    "tenant arrives",
    "autotune is killed",
    "API server is killed",
    "engine is killed",
    "a twin runs on the second GPU",
]
EAGER = ("--enforce-eager",)
QUANTIZED = ("quantized-checkpoint", "fp8-weights", "4bit-weights")
MANY_GPUS = ("tensor-parallel", "pipeline-parallel")


def skip(*rungs: str) -> tuple[str, ...]:
    """Return the options that leave rungs out."""
    return tuple(word for rung in rungs for word in ("--skip", rung))


@dataclass(frozen=True, kw_only=True)
class Case:
    """One tuning, and what must be true of its report.

    The model has the `shape` of a real one with `changes` to its config.json, and no weights
    unless `weights` names how they are stored; with `sibling`, a quantized checkpoint lies next
    to it. `rungs` are those the winner must have, `one_of` those of which it must have one,
    `spared` those it must do without, `launches` the most it may take, `env` what it is started
    with. `first` is the kind of outcome the first launch must have, in one of `phases`. `skipped`
    maps rungs to words of the reason they are passed over for. A tenant holds `tenant_gib` of the
    first GPU from the start, or, negative, all but that. `own` is a request that is sent as well.
    The GPUs are `named` to autotune, or only visible. Its report must list `alternatives`, some
    `proven`, and so many busy GPUs that are `left_alone`.
    """

    name: str
    asks: str
    shape: str = "qwen2.5-7b"
    changes: Mapping[str, Any] = field(default_factory=dict)
    weights: str = ""
    sibling: str = ""
    options: tuple[str, ...] = ()
    fixed: tuple[str, ...] = EAGER
    env: Mapping[str, str] = field(default_factory=dict)
    gpus: int = 1
    seconds: int = 200
    tenant_gib: float = 0
    event: Event = ""
    at: str = ""
    checked: bool = True
    stable: bool | None = True
    rungs: tuple[str, ...] = ()
    one_of: tuple[str, ...] = ()
    spared: tuple[str, ...] = ()
    launches: int = 2
    first: tuple[str, ...] = ()
    phases: tuple[str, ...] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)
    whole_context: bool = False
    own: Mapping[str, Any] = field(default_factory=dict)
    named: bool = True
    alternatives: tuple[str, ...] = ()
    proven: tuple[str, ...] = ()
    left_alone: int = 0

    def faults(self, report: Mapping[str, Any]) -> list[str]:
        """Return what of a report (its JSON) is not as it must be."""
        winner, trials = report["winner"] or {}, report["trials"]
        rungs, found = set(winner.get("rungs", ())), []
        if self.stable is not None and bool(winner) != self.stable:
            found.append(f"it ended as {report['status']}: {report['reason']}")
        if winner and not set(self.rungs) <= rungs:
            found.append(f"rungs {sorted(rungs)}, wanted {list(self.rungs)}")
        if winner and self.one_of and not rungs & set(self.one_of):
            found.append(f"rungs {sorted(rungs)}, wanted one of {list(self.one_of)}")
        if needless := sorted(rungs & set(self.spared)):
            found.append(f"rungs {needless} were not needed")
        if report["launches"] > self.launches:
            found.append(f"{report['launches']} launches, {self.launches} are enough")
        if winner and self.whole_context:
            context = report["workload"]["context"] or report["model"]["context"]
            if winner["max_model_len"] != context:
                found.append(f"{winner['max_model_len']} of {context} tokens")
        listed = {other["name"]: other for other in report.get("alternatives", ())}
        if lacking := set(self.alternatives) - listed.keys():
            found.append(f"no alternative {sorted(lacking)}, there are {sorted(listed)}")
        found += [
            f"{name} is not proven"
            for name in self.proven
            if not listed.get(name, {}).get("proven")
        ]
        if len(report.get("busy", ())) != self.left_alone:
            found.append(f"{len(report.get('busy', ()))} busy GPUs, not {self.left_alone}")
        if self.first and trials:
            outcome = trials[0]["outcome"]
            phase = outcome.get("phase")
            if outcome["kind"] not in self.first or (self.phases and phase not in self.phases):
                found.append(f"launch 1: {outcome['kind']} in {phase}: {outcome.get('reason')}")
        if self.first and not trials:
            found.append("nothing was launched")
        reasons = {skipped["rung"]: skipped["reason"] for skipped in report["skipped"]}
        found += [
            f"{rung} is passed over for `{reasons.get(rung)}`, not `{words}`"
            for rung, words in self.skipped.items()
            if words not in reasons.get(rung, "")
        ]
        return found


def card(gib: float) -> tuple[str, str]:
    """Return the option that rehearses a card of this size."""
    return ("--memory-limit", f"{gib}GiB")


SMALL = (*card(11), "--context", "8192")
# Real weights must speak, so every token must be one of the small tokenizer's.
SPEAKS = {"vocab_size": 2048}
# To go on beside another program on the same GPU.
BUSY = ("--allow-busy",)
# Four times what 8 GiB hold of them.
MANY_LONG_ANSWERS = {
    "prompt": [300 + n for n in range(64)],
    "n": 256,
    "max_tokens": 1500,
    "ignore_eos": True,
}
NGRAM = '{"method": "ngram", "num_speculative_tokens": 5, "prompt_lookup_max": 4}'
WHOLE_72B = ("--context", "32768")

# The most important first. What needs more GPUs is started first (see run.py).
CASES = (
    # Sizes of one card, the model as it is or with less context.
    Case(name="7b-as-it-is", asks="7B", launches=1, whole_context=True),
    Case(
        name="7b-80GiB",
        asks="7B on 80 GiB",
        options=card(80),
        launches=1,
        whole_context=True,
    ),
    Case(
        name="7b-16GiB",
        asks="7B on 16 GiB",
        options=card(16),
        one_of=("shorter-context", "fewer-sequences", "smaller-batches"),
    ),
    Case(
        name="7b-16.4GiB-shorter-context",
        asks="7B on 16.4 GiB",
        options=card(16.4),
        one_of=("shorter-context", "fewer-sequences", "smaller-batches"),
    ),
    Case(
        name="7b-16.4GiB-full-context",
        asks="7B on 16.4 GiB, 32,768 tokens",
        options=(*card(16.4), "--context", "32768"),
        one_of=("fewer-sequences", "smaller-batches", "kv-cache-8bit"),
        whole_context=True,
    ),
    Case(
        name="7b-18GiB-4-at-once",
        asks="7B on 18 GiB, four at full length at once",
        options=(*card(18), "--concurrency", "4"),
        rungs=("shorter-context",),
    ),
    Case(
        name="7b-11GiB-fp8",
        asks="7B on 11 GiB, 8,192 tokens",
        options=SMALL,
        rungs=("fp8-weights",),
        launches=1,
    ),
    Case(
        name="7b-11GiB-bitsandbytes",
        asks="7B on 11 GiB, online fp8 left out; real weights",
        changes=SPEAKS,
        weights="bf16",
        options=(*SMALL, *skip("quantized-checkpoint", "fp8-weights", "cpu-offload")),
        rungs=("4bit-weights",),
        seconds=260,
    ),
    Case(
        name="7b-11GiB-awq",
        asks="7B on 11 GiB, an AWQ checkpoint beside it",
        changes=SPEAKS,
        weights="hollow",
        sibling="awq",
        options=SMALL,
        rungs=("quantized-checkpoint",),
    ),
    Case(
        name="7b-11GiB-gptq",
        asks="7B on 11 GiB, a GPTQ checkpoint beside it",
        changes=SPEAKS,
        weights="hollow",
        sibling="gptq",
        options=SMALL,
        rungs=("quantized-checkpoint",),
    ),
    Case(
        name="7b-11GiB-compressed-tensors",
        asks="7B on 11 GiB, a W4A16 checkpoint beside it",
        changes=SPEAKS,
        weights="hollow",
        sibling="w4a16",
        options=SMALL,
        rungs=("quantized-checkpoint",),
    ),
    Case(
        name="7b-11GiB-offload",
        asks="7B on 11 GiB, no quantization",
        options=(*SMALL, *skip(*QUANTIZED)),
        rungs=("cpu-offload",),
        seconds=300,
    ),
    Case(
        name="7b-16.4GiB-8bit-kv",
        asks="7B on 16.4 GiB, 32,768 tokens, no smaller batches",
        options=(*card(16.4), "--context", "32768", *skip("smaller-batches")),
        rungs=("kv-cache-8bit",),
        whole_context=True,
    ),
    Case(
        name="72b-fp8",
        asks="72B on one GPU, 32,768 tokens",
        shape="qwen2.5-72b",
        options=WHOLE_72B,
        rungs=("fp8-weights",),
        seconds=300,
    ),
    # Others on the same GPU.
    Case(
        name="7b-tenant-60GiB",
        asks="7B, another program holds 60 GiB",
        options=BUSY,
        tenant_gib=60,
        rungs=("utilization",),
        launches=1,
        whole_context=True,
    ),
    Case(
        name="7b-tenant-mid-start",
        asks="7B, another program takes 60 GiB while it starts",
        options=BUSY,
        tenant_gib=60,
        event="tenant arrives",
        at="launch 1",
        first=("environment",),
        rungs=("utilization",),
        seconds=260,
    ),
    Case(
        name="7b-tenant-mid-probe",
        asks="7B, another program takes the rest of the card while it is probed",
        options=BUSY,
        tenant_gib=-0.25,
        event="tenant arrives",
        at="probe: ",
        first=("out_of_memory",),
        phases=("serving",),
        rungs=("utilization",),
        launches=3,
        seconds=300,
    ),
    Case(
        name="7b-utilization-0.99-fixed",
        asks="7B, --gpu-memory-utilization 0.99 fixed",
        fixed=("--gpu-memory-utilization", "0.99"),
        options=skip("no-graphs"),
        stable=None,
        first=("out_of_memory",),
        phases=("graphs", "warmup"),
        skipped={"utilization": "--gpu-memory-utilization"},
        launches=4,
        seconds=400,
    ),
    # Not what vLLM may take is small here, but what there is.
    Case(
        name="7b-24GiB-left",
        asks="7B, another program leaves 24 GiB",
        options=BUSY,
        tenant_gib=-24,
        rungs=("utilization",),
        whole_context=True,
    ),
    Case(
        name="7b-16GiB-left",
        asks="7B, another program leaves 16 GiB",
        options=BUSY,
        tenant_gib=-16,
        rungs=("utilization",),
    ),
    Case(
        name="7b-11GiB-left",
        asks="7B, another program leaves 11 GiB; 8,192 tokens",
        options=(*BUSY, "--context", "8192"),
        tenant_gib=-11,
        rungs=("fp8-weights",),
    ),
    # Model Runner V2 takes the logits of 1,024 tokens at once, V1 those of a whole batch.
    Case(
        name="7b-prompt-logprobs",
        asks="7B with 40 GiB left free, prompt_logprobs of the whole context",
        options=(*BUSY, "--probe-logprobs"),
        env={"VLLM_USE_V2_MODEL_RUNNER": "0"},
        tenant_gib=-40,
        launches=1,
        whole_context=True,
    ),
    Case(
        name="7b-prompt-logprobs-v2",
        asks="7B with 24 GiB left free, prompt_logprobs with Model Runner V2",
        options=(*BUSY, "--probe-logprobs"),
        env={"VLLM_USE_V2_MODEL_RUNNER": "1"},
        tenant_gib=-24,
        launches=1,
        whole_context=True,
    ),
    Case(
        name="7b-prompt-logprobs-fixed",
        asks="7B with 40 GiB left free, of which the user fixed all but 5; prompt_logprobs",
        fixed=(*EAGER, "--gpu-memory-utilization", "0.25"),
        options=(*BUSY, "--probe-logprobs", *skip("fewer-sequences")),
        env={"VLLM_USE_V2_MODEL_RUNNER": "0"},
        tenant_gib=-40,
        first=("out_of_memory",),
        phases=("serving",),
        rungs=("smaller-batches",),
        whole_context=True,
        seconds=300,
    ),
    # Requests that push each other out of the KV cache.
    Case(
        name="1.5b-many-answers",
        asks="1.5B on 8 GiB, 256 answers of 1,500 tokens at once: a preemption for two of them",
        shape="qwen2.5-1.5b",
        options=card(8),
        own=MANY_LONG_ANSWERS,
        spared=("swap", "full-sequences-only"),
        launches=1,
        seconds=300,
    ),
    Case(
        name="1.5b-storm-of-swaps",
        asks="the same with --kv-offloading-size fixed, which has them give way 50 times each",
        shape="qwen2.5-1.5b",
        options=card(8),
        fixed=(*EAGER, "--kv-offloading-size", "5"),
        own=MANY_LONG_ANSWERS,
        first=("degraded",),
        phases=("serving",),
        rungs=("full-sequences-only",),
        seconds=400,
    ),
    # Ends by violence.
    Case(
        name="7b-kill-autotune",
        asks="7B, SIGKILL of autotune while probing",
        options=card(24),
        event="autotune is killed",
        at="probe: ",
        stable=None,
        checked=False,
    ),
    Case(
        name="7b-kill-api-server",
        asks="7B, SIGKILL of the API server while probing",
        options=card(24),
        event="API server is killed",
        at="probe: ",
        stable=None,
        first=("crashed", "degraded", "hung", "environment"),
        checked=False,
    ),
    Case(
        name="7b-kill-engine",
        asks="7B, SIGKILL of EngineCore while probing",
        options=card(24),
        event="engine is killed",
        at="probe: ",
        stable=None,
        first=("crashed", "degraded", "hung", "environment"),
        checked=False,
    ),
    # Shapes of other kinds, as they are.
    Case(name="moe", asks="Qwen3-30B-A3B", shape="qwen3-30b-a3b", launches=1),
    Case(name="mla", asks="DeepSeek-V2-Lite", shape="deepseek-v2-lite", launches=1),
    Case(name="sliding-window", asks="Mistral-7B-v0.1", shape="mistral-7b-v0.1", launches=1),
    Case(name="sliding-and-full", asks="Gemma-2-9B", shape="gemma-2-9b", launches=1),
    Case(
        name="hybrid",
        asks="Jamba-Mini (state space and attention), 16,384 tokens",
        shape="jamba-mini",
        options=("--context", "16384"),
        seconds=300,
    ),
    Case(
        name="7b-48GiB",
        asks="7B on 48 GiB",
        options=card(48),
        launches=1,
        whole_context=True,
    ),
    Case(name="7b-24GiB", asks="7B on 24 GiB", options=card(24), whole_context=True),
    Case(name="7b-22GiB", asks="7B on 22 GiB", options=card(22)),
    Case(name="7b-compiled", asks="7B, compiled", fixed=(), launches=1, seconds=260),
    # What is beside the weights of a common model: drafts, a large vocabulary, images, states.
    Case(
        name="7b-ngram-20GiB",
        asks="7B on 20 GiB, five tokens of an n-gram drafted at once",
        options=card(20),
        fixed=(*EAGER, "--speculative-config", NGRAM),
        launches=1,
        whole_context=True,
    ),
    Case(
        name="gpt-oss-20b-16GiB",
        asks="gpt-oss-20b on 16 GiB",
        shape="gpt-oss-20b",
        options=card(16),
        one_of=("shorter-context",),
        spared=("kv-cache-8bit", "fewer-sequences", "smaller-batches", "no-graphs"),
        launches=1,
        seconds=300,
    ),
    Case(
        name="qwen2-vl-7b-24GiB-image",
        asks="Qwen2-VL-7B on 24 GiB, an answer about an image",
        shape="qwen2-vl-7b",
        options=(*card(24), "--probe-image"),
        launches=1,
        whole_context=True,
    ),
    Case(
        name="hybrid-39.8GiB-graphs",
        asks="12 layers of Qwen3-Next, with graphs, on 39.8 GiB: not every sequence has a state",
        shape="qwen3-next-80b",
        changes={"num_hidden_layers": 12},
        options=(*card(39.8), "--context", "8192"),
        fixed=(),
        rungs=("fewer-sequences",),
        seconds=500,
    ),
    Case(
        name="hybrid-39.8GiB-eager",
        asks="the same without graphs, and without FlashInfer: every sequence is there",
        shape="qwen3-next-80b",
        changes={"num_hidden_layers": 12},
        options=(*card(39.8), "--context", "8192"),
        fixed=(*EAGER, "--gdn-prefill-backend", "triton"),
        spared=("fewer-sequences",),
        launches=1,
        seconds=300,
    ),
    # Several GPUs.
    Case(
        name="mla-tp2-24GiB",
        asks="DeepSeek-V2-Lite on 2 x 24 GiB, tensor parallel",
        shape="deepseek-v2-lite",
        options=card(24),
        fixed=(*EAGER, "--tensor-parallel-size", "2"),
        launches=1,
        whole_context=True,
        gpus=2,
    ),
    Case(
        name="72b-tp2",
        asks="72B on two, no quantization",
        shape="qwen2.5-72b",
        options=(*WHOLE_72B, *skip(*QUANTIZED, "cpu-offload")),
        rungs=("tensor-parallel",),
        gpus=2,
        seconds=300,
    ),
    Case(
        name="72b-2x48GiB",
        asks="72B on 2 x 48 GiB",
        shape="qwen2.5-72b",
        options=(*card(48), *WHOLE_72B, *skip("cpu-offload", "4bit-weights")),
        rungs=("fp8-weights", "tensor-parallel"),
        gpus=2,
        seconds=300,
    ),
    Case(
        name="7b-27-heads-2x11GiB",
        asks="7B with 27 heads on 2 x 11 GiB, no quantization",
        changes={"hidden_size": 3456, "num_attention_heads": 27, "num_key_value_heads": 3},
        options=(*SMALL, *skip(*QUANTIZED, "cpu-offload")),
        rungs=("pipeline-parallel",),
        skipped={"tensor-parallel": "divides 27"},
        gpus=2,
        seconds=260,
    ),
    Case(
        name="144b-tp4",
        asks="72B with twice the layers on four, neither quantization nor offload",
        shape="qwen2.5-72b",
        changes={"num_hidden_layers": 160, "max_window_layers": 160},
        options=(*WHOLE_72B, *skip(*QUANTIZED, "cpu-offload")),
        rungs=("tensor-parallel",),
        gpus=4,
        seconds=400,
    ),
    Case(
        name="72b-4x48GiB",
        asks="72B on 4 x 48 GiB, neither quantization nor offload",
        shape="qwen2.5-72b",
        options=(*card(48), *WHOLE_72B, *skip(*QUANTIZED, "cpu-offload")),
        one_of=MANY_GPUS,
        gpus=4,
        seconds=300,
    ),
    Case(
        name="7b-28-heads-3x10GiB",
        asks="7B with 28 heads on 3 x 10 GiB, no quantization",
        options=(*card(10), "--context", "8192", *skip(*QUANTIZED, "cpu-offload")),
        one_of=MANY_GPUS,
        gpus=3,
        seconds=260,
    ),
    Case(
        name="72b-two-default",
        asks="72B in bfloat16, two idle GPUs, the default ladder",
        shape="qwen2.5-72b",
        alternatives=("longest-context", "all-gpus"),
        gpus=2,
        seconds=400,
    ),
    Case(
        name="72b-two-all-gpus",
        asks="72B in bfloat16, two idle GPUs, spread first",
        shape="qwen2.5-72b",
        options=("--ladder", "all-gpus"),
        rungs=("tensor-parallel",),
        launches=1,
        whole_context=True,
        gpus=2,
        seconds=300,
    ),
    Case(
        name="72b-two-also",
        asks="72B in bfloat16, two idle GPUs, and both of them proven as well",
        shape="qwen2.5-72b",
        options=("--also", "all-gpus"),
        proven=("all-gpus",),
        launches=3,
        gpus=2,
        seconds=500,
    ),
    Case(
        name="72b-two-one-taken",
        asks="72B, another program holds 60 GiB of one of two GPUs",
        shape="qwen2.5-72b",
        tenant_gib=60,
        named=False,
        left_alone=1,
        checked=False,
        gpus=2,
        seconds=400,
    ),
    Case(
        name="7b-two-as-it-is",
        asks="7B, two idle GPUs",
        launches=1,
        whole_context=True,
        alternatives=("most-sequences", "all-gpus", "replicas"),
        gpus=2,
    ),
    Case(
        name="7b-two-replicas",
        asks="7B, two idle GPUs, and a copy on each proven as well",
        options=("--also", "replicas"),
        proven=("replicas",),
        gpus=2,
        seconds=300,
    ),
    Case(
        name="7b-two-uneven-stages",
        asks="7B as a pipeline of 20 and 8 layers",
        fixed=(*EAGER, "--pipeline-parallel-size", "2"),
        env={"VLLM_PP_LAYER_PARTITION": "20,8"},
        launches=1,
        whole_context=True,
        gpus=2,
        seconds=260,
    ),
    Case(
        name="7b-twins",
        asks="two tunings on two GPUs at once",
        options=card(24),
        event="a twin runs on the second GPU",
        gpus=2,
        whole_context=True,
    ),
    Case(
        name="72b-pp2",
        asks="72B on two, neither quantization nor tensor parallel",
        shape="qwen2.5-72b",
        options=(*WHOLE_72B, *skip(*QUANTIZED, "cpu-offload", "tensor-parallel")),
        rungs=("pipeline-parallel",),
        gpus=2,
        seconds=300,
    ),
)
BY_NAME: Mapping[str, Case] = {case.name: case for case in CASES}

# What fits ten minutes on one GPU, one after another.
QUICK = ("7b-16GiB", "7b-11GiB-fp8", "7b-11GiB-awq", "7b-24GiB-left", "7b-kill-engine")
