"""A trial bench: the facts of a run whose engine is the fake, and servers of it."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.fake_vllm import COMMAND, environment
from tests.support.pace import LATEST
from vllm_autotune.launch.launch import run_trial
from vllm_autotune.launch.limits import Limits
from vllm_autotune.launch.progress import Progress
from vllm_autotune.memory.calibration import Calibration
from vllm_autotune.probe.listing import is_healthy
from vllm_autotune.probe.target import Patience, Target
from vllm_autotune.search.facts import Facts
from vllm_autotune.search.prediction import predict
from vllm_autotune.search.trial import Candidate, Trial
from vllm_autotune.server.server import Server, free_port
from vllm_autotune.vllm.config import LaunchConfig, Value

CONTEXT = 2048
SEQUENCES = 16
BATCH = 512
# 8 sequences of KV cache beside the weights and the rest.
BUDGET_GIB = 1.25
ARGS: Mapping[str, Value] = {
    "enforce-eager": True,
    "max-model-len": CONTEXT,
    "max-num-seqs": SEQUENCES,
}
# A machine that stands still for so long makes a good server look hung.
PATIENCE = Patience(step_factor=3, min_seconds=5, first_seconds=5, poll_seconds=0.1)


@dataclass(frozen=True)
class Bench:
    """Where fakes are tried out: `facts` are those of a run."""

    facts: Facts
    folder: Path

    def trial(
        self,
        script: dict[str, object],
        args: Mapping[str, Value] = ARGS,
        *,
        show: Callable[[Progress], None] = lambda _: None,
        **limits: Any,
    ) -> Trial:
        """Launch the fake as one candidate and return what became of it."""
        config = LaunchConfig(self.facts.model, args, environment(script))
        predicted = predict(self.facts, Calibration(), config)
        candidate = Candidate(config=config, rungs=(), predicted=predicted)
        limits = {"launch_seconds": LATEST, "patience": PATIENCE, **limits}
        log = self.folder / "trial-01.log"
        return run_trial(self.facts, candidate, 1, log, Limits(**limits), show)

    @contextmanager
    def serving(self, *words: str, **script: object) -> Iterator[Target]:
        """Start a fake with further words, wait until it is healthy, and stop it in the end."""
        port = free_port()
        config = LaunchConfig(self.facts.model, ARGS, {})
        argv = [*COMMAND, "--model", config.model, *config.flags(), "--port", str(port)]
        argv += ["--served-model-name", "tried", *words]
        name = f"{os.getpid()}-{port}"
        script = {"budget_gib": BUDGET_GIB, **script}
        with Server(argv, environment(script), self.folder / "server.log", name) as server:
            url, log = f"http://127.0.0.1:{port}", ""
            deadline = time.monotonic() + LATEST
            while "Application startup complete" not in log or not is_healthy(url):
                log += server.new_text()
                assert server.exit_code is None, log
                assert time.monotonic() < deadline
                time.sleep(0.02)
            yield Target(
                url=url,
                model="tried",
                max_model_len=CONTEXT,
                max_num_seqs=SEQUENCES,
                vocab_size=self.facts.checkpoint.vocab_size,
                kv_tokens=8 * CONTEXT,
                max_num_batched_tokens=BATCH,
            )
