"""The configuration to deploy, from the trial that proved it."""

from ..machine.device import differ
from ..outcome import Certificate
from ..report.report import Memory, ValidFor, Winner
from ..search.auto_length import deployed
from ..search.facts import Facts
from ..search.trial import Trial


def winner_of(facts: Facts, trial: Trial, certificate: Certificate) -> Winner:
    """Return the winner; a context length that vLLM chose is deployed as a number."""
    readings = trial.readings
    candidate = deployed(facts, trial.candidate, readings)
    config = candidate.config
    served = readings.max_model_len if config == trial.config else None
    used = facts.used(config)
    reserved, more = trial.predicted.reserved_bytes, 0
    shares = [facts.reserved_by(d, config) if differ(used) else reserved for d in used]
    if used[0].kind == "cuda" and trial.free_bytes and certificate.least_free_bytes is not None:
        # What is taken beside its share, of the one that it leaves least of.
        left = min(free - share for free, share in zip(trial.free_bytes, shares, strict=False))
        more = max(0, left - certificate.least_free_bytes)
    return Winner(
        argv=tuple(facts.engine.argv(config)),
        model=config.model,
        args=dict(config.args),
        env=dict(config.env),
        rungs=tuple(applied.name for applied in candidate.rungs),
        gives_up=tuple(applied.gives_up for applied in candidate.rungs if applied.gives_up),
        max_model_len=served or facts.length(config),
        max_num_seqs=facts.setup(config).sequences,
        kv_cache_tokens=readings.kv_tokens,
        memory=Memory(
            reserved=reserved,
            weights=readings.weights_bytes,
            kv_cache=readings.kv_bytes,
            activations=readings.activation_bytes,
            graphs=readings.graph_bytes,
            least_free=certificate.least_free_bytes,
        ),
        certificate=certificate,
        startup_seconds=trial.startup_seconds or 0.0,
        valid_for=ValidFor(
            device=used[0].name,
            count=len(used),
            memory_bytes=used[0].memory_bytes,
            needed_bytes=reserved + more,
            budget_bytes=min(facts.budget(d) for d in used),
            headroom_bytes=facts.headroom_bytes,
            needed_each=tuple(share + more for share in shares) if differ(used) else (),
        ),
        left_out=facts.left_out,
    )
