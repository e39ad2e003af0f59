"""Which models vLLM serves by pooling (embedding, classifying, ranking), not by generating."""

from .config import LaunchConfig

# How an architecture's name ends that generates, and else one that pools
# (vllm/config/model.py, _SUFFIX_TO_DEFAULTS, 0.32).
GENERATORS = ("ForCausalLM", "ForConditionalGeneration", "ChatModel", "LMHeadModel")
CLASSIFIERS = ("ForSequenceClassification", "ForTokenClassification")
POOLERS = (*CLASSIFIERS, "ForTextEncoding", "ForRewardModeling", "Model")
# Values of `--task`, which later versions replaced by `--runner` and `--convert`.
GENERATING = ("auto", "generate", "generation", "transcription", "draft")


def pools(config: LaunchConfig, architecture: str, *, pooled: bool = False) -> bool:
    """Tell whether a server of this configuration pools.

    A checkpoint that is `pooled` does whatever its architecture (vLLM 0.26 and 0.32,
    config/model.py, `_get_default_runner_type`).
    """
    runner, task, convert = (config.text(flag) for flag in ("runner", "task", "convert"))
    if runner in ("pooling", "generate"):
        return runner == "pooling"
    if task and task != "auto":
        return task not in GENERATING
    if convert not in (None, "auto", "none"):
        return True
    return pooled or (architecture.endswith(POOLERS) and not architecture.endswith(GENERATORS))
