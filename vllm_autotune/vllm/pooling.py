"""Which models vLLM serves by pooling (embedding, classifying, ranking), not by generating."""

from .config import LaunchConfig

# The end of an architecture's name and whether it pools; the first that matches counts.
# vllm/config/model.py, _SUFFIX_TO_DEFAULTS (0.32).
SUFFIXES = {
    "ForCausalLM": False,
    "ForConditionalGeneration": False,
    "ChatModel": False,
    "LMHeadModel": False,
    "ForTextEncoding": True,
    "EmbeddingModel": True,
    "ForSequenceClassification": True,
    "ForTokenClassification": True,
    "ClassificationModel": True,
    "ForRewardModeling": True,
    "RewardModel": True,
    "Model": True,
}
# Values of `--task`, which later versions replaced by `--runner` and `--convert`.
GENERATING = ("auto", "generate", "generation", "transcription", "draft")


def pools(config: LaunchConfig, architecture: str, *, pooled: bool = False) -> bool:
    """Tell whether a server of this configuration pools.

    A checkpoint that is `pooled` does whatever its architecture (vLLM 0.26 and 0.32,
    config/model.py, `_get_default_runner_type`).
    """
    runner, task = config.text("runner"), config.text("task")
    convert = config.text("convert")
    if runner in ("pooling", "generate"):
        return runner == "pooling"
    if task and task != "auto":
        return task not in GENERATING
    if convert not in (None, "auto", "none"):
        return True
    return pooled or next(
        (pools for end, pools in SUFFIXES.items() if architecture.endswith(end)), False
    )
