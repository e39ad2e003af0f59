"""Who runs, who waits, what was counted."""

import contextlib
import threading
from collections.abc import Iterator

from .card import Card
from .script import Script


class EngineDead(Exception):
    pass


class Scheduler:
    """Who runs, who waits, what was counted."""

    def __init__(self, script: Script, card: Card, max_model_len: int, kv_tokens: int) -> None:
        self.script = script
        self.max_model_len = max_model_len
        self.kv_tokens = kv_tokens
        self.swaps = "kv-offloading-size" in card.args and not script.is_on("no_swapping")
        self.max_num_seqs = card.integer("max-num-seqs", 128)
        self.changed = threading.Condition()
        self.dead = threading.Event()
        self.used = self.running = self.waiting = self.requests = self.lookups = 0
        if script.is_on("occupied"):
            self.used = kv_tokens * 13 // 16
        self.reset_counters()

    def reset_counters(self) -> None:
        self.prompt_tokens = self.generation_tokens = self.preemptions = self.successes = 0
        self.swapped_out = self.swapped_in = self.swap_ins = 0

    @contextlib.contextmanager
    def admitted(self, tokens: int) -> Iterator[None]:
        """Hold a request's place and its share of the cache."""
        tokens = min(tokens, self.kv_tokens)
        with self.changed:
            self.waiting += 1
            try:
                while self.used + tokens > self.kv_tokens or self.running >= self.max_num_seqs:
                    self.changed.wait(0.05)
                    if self.dead.is_set():
                        raise EngineDead
            finally:
                self.waiting -= 1
            self.used += tokens
            self.running += 1
        try:
            yield
        finally:
            with self.changed:
                self.used -= tokens
                self.running -= 1
                self.changed.notify_all()

    def pause(self, seconds: float | None) -> None:
        """Spend time as the engine would, or for ever; raise if it dies meanwhile."""
        if self.dead.wait(seconds):
            raise EngineDead

    def tokens(self, prompt: int, wanted: int) -> Iterator[str]:
        """Yield the tokens of one request as they come."""
        script = self.script
        full = prompt + wanted >= self.max_model_len
        if script.is_on("hang_full_length") and full:
            with self.changed:
                self.waiting += 1
            self.pause(None)
        with self.admitted(prompt + wanted):
            if script.is_on("hang"):
                self.pause(None)
            while script.is_on("spin"):
                self.pause(0.02)
                self.preemptions += 1
            self.pause(prompt / script.prefill_tokens_per_second)
            self.count(prompt, 0)
            for _ in range(wanted):
                self.pause(self.seconds_per_token(wanted))
                self.count(0, 1)
                yield " tok"
        self.successes += 1

    def seconds_per_token(self, wanted: int) -> float:
        if self.script.is_on("slow"):
            return self.script.seconds / wanted
        if self.script.is_on("spill") and self.requests > self.script.after:
            return self.script.seconds
        factor = self.running**3 if self.script.is_on("collapse") else 1
        return factor / self.script.decode_tokens_per_second

    def count(self, prompt: int, generated: int) -> None:
        if not self.script.is_on("metrics_frozen"):
            with self.changed:
                self.prompt_tokens += prompt
                self.swapped_out += self.swaps * prompt * self.script.kv_bytes_per_token
                self.generation_tokens += generated

    def preempt(self, times: int, tokens: int) -> None:
        """Push a request out again and again; with room in host memory nothing is lost."""
        with self.changed:
            self.preemptions += times
            if self.swaps:
                self.swap_ins += times
                self.swapped_in += times * tokens * self.script.kv_bytes_per_token

    def metrics(self, model: str, utilization: float, block: int) -> str:
        label = f'{{engine="0",model_name="{model}"}}'
        config = (
            f'{{block_size="{block}",cache_dtype="auto",enable_prefix_caching="True",engine="0",'
            f'gpu_memory_utilization="{utilization}",'
            f'kv_cache_max_concurrency="{self.kv_tokens / self.max_model_len}",'
            f'kv_cache_size_tokens="{self.kv_tokens}",num_gpu_blocks="{self.kv_tokens // block}"}}'
        )
        self.lookups += self.waiting  # who waits is looked up at every step
        rows: list[tuple[str, str, str, float]] = [
            ("vllm:prefix_cache_queries_total", "counter", label, self.lookups),
            ("vllm:num_requests_running", "gauge", label, self.running),
            ("vllm:num_requests_waiting", "gauge", label, self.waiting),
            ("vllm:kv_cache_usage_perc", "gauge", label, self.used / max(self.kv_tokens, 1)),
            ("vllm:num_preemptions_total", "counter", label, self.preemptions),
            ("vllm:prompt_tokens_total", "counter", label, self.prompt_tokens),
            ("vllm:generation_tokens_total", "counter", label, self.generation_tokens),
            ("vllm:cache_config_info", "gauge", config, 1),
        ]
        if self.swaps:
            rows += [
                ("vllm:kv_offload_store_bytes_total", "counter", label, self.swapped_out),
                ("vllm:kv_offload_load_bytes_total", "counter", label, self.swapped_in),
            ]
        lines = [
            f"# HELP {name} As vLLM.\n# TYPE {name} {kind}\n{name}{labels} {float(value)}\n"
            for name, kind, labels, value in rows
        ]
        finished = f'{{engine="0",finished_reason="length",model_name="{model}"}}'
        lines.append(
            "# HELP vllm:request_success_total As vLLM.\n# TYPE vllm:request_success_total counter"
            f"\nvllm:request_success_total{finished} {float(self.successes)}\n"
        )
        if self.swaps:
            size, largest = "vllm:kv_offload_load_size", label.replace("{", '{le="+Inf",')
            lines.append(
                f"# HELP {size} As vLLM.\n# TYPE {size} histogram\n"
                f"{size}_bucket{largest} {float(self.swap_ins)}\n"
                f"{size}_count{label} {float(self.swap_ins)}\n"
                f"{size}_sum{label} {float(self.swapped_in)}\n"
            )
        text = "".join(lines)
        if self.script.is_on("metrics_renamed"):
            for old, new in self.script.rename.items():
                text = text.replace(old, new)
        return text
