"""What vLLM refuses: flags, values, and models it cannot take.

Strings are from vLLM's sources, 0.6.6 to 0.33, and from argparse, pydantic, transformers and
huggingface_hub. Where two patterns match one line, the first wins.
"""

from .signature import CONSEQUENCE, GENERIC, HEADING, Signature, signature, spellings

_QUANT = {"phase": "config", "argument": "quantization"}
_KV_DTYPE = {"argument": "kv-cache-dtype"}
# Another backend may refuse any other 8-bit type as well; the model's own dtype is safe.
_OWN_KV_DTYPE = (
    "leave --kv-cache-dtype out",
    "if the checkpoint asks for 8 bits itself, give bfloat16, below compute capability 8.0 float16",
)
_DIVIDING = (
    "use a --tensor-parallel-size that divides the number of attention heads and, of quantized "
    "weights, the blocks",
)
_MODEL = {"phase": "config", "argument": "model"}
# vLLM logs these and tries again, or looks elsewhere: only the end of the process makes them fatal.
_HUB = {**_MODEL, "fatal": False, "strength": CONSEQUENCE}

# fmt: off
REJECTIONS: tuple[Signature, ...] = (
    # --- what vLLM refuses -----------------------------------------------------------------------
    signature(
        "unknown_flag", "rejected", "error: unrecognized arguments:",
        r"error: unrecognized arguments: (?P<detail>(?:-*(?P<argument>[\w.-]+))?.*)",
        "this vLLM does not know {detail}", "drop the flag, or use what replaced it in this "
        "version",
        phase="config",
    ),
    signature(
        "invalid_value", "rejected", "error: argument ",
        r"error: argument (?:-\w+(?: \w+)?[/,] ?)*--(?P<argument>[\w.-]+)[^:]*: (?P<detail>.*)",
        "--{argument}: {detail}", "give a value this vLLM accepts", phase="config",
    ),
    signature(
        "context_too_long", "rejected", "greater than the derived max_model_len",
        r"User-specified max_model_len \((?P<max_model_len>\d+)\) is greater than the derived "
        r"max_model_len \(\w+=(?P<estimated_max_model_len>\d+)",
        "the model was made for {estimated_max_model_len} tokens, {max_model_len} was asked for",
        "shorten --max-model-len to the model's own length",
        phase="config", argument="max-model-len",
    ),
    signature(
        "tensor_parallel_indivisible", "rejected", "must be divisible by tensor parallel size",
        r"(?P<detail>Total number of attention heads \(\d+\) must be divisible by tensor parallel "
        r"size \(\d+\))", "{detail}",
        *_DIVIDING, phase="config", argument="tensor-parallel-size",
    ),
    *spellings(
        "tensor_parallel_indivisible", "rejected", {
            "is not divisible by":
                r"(?P<detail>(?:The (?:in|out)put_size of|Weight (?:in|out)put_)[^=]{1,80}= ?\d+"
                r".{0,400}? is not divisible by[\w ]+= ?\d+)",
            "size is not aligned with the quantized":
                r"(?P<detail>The (?:in|out)put size is not aligned with the quantized weight "
                r"shape)",
        }, "{detail}", *_DIVIDING, phase="load", argument="tensor-parallel-size",
    ),
    signature(
        "tensor_parallel_unsupported", "rejected", "Prequant BitsAndBytes models with ",
        r"Prequant BitsAndBytes models with (?:tensor parallelism|TP) is not",
        "a bitsandbytes checkpoint cannot be split over GPUs",
        "use --pipeline-parallel-size instead",
        phase="load", argument="tensor-parallel-size", versions="0.6.6 to 0.27",
    ),
    signature(
        "too_few_gpus", "rejected", "larger than the number of available GPUs",
        r"(?P<detail>[Ww]orld size(?: \(\d+\))? is larger than the number of available GPUs"
        r"(?: \(\d+\))?)", "{detail}",
        "use fewer GPUs: --tensor-parallel-size times --pipeline-parallel-size",
        phase="config", argument="tensor-parallel-size", versions="0.11.2 to 0.33",
    ),
    signature(
        "too_few_gpus", "rejected", "Unable to load Ray", r"Error: .{0,400}?Unable to load Ray",
        "more GPUs were asked for than this host has, and Ray is not installed",
        "use fewer GPUs: --tensor-parallel-size times --pipeline-parallel-size",
        phase="config", argument="tensor-parallel-size", versions="0.6.6 to 0.11.0",
    ),
    signature(
        "pipeline_parallel_unsupported", "rejected", "Pipeline parallelism is not supported for",
        "", "this model cannot be split into stages", "use --tensor-parallel-size instead",
        phase="config", argument="pipeline-parallel-size",
    ),
    signature(
        "too_few_batched_tokens", "rejected", "max_num_batched_tokens (",
        r"(?P<detail>max_num_batched_tokens \(\d+\) (?:is smaller than max_model_len|must be "
        r"greater "
        r"than or equal to max_num_seqs)[^.]*)", "{detail}",
        "raise --max-num-batched-tokens, or lower the other number",
        phase="config", argument="max-num-batched-tokens",
    ),
    signature(
        "unsupported_quantization", "rejected", "not supported for the current GPU",
        r"quantization method (?P<detail>\S+) is not supported for the current GPU. Minimum "
        r"capability: (?P<minimum_capability>\d+)",
        "{detail} needs compute capability {minimum_capability}",
        "use another quantization method", **_QUANT,
    ),
    signature(
        "unsupported_quantization", "rejected", "is not supported for quantization method",
        r"(?P<detail>torch\.\w+ is not supported for quantization method \S+?)[. ]", "{detail}",
        "use --dtype half", "use another quantization method", **_QUANT,
    ),
    signature(
        "unknown_quantization", "rejected", "Unknown quantization method",
        r"(?P<detail>Unknown quantization method: [^.]+)", "{detail}",
        "use a method of this vLLM; bitsandbytes needs vllm-bnb-plugin from 0.28, GGUF "
        "vllm-gguf-plugin from about 0.26", **_QUANT,
    ),
    signature(
        "quantization_mismatch", "rejected", "Quantization method specified in the model config",
        r"(?P<detail>Quantization method specified in the model config \(\S+\) does not "
        r"match[^.]*)",
        "{detail}", "leave --quantization out: the checkpoint says what it is", **_QUANT,
    ),
    signature(
        "quantization_mismatch", "rejected", "Cannot find the config file for",
        r"(?P<detail>Cannot find the config file for \w+)",
        "{detail}: the checkpoint is not quantized that way",
        "leave --quantization out, or use a method that quantizes while loading (fp8)", **_QUANT,
    ),
    signature(
        "quantization_mismatch", "rejected", "Config.__init__() missing",
        r"TypeError: (?P<detail>(?i:\w*(?:fp8|quant|awq|gptq)\w*)Config)\.__init__\(\) missing",
        "{detail} wants settings that this checkpoint does not have: it is not quantized that way",
        "leave --quantization out, or use a method that quantizes while loading (fp8)", **_QUANT,
    ),
    signature(
        "unsupported_quantization", "rejected", "_quant",
        r"Error: (?P<detail>_C::\w+_quant\(\) expected at most 0|"
        r"'_OpNamespace' '_C' object has no attribute '\w+_quant\w*')",
        "this build of vLLM has no kernel for that quantization: {detail}",
        "use another quantization method", phase="load", argument="quantization",
    ),
    signature(
        "deprecated_quantization", "rejected", "--allow-deprecated-quantization",
        r"is deprecated and will be removed in future versions of vLLM\. To bypass",
        "this vLLM refuses a deprecated quantization method",
        "add --allow-deprecated-quantization, or use another method",
        versions="0.14 to 0.33", **_QUANT,
    ),
    *spellings(
        "bitsandbytes_unavailable", "rejected", {
            "Please install bitsandbytes": r"(?P<detail>Please install bitsandbytes\S+)",
            "does not support BitsAndBytes":
                r"(?P<detail>\S+ does not support BitsAndBytes quantization)",
        }, "{detail}", "install bitsandbytes if it is missing", "use another quantization method",
        phase="load", argument="quantization", versions="0.6.6 to 0.27",
    ),
    signature(
        "unsupported_dtype", "rejected", "Bfloat16 is only supported on GPUs",
        r"Bfloat16 is only supported on GPUs with compute capability of at least "
        r"(?P<minimum_capability>\d+\.\d)",
        "this GPU has no bfloat16", "use --dtype half", argument="dtype",
    ),
    signature(
        "unsupported_kv_cache_dtype", "rejected", "kv_cache_dtype not supported",
        r"No valid attention backend found for .{0,4000}kv_cache_dtype not supported",
        "no attention backend of this device knows that KV cache dtype",
        *_OWN_KV_DTYPE, versions="0.11.2 to 0.33", **_KV_DTYPE,
    ),
    *spellings(
        "unsupported_kv_cache_dtype", "rejected", {
            "not support":
                r"Error: .{0,400}?FlashAttention does not support fp8|"
                r"type fp8e4nv not supported in this architecture|"
                r"Error: (?:FP8|bfloat16) KV cache is not supported (?:by|on) ",
            "Triton reshape-and-cache cannot store": "",
        }, "this GPU has no such KV cache", *_OWN_KV_DTYPE, **_KV_DTYPE,
    ),
    signature(
        "no_attention_backend", "rejected", "No valid attention backend found",
        r"(?P<detail>No valid attention backend found for \S+)", "{detail} with these options",
        "read the reasons in the line: drop the option they name", strength=GENERIC,
        versions="0.11.2 to 0.33",
    ),

    # --- the model -------------------------------------------------------------------------------
    signature(
        "gated_model", "rejected", "gated repo", r"Error: .{0,400}?access (?:a )?gated repo",
        "the model is gated: this account may not read it",
        "accept the model's terms on its page and give a token with access (HF_TOKEN)",
        **_HUB,
    ),
    *spellings(
        "hub_unreachable", "environment", {
            "locate the file on the Hub": r"Error: An error happened while trying to locate",
            "couldn't connect to 'https://": r"Error: We couldn't connect to 'https://",
        }, "the model is not on this machine, and the Hub could not be reached",
        "check the network, or download the model first", **_HUB,
    ),
    *spellings(
        "model_not_found", "rejected", {
            "Invalid repository ID or local directory": "",
            "Repo id must ": r"Error: Repo id must (?:be in the form|use alphanumeric)",
            "LocalEntryNotFoundError": r"LocalEntryNotFoundError: Cannot find",
            "RepositoryNotFoundError": r"RepositoryNotFoundError: ",
            "outgoing traffic has been disabled":
                r"Error: .{0,400}?outgoing traffic has been disabled",
        }, "the model was not found",
        "check the path or the name; a missing directory is taken for a Hub name", **_HUB,
    ),
    signature(
        "missing_weights", "rejected", "Cannot find any model weights", "",
        "the model's directory has no weights", "download the checkpoint again",
        phase="load", argument="model",
    ),
    signature(
        "missing_weights", "rejected", "No model weights found",
        r"Error: .{0,400}?No model weights found",
        "the loader found no weights it can read", "use real weights: this loader cannot take "
        "dummies",
        phase="load", argument="model",
    ),
    *spellings(
        "remote_code", "rejected", {
            "contains custom code which must be executed": "",
            "trust_remote_code=True": r"(?:pass the argument|set the option|consider setting) "
            r"`trust_remote_code=True`",
        },
        "the model brings its own code", "read that code, then add --trust-remote-code",
        phase="config", argument="trust-remote-code", fatal=False, strength=CONSEQUENCE,
    ),
    # The end of what pydantic refused: it counts where the beginning was torn.
    signature(
        "remote_code", "rejected", "to allow custom code to be run. [type=", "",
        "the model brings its own code", "read that code, then add --trust-remote-code",
        phase="config", argument="trust-remote-code", fatal=False,
    ),
    *spellings(
        "unknown_architecture", "rejected", {
            "are not supported for now":
                r"Model architectures \[.{0,400}?\] are not supported for now",
            "failed to be inspected": r"Model architectures \[.{0,400}?\] failed to be inspected",
            "was supported in vLLM until": "",
            "is not supported in-tree anymore": "",
            "does not recognize this architecture": "",
        },
        "this vLLM, or its transformers, does not know the model's architecture",
        "use a newer vLLM, or a plugin that brings the model", **_MODEL,
    ),

    # --- refused, by nobody's name ---------------------------------------------------------------
    signature(
        "invalid_value", "rejected", "Value error, ", r"Value error, (?P<detail>.*?)(?: \[type=|$)",
        "{detail}", "read the reason: vLLM refused this combination",
        phase="config", strength=GENERIC,
    ),
    signature(
        "invalid_value", "rejected", "validation error",
        r"\d+ validation errors? for (?P<detail>\w+)",
        "{detail} refused {below}", "read the reason: vLLM refused this combination",
        phase="config", strength=HEADING, fatal=False,
    ),
)
