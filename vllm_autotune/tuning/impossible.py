"""Arguments of the user that cannot work: with these devices, with this model."""

from ..errors import BadUsage
from ..search.facts import Facts
from ..search.fit import PIPELINE, TENSOR
from ..vllm.config import LaunchConfig
from ..vllm.flags import PARTITION


def refuse_impossible(facts: Facts) -> None:
    """Raise BadUsage for arguments of the user that cannot work on this machine."""
    _refuse_gpu_counts(facts)
    _refuse_partition(facts)
    # Two formats vLLM knows itself; without a parser it answers all others with HTTP 400
    # (renderers/online_renderer.py, 0.26 and 0.32).
    mistral = facts.fixed.get("tokenizer-mode") == "mistral"
    harmony = facts.checkpoint.model_type == "gpt_oss"
    calls_tools = mistral or harmony or "tool-call-parser" in facts.fixed
    if facts.workload.probe.tool and not calls_tools:
        hint = "add the model's parser: -- --enable-auto-tool-choice --tool-call-parser hermes"
        raise BadUsage("--probe-tool: vLLM must be told how this model writes tool calls", hint)


def _refuse_partition(facts: Facts) -> None:
    """Raise BadUsage for a variable that deals layers to other stages than there are."""
    text, config, layers = facts.env.get(PARTITION), facts.base(), facts.checkpoint.layers
    if text is None or (config.partition and sum(config.partition) == layers):
        return
    given = f"--{PIPELINE} {config.pipeline_parallel}"
    reason = f"{PARTITION}={text} does not deal {layers} layers to {given}"
    hint = f"unset it, or correct it and add -- --{PIPELINE} {text.count(',') + 1}"
    raise BadUsage(reason, hint)


def _refuse_gpu_counts(facts: Facts) -> None:
    """Raise BadUsage for numbers of GPUs that are not there, that contradict or do not divide."""
    fixed, count, least = facts.base(), len(facts.devices), facts.workload.min_gpus
    world, heads = fixed.world_size, facts.checkpoint.heads
    if facts.devices[0].kind == "cuda" and world > count:
        hint = "lower the parallel sizes after `--`, or select more GPUs"
        raise BadUsage(f"your arguments use {world} GPUs, found {count}", hint)
    if least > count:
        hint = "lower it, or select more GPUs (--gpus, CUDA_VISIBLE_DEVICES)"
        raise BadUsage("; ".join((f"--min-gpus {least}: found {count}", *facts.left_alone)), hint)
    solved = {rung.fit for rung in facts.ladder.rungs if rung.fit not in facts.fixed}
    if least > world and solved.isdisjoint((TENSOR, PIPELINE)):
        hint = "use another --ladder, or drop --skip and the parallel sizes after `--`"
        raise BadUsage(f"--min-gpus {least}: only {world} would be used", hint)
    named = {"after `--`": fixed.tensor_parallel} | {
        f"of rung `{rung.name}`": LaunchConfig("", rung.args).tensor_parallel
        for rung in facts.ladder.rungs
    }
    for where, size in named.items():
        if heads and heads % max(1, size):
            hint = "choose a size that divides them, or --pipeline-parallel-size"
            reason = f"does not divide the model's {heads} attention heads"
            raise BadUsage(f"--{TENSOR} {size} {where} {reason}", hint)
