"""What vLLM rejects: flags, values, and models.

Strings are from vLLM (0.6.6 to 0.33), argparse, pydantic, transformers and huggingface_hub.
"""

from .signature import ANNOUNCEMENT, CONSEQUENCE, GENERIC, Signature, signature, spellings

_QUANT = {"phase": "config", "argument": "quantization"}
_LOADING_QUANT = {**_QUANT, "phase": "load"}
_TP = {"phase": "config", "argument": "tensor-parallel-size"}
_LOADING_TP = {**_TP, "phase": "load"}
_KV_DTYPE = {"argument": "kv-cache-dtype"}
# Another backend may reject any other 8-bit type as well; the model's own dtype is safe.
_OWN_KV_DTYPE = (
    "remove --kv-cache-dtype",
    "if the checkpoint itself asks for 8 bits, use --kv-cache-dtype bfloat16, or float16 below "
    "compute capability 8.0",
)
_MODEL = {"phase": "config", "argument": "model"}
_WEIGHTS = {**_MODEL, "phase": "load"}
# vLLM logs these and tries again, or looks elsewhere: only the end of the process makes them fatal.
_HUB = {**_MODEL, "fatal": False, "strength": CONSEQUENCE}
_CODE = {"phase": "config", "argument": "trust-remote-code", "fatal": False}

# fmt: off
REJECTIONS: tuple[Signature, ...] = (
    # --- arguments -------------------------------------------------------------------------------
    signature("unknown_flag", "rejected", "error: unrecognized arguments:",
        r"error: unrecognized arguments: (?P<detail>(?:-*(?P<argument>[\w.-]+))?.*)",
        "this version of vLLM does not know {detail}",
        "remove it, or use what replaces it in this version", phase="config"),
    signature("invalid_value", "rejected", "error: argument ",
        r"error: argument (?:-\w+(?: \w+)?[/,] ?)*--(?P<argument>[\w.-]+)[^:]*: (?P<detail>.*)",
        "--{argument}: {detail}", "use a value that this vLLM accepts",
        "or change one of the options that the reason names", phase="config"),
    signature("context_too_long", "rejected", "greater than the derived max_model_len",
        r"User-specified max_model_len \((?P<max_model_len>\d+)\) is greater than the derived "
        r"max_model_len \(\w+=(?P<estimated_max_model_len>\d+)",
        "--max-model-len is {max_model_len}, but the model supports {estimated_max_model_len}",
        "lower --max-model-len to what the model supports",
        phase="config", argument="max-model-len"),
    signature(
        "tensor_parallel_indivisible", "rejected", "must be divisible by tensor parallel size",
        r"(?P<detail>Total number of attention heads \(\d+\) must be divisible by tensor parallel "
        r"size \(\d+\))", "{detail}",
        "use a --tensor-parallel-size that divides the number of attention heads and, if the "
        "weights are quantized, the number of their blocks", **_TP),
    *spellings("tensor_parallel_indivisible", "rejected", {
            "is not divisible by":
                r"(?P<detail>(?:The (?:in|out)put_size of|Weight (?:in|out)put_)[^=]{1,80}= ?\d+"
                r".{0,400}? is not divisible by[\w ]+= ?\d+)",
        }, "{detail}", **_LOADING_TP),
    # The message blames tensor parallelism in any case.
    signature(
        "tensor_parallel_indivisible", "rejected", "size is not aligned with the quantized",
        r"(?P<detail>The (?:in|out)put size is not aligned with the quantized weight shape)",
        "{detail}", given="parallel", **_LOADING_TP),
    signature("tensor_parallel_unsupported", "rejected", "Prequant BitsAndBytes models with ",
        r"Prequant BitsAndBytes models with (?:tensor parallelism|TP) is not",
        "this vLLM does not support tensor parallelism for a bitsandbytes checkpoint",
        "use --pipeline-parallel-size instead", versions="0.6.6 to 0.27", **_LOADING_TP),
    signature("too_few_gpus", "rejected", "larger than the number of available GPUs",
        r"(?P<detail>[Ww]orld size(?: \(\d+\))? is larger than the number of available GPUs"
        r"(?: \(\d+\))?)", "{detail}",
        "use fewer GPUs: --tensor-parallel-size times --pipeline-parallel-size",
        "over several nodes: --nnodes, or a Ray cluster that all nodes have joined, and "
        "--distributed-executor-backend ray", versions="0.11.2 to 0.33", **_TP),
    signature("too_few_gpus", "rejected", "exceeds the total number of available",
        r"(?P<detail>[Tt]he number of required \w+ exceeds the total number of available \w+)",
        "{detail}", versions="Ray: 0.5.5 to 0.33", **_TP),
    signature(
        "too_few_gpus", "rejected", "Unable to load Ray", r"Error: .{0,400}?Unable to load Ray",
        "this host has fewer GPUs than the configuration needs, and Ray is not installed",
        versions="0.6.6 to 0.11.0", **_TP),
    signature(
        "pipeline_parallel_unsupported", "rejected", "Pipeline parallelism is not supported for",
        "", "vLLM does not support pipeline parallelism for this model",
        "use --tensor-parallel-size instead", phase="config", argument="pipeline-parallel-size"),
    signature("too_few_batched_tokens", "rejected", "max_num_batched_tokens (",
        r"(?P<detail>max_num_batched_tokens \(\d+\) (?:is smaller than max_model_len|must be "
        r"greater than or equal to max_num_seqs)[^.]*)", "{detail}",
        "raise --max-num-batched-tokens, or lower the other number",
        phase="config", argument="max-num-batched-tokens"),

    # --- quantization and data types -------------------------------------------------------------
    signature("unsupported_quantization", "rejected", "not supported for the current GPU",
        r"quantization method (?P<detail>\S+) is not supported for the current GPU. Minimum "
        r"capability: (?P<minimum_capability>\d+)",
        "{detail} needs compute capability {minimum_capability}",
        "use another quantization method", "use --dtype half if the reason names a dtype", **_QUANT,
    ),
    signature(
        "unsupported_quantization", "rejected", "size is not aligned with the quantized",
        r"(?P<detail>The (?:in|out)put size is not aligned with the quantized weight shape)",
        "{detail}: without tensor parallelism, it is the bit width or the group size that this "
        "kernel does not support", **_LOADING_QUANT),
    signature("unsupported_quantization", "rejected", "uantization scheme is not supported",
        r"(?P<detail>[Qq]uantization scheme is not supported for)[ ',]+the current GPU\. Min "
        r"capability: (?P<minimum_capability>\d+)",
        "{detail} this GPU: it needs compute capability {minimum_capability}", **_LOADING_QUANT),
    signature("unsupported_quantization", "rejected", "is not supported for quantization method",
        r"(?P<detail>torch\.\w+ is not supported for quantization method \S+?)[. ]", "{detail}",
        **_QUANT),
    signature("unknown_quantization", "rejected", "Unknown quantization method",
        r"(?P<detail>Unknown quantization method: [^.]+)", "{detail}",
        "use a method that this vLLM has; bitsandbytes needs vllm-bnb-plugin from 0.28 on, GGUF "
        "needs vllm-gguf-plugin from about 0.26 on", **_QUANT),
    signature(
        "quantization_mismatch", "rejected", "Quantization method specified in the model config",
        r"(?P<detail>Quantization method specified in the model config \(\S+\) does not "
        r"match[^.]*)", "{detail}",
        "remove --quantization: a quantized checkpoint names its own method",
        "if the checkpoint is not quantized, use a method that quantizes while loading (fp8)",
        **_QUANT),
    signature("quantization_mismatch", "rejected", "Cannot find the config file for",
        r"(?P<detail>Cannot find the config file for \w+)",
        "{detail}: the checkpoint is not quantized with this method", **_QUANT),
    signature("quantization_mismatch", "rejected", "Config.__init__() missing",
        r"TypeError: (?P<detail>(?i:\w*(?:fp8|quant|awq|gptq)\w*)Config)\.__init__\(\) missing",
        "this checkpoint lacks settings that {detail} needs: it is not quantized with this method",
        **_QUANT),
    *spellings("unsupported_quantization", "rejected", {
            "_quant": r"Error: (?P<detail>_C::\w+_quant\(\) expected at most 0)",
            "'_OpNamespace' '": r"(?P<detail>'_OpNamespace' '\w+' object has no attribute '\w*(?:"
                r"quant|awq|gptq|ggml|marlin|gemm|cutlass|fp8|nvfp4|mxfp4|scaled_mm)\w*')",
        }, "this build of vLLM has no kernel for this quantization method: {detail}",
        serving=True, **(_QUANT | {"phase": None, "usual": "serving"})),
    signature("broken_install", "environment", "'_OpNamespace' '",
        r"(?P<detail>'_OpNamespace' '\w+' object has no attribute '\w+')",
        "vLLM's compiled part is missing or of another version: {detail}", serving=True),
    signature("deprecated_quantization", "rejected", "--allow-deprecated-quantization",
        r"is deprecated and will be removed in future versions of vLLM\. To bypass",
        "this quantization method is deprecated, so vLLM rejected it",
        "add --allow-deprecated-quantization, or use another method",
        versions="0.14 to 0.33", **_QUANT),
    *spellings("bitsandbytes_unavailable", "rejected", {
            "Please install bitsandbytes": r"(?P<detail>Please install bitsandbytes\S+)",
            "does not support BitsAndBytes":
                r"(?P<detail>\S+ does not support BitsAndBytes quantization)",
        }, "{detail}", "install bitsandbytes if it is missing", "use another quantization method",
        versions="0.6.6 to 0.27", **_LOADING_QUANT),
    signature("unsupported_dtype", "rejected", "Bfloat16 is only supported on GPUs",
        r"Bfloat16 is only supported on GPUs with compute capability of at least "
        r"(?P<minimum_capability>\d+\.\d)",
        "this GPU does not support bfloat16", "use --dtype half", argument="dtype"),
    signature("unsupported_kv_cache_dtype", "rejected", "kv_cache_dtype not supported",
        r"No valid attention backend found for .{0,4000}kv_cache_dtype not supported",
        "no attention backend for this device supports this KV cache dtype",
        *_OWN_KV_DTYPE, versions="0.11.2 to 0.33", **_KV_DTYPE),
    *spellings("unsupported_kv_cache_dtype", "rejected", {
            "not support":
                r"Error: .{0,400}?FlashAttention does not support fp8|"
                r"type fp8e4nv not supported in this architecture|"
                r"Error: (?:FP8|bfloat16) KV cache is not supported (?:by|on) ",
            "Triton reshape-and-cache cannot store": "",
        }, "this GPU does not support this KV cache dtype", **_KV_DTYPE),
    signature("no_attention_backend", "rejected", "No valid attention backend found",
        r"(?P<detail>No valid attention backend found for \S+)", "{detail} with these options",
        "remove the option that the reasons in this line name",
        strength=GENERIC, versions="0.11.2 to 0.33"),

    *spellings("moe_backend_unsupported", "rejected", {
            "MoE backend supports": r"(?P<detail>No [\w ]{1,20} MoE backend supports the "
                r"deployment configuration)",
            "moe_backend='": r"(?P<detail>moe_backend='\w+' is not supported for [\w ]{1,30})",
        }, "{detail}", "remove --moe-backend and the VLLM_USE_*MOE* variables: vLLM then chooses",
        usual="load", argument="moe-backend"),
    signature("hybrid_kv_cache_disabled", "rejected", "Hybrid KV cache manager is disabled but",
        r"(?P<detail>Hybrid KV cache manager is disabled but failed to convert)",
        "this model needs the hybrid KV cache manager, which the KV connector turned off: {detail} "
        "the layers' caches to one kind",
        "remove --kv-transfer-config, or use a connector that supports hybrid models "
        "(--no-disable-hybrid-kv-cache-manager)",
        usual="kv_cache", argument="kv-transfer-config"),
    *spellings("unsupported_combination", "rejected", {
            "peculative decoding is not": r"(?P<detail>[Ss]peculative decoding is not "
                r"(?:yet )?supported with[^\n.]{0,80})",
            "supported with ": r"(?:NotImplementedError|ValueError): (?P<detail>[^\n]{1,120}"
                r" is not (?:yet )?supported with [^\n.]{1,80})",
            "is not supported by the V": r"Error: (?P<detail>[^\n]{1,120} is not supported by the "
                r"V[01] Engine)",
        }, "vLLM does not support this combination: {detail}",
        "remove one of the options that the reason names", usual="config", strength=GENERIC),

    # --- adapters, templates, parsers ------------------------------------------------------------
    signature("lora_unsupported", "rejected", "does not support LoRA",
        r"(?P<detail>\w+ does not support LoRA)",
        "{detail}, but LoRA is enabled", "remove --enable-lora, or merge the adapter into the "
        "model", "or use a newer vLLM", usual="load", argument="enable-lora"),
    signature("lora_rank_too_large", "rejected", "max_lora_rank",
        r"(?P<detail>LoRA rank \d+ is greater than max_lora_rank \d+)",
        "{detail}", "raise --max-lora-rank to the adapter's rank", usual="serving",
        argument="max-lora-rank", serving=True, fatal=False),
    *spellings("chat_template_missing", "rejected", {
            "default chat template is no longer allowed": "",
            "chat_template is not set": "",
        }, "chat requests were refused: the tokenizer has no chat template; the server itself is "
        "healthy",
        "add --chat-template FILE, or ask /v1/completions", phase="serving", fatal=False,
        serving=True, argument="chat-template"),
    *spellings("unknown_parser", "rejected", {
            "invalid tool call parser":
                r"(?P<detail>invalid tool call parser: ?[^\n(]{1,80})",
            "parser '": r"KeyError: ['\"](?P<detail>(?:[Rr]easoning|[Tt]ool) parser '[\w-]+' not "
                r"found)",
        }, "this vLLM does not have that parser: {detail}",
        "choose one from the list that vLLM printed, or use a newer vLLM",
        usual="config", argument="tool-call-parser"),
    signature("unknown_parser", "rejected", "invalid reasoning parser",
        r"(?P<detail>invalid reasoning parser: ?[^\n(]{1,80})",
        "this vLLM does not have that parser: {detail}", usual="config",
        argument="reasoning-parser"),
    signature("parser_mismatch", "rejected", "asoning parser could not locate",
        r"(?P<detail>\w* ?[Rr]easoning parser could not locate [^\n]{1,80})",
        "the parser does not fit this model: {detail}",
        "use the parser of this model's family, or none", usual="config",
        argument="reasoning-parser"),
    signature("parser_mismatch", "rejected", "arser could not locate",
        r"(?i:(?P<detail>\w* ?tool parser could not locate [^\n]{1,80}))",
        "the parser does not fit this model: {detail}", usual="config",
        argument="tool-call-parser"),
    *spellings("parser_missing", "rejected", {
            "--enable-auto-tool-choice requires": "",
            "requires --enable-auto-tool-choice": "",
        }, "tool calls need both --enable-auto-tool-choice and --tool-call-parser",
        "add both, with the parser of this model", usual="config", argument="tool-call-parser",
        fatal=False),

    # --- multimodal ------------------------------------------------------------------------------
    *spellings("multimodal_too_long", "rejected", {
            "number of text tokens plus multimodal": "",
            "to hold the multi-modal embeddings": "",
            "pre-allocated encoder cache size": "",
        }, "one image, video or audio at its largest does not fit into --max-model-len",
        "raise --max-model-len, or allow smaller or fewer inputs: --limit-mm-per-prompt, "
        "--mm-processor-kwargs", usual="profile", argument="max-model-len"),
    *spellings("multimodal_mismatch", "crashed", {
            "multimodal tokens to": r"(?P<detail>Attempted to assign [\w +=]+ multimodal tokens to "
                r"\d+ placeholders)",
            "prompt updates corresponding": r"(?P<detail>Expected there to be \d+ prompt updates "
                r"corresponding to \d+ \w+ items)",
            "prompt replacements corresponding": r"(?P<detail>Expected there to be \d+ prompt "
                r"replacements corresponding to \d+ \w+ items)",
            "Failed to apply": r"Error: (?P<detail>Failed to apply \w*(?:Processor|processor)\w*)",
            "token count between text": r"(?P<detail>Mismatch in `\w+` token count between text "
                r"and `input_ids`)",
        }, "the model's processor and vLLM count its multimodal tokens differently: {detail}",
        "install the version of transformers that this vLLM asks for",
        "check --chat-template, --mm-processor-kwargs and --limit-mm-per-prompt",
        strength=GENERIC, usual="profile", serving=True, fatal=False),

    # --- the model -------------------------------------------------------------------------------
    *spellings("checkpoint_mismatch", "rejected", {
            "param_data.shape ==": r"(?P<detail>`assert param_data\.shape == "
                r"loaded_weight\.shape`)",
            "param.size() ==": r"(?P<detail>`assert param\.size\(\) == "
                r"loaded_weight\.size\(\)`)",
        }, "the weights do not have the shapes that vLLM expects of this quantization: {detail}",
        given="quantized", **_LOADING_QUANT),
    *spellings("checkpoint_mismatch", "rejected", {
            "param_data.shape ==": r"(?P<detail>`assert param_data\.shape == "
                r"loaded_weight\.shape`)",
            "param.size() ==": r"(?P<detail>`assert param\.size\(\) == "
                r"loaded_weight\.size\(\)`)",
            "no module or parameter named":
                r"(?P<detail>no module or parameter named '[^']{1,200}')",
            "not initialized from checkpoint":
                r"(?P<detail>weights were not initialized from checkpoint: [^\n]{1,200})",
            "Attempted to load weight": r"(?P<detail>Attempted to load weight \([^)]{1,60}\]?\)\)? "
                r"into parameter \([^)]{1,60}\]?\)\)?)",
            "KeyError: '": r"(?P<detail>KeyError: '(?:[\w.]*\blayers\.\d+\.[\w.]+|"
                r"[\w.]+\.(?:weight|bias|qweight|scales?|weight_scale|qzeros)\w*)')",
        }, "the checkpoint's weights are not those that vLLM's model expects: {detail}",
        "use a vLLM that knows this checkpoint, or a checkpoint in the format it was published in",
        "if the weights were merged, fine-tuned or quantized, do that again with newer tools",
        **(_WEIGHTS | {"strength": GENERIC})),
    signature("checkpoint_mismatch", "rejected", "must match the size of tensor",
        r"(?P<detail>The size of tensor a \(\d+\) must match the size of tensor b \(\d+\))"
        r"[^\n]*\(\w+\.py:\d+ in \w*(?:load|weight)",
        "a weight has another shape than vLLM's model expects: {detail}",
        **(_WEIGHTS | {"strength": GENERIC})),
    *spellings("corrupt_weights", "rejected", {
            "deserializing header": r"(?P<detail>Error while deserializing header: [^\n]{1,60})",
            "PytorchStreamReader failed": r"(?P<detail>PytorchStreamReader failed[^\n]{0,60})",
            "invalid load key": r"(?P<detail>UnpicklingError: invalid load key)",
            "IncompleteBuffer": r"(?P<detail>\w*IncompleteBuffer)",
        }, "a file of the weights is damaged or incomplete (safetensors, torch): {detail}",
        "download the model again; a file of a few hundred bytes is a pointer of git-lfs",
        **_WEIGHTS),
    *spellings("no_model_config", "rejected", {
            "No supported config format found":
                r"(?P<detail>No supported config format found in \S+)",
            "Should have a `model_type` key":
                r"(?P<detail>Should have a `model_type` key in its config\.json)",
            "have a file named config.json": r"(?P<detail>does not appear to have a file named "
                r"config\.json)",
        }, "the model's config.json was not found or cannot be read: {detail}",
        "check the path, and that the download is complete; a private model needs HF_TOKEN",
        "for Mistral's own format: --config-format mistral", strength=GENERIC, **_MODEL),
    *spellings("gated_model", "rejected", {
            "gated repo": r"Error: .{0,400}?access (?:a )?gated repo",
            "Client Error": r"Error: .{0,100}?40[13] Client Error",
            "Invalid credentials in Auth": "",
        }, "the model is gated or private, and this account has no access to it",
        "accept the model's terms on its page and set HF_TOKEN to a token with access", **_HUB),
    *spellings("hub_unreachable", "environment", {
            "locate the file on the Hub": r"Error: An error happened while trying to locate",
            "couldn't connect to 'https://": r"Error: We couldn't connect to 'https://",
            "huggingface.co": r"(?:Error|Exception|Timeout): .{0,300}?host='huggingface\.co'",
            "name resolution": r"(?:Error|Exception): .{0,300}?name resolution",
        }, "the model is not on this machine, and the Hub could not be reached",
        "check the network, or download the model first", **_HUB),
    *spellings("model_not_found", "rejected", {
            "Invalid repository ID or local directory": "",
            "Repo id must ": r"Error: Repo id must (?:be in the form|use alphanumeric)",
            "LocalEntryNotFoundError": r"LocalEntryNotFoundError: Cannot find",
            "RepositoryNotFoundError": r"RepositoryNotFoundError: ",
            "is not a valid model identifier": "",
            "outgoing traffic has been disabled":
                r"Error: .{0,400}?outgoing traffic has been disabled",
        }, "the model was not found",
        "check the path or the name; vLLM treats a path that does not exist as a Hub name", **_HUB),
    signature("missing_weights", "rejected", "Cannot find any model weights", "",
        "the model's directory contains no weights", "download the checkpoint again",
        "some loaders do not accept --load-format dummy: use real weights", **_WEIGHTS),
    signature("missing_weights", "rejected", "No model weights found",
        r"Error: .{0,400}?No model weights found", "the loader found no weights that it can read",
        **_WEIGHTS),
    *spellings("remote_code", "rejected", {
            "contains custom code which must be executed": "",
            "trust_remote_code=True":
                r"(?:pass the argument|set the option|consider setting) `trust_remote_code=True`",
        }, "the model needs code of its own, which vLLM runs only if you allow it",
        "read that code, then add --trust-remote-code", strength=CONSEQUENCE, **_CODE),
    # The end of what pydantic rejected: it counts where the beginning was torn.
    signature("remote_code", "rejected", "to allow custom code to be run. [type=", "",
        "the model needs code of its own, which vLLM runs only if you allow it", **_CODE),
    *spellings("unknown_architecture", "rejected", {
            "are not supported for now":
                r"Model architectures \[.{0,400}?\] are not supported for now",
            "was supported in vLLM until": "",
            "is not supported in-tree anymore": "",
            "does not recognize this architecture": "",
        }, "this version of vLLM or of transformers does not support the model's architecture",
        "use a newer vLLM, or a plugin that adds the model", **_MODEL),
    # An import error above it is the cause.
    signature("unknown_architecture", "rejected", "failed to be inspected",
        r"Model architectures \[.{0,400}?\] failed to be inspected",
        "vLLM could not import the model's code, or does not know its architecture",
        **(_MODEL | {"strength": ANNOUNCEMENT})),

    # --- anything else ---------------------------------------------------------------------------
    signature(
        "invalid_value", "rejected", "Value error, ",
        r"Value error, (?!Model architectures \[)(?P<detail>.*?)(?: \[type=|$)",
        "{detail}", phase="config", strength=GENERIC),
    # A class that is not of vLLM's configuration is of somebody's own program.
    signature("invalid_value", "rejected", "validation error",
        r"\d+ validation errors? for (?P<detail>\w*(?:Config|Args)\b)",
        "vLLM rejected {detail}: {below}", phase="config", strength=ANNOUNCEMENT, fatal=False),
)
# fmt: on
