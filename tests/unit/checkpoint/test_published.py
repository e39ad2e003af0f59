"""Which of the checkpoints that say they are a model's are looked at."""

from vllm_autotune.checkpoint.published import choose

MODEL = "Qwen/Qwen2.5-32B-Instruct"


def test_one_of_each_kind_the_makers_own_first() -> None:
    names = [
        "somebody/Qwen2.5-32B-Instruct-AWQ",
        "RedHatAI/Qwen2.5-32B-Instruct-quantized.w4a16",
        "RedHatAI/Qwen2.5-32B-Instruct-FP8-dynamic",
        "nvidia/Qwen2.5-32B-Instruct-FP8",
        "Qwen/Qwen2.5-32B-Instruct-GPTQ-Int4",
        "Qwen/Qwen2.5-32B-Instruct-AWQ",
        "Qwen/Qwen2.5-32B-Instruct-GGUF",
    ]
    eight, four = choose(MODEL, names)
    assert eight == "RedHatAI/Qwen2.5-32B-Instruct-FP8-dynamic"
    assert four == "Qwen/Qwen2.5-32B-Instruct-GPTQ-Int4"


def test_gptq_in_8_bits_is_of_8_bits() -> None:
    assert choose(MODEL, [f"{MODEL}-GPTQ-Int8"]) == [f"{MODEL}-GPTQ-Int8"]
    assert choose(MODEL, [f"{MODEL}-NVFP4"]) == [f"{MODEL}-NVFP4"]


def test_other_models_formats_and_publishers_are_not_looked_at() -> None:
    names = [f"{MODEL}-abliterated-AWQ", f"{MODEL}-mlx-4bit", "Qwen/Qwen2.5-32B-AWQ", "x/y"]
    assert choose(MODEL, names) == []
