"""The releases of vLLM in which something that matters here changed.

Each name is what a release has from that number on. Sources are files of vLLM, or pull requests.
"""

Release = tuple[int, ...]

# `--max-model-len auto` is known since 0.14; from here on `/v1/models` has its result.
FITS_LENGTH: Release = (0, 20)
# The default of --gpu-memory-utilization became 0.92 (0.9 before).
UTILIZATION_92: Release = (0, 20)
# bitsandbytes moved into a plugin (PR 43529).
BITSANDBYTES_PLUGIN: Release = (0, 28)
# The first engine is gone, and with it all that --swap-space did (the flag stayed until 0.17).
ONE_ENGINE: Release = (0, 11)
# --kv-offloading-size takes its bytes in /dev/shm (v1/kv_offload/cpu/shared_offload_region.py).
SWAPS_IN_SHARED_MEMORY: Release = (0, 20)
# What is swapped is counted, at the latest from here on (kv_connector/v1/offloading_connector.py).
COUNTS_SWAPPING: Release = (0, 20)
# FlashInfer reads an 8-bit KV cache outside the B200, too (PR 24577).
FLASHINFER_FP8: Release = (0, 11)
# Blocks of fp8 experts are made smaller where they must be
# (fused_moe/oracle/fp8.py, `refine_fp8_moe_block_shape`; not in 0.26).
REFINES_FP8_BLOCKS: Release = (0, 32)
# On devices of 160 GiB a server takes 16,384 tokens a step (get_batch_defaults, arg_utils.py).
LARGE_BATCH: Release = (0, 32)
# Layers of several kinds share the KV cache without padding each to every token.
HYBRID_KV_CACHE: Release = (0, 11)
# The KV cache holds a block back (v1/core/block_pool.py).
NULL_BLOCK: Release = (0, 30)
# Full CUDA graphs of recurrent layers need a block of the KV cache for each sequence
# (`resolve_cudagraph_mode_and_sizes` in config/compilation.py; before, graphs were capped).
STATE_BLOCKS: Release = (0, 20)
# Model Runner V2 is the default for dense models, later perhaps, at last for nearly all
# (use_v2_model_runner in config/vllm.py).
RUNNER_V2_DENSE: Release = (0, 26)
RUNNER_V2_OTHERS: Release = (0, 27)
RUNNER_V2_ALL: Release = (0, 32)
# The memory of CUDA graphs can be estimated before the KV cache is sized, then is by default;
# Model Runner V2 began to estimate it later (gpu/model_runner.py, profile_cudagraph_memory).
ESTIMATES_GRAPHS: Release = (0, 18)
CHARGES_GRAPHS: Release = (0, 20)
RUNNER_V2_CHARGES_GRAPHS: Release = (0, 30)
# Before, up to 0.4 GiB more were gone on one H200 and 1.8 on each of eight (0.11 to 0.13 against
# 0.14 and 0.18, the same models and flags).
LESS_BESIDE: Release = (0, 14)
# What a vision tower took in the profiling run is free again when the text model runs; before, the
# two added up (3.4 and 6.2 GiB for Qwen3-VL-30B on an H200 with 0.18 and 0.13).
ONE_STEP_AT_A_TIME: Release = (0, 18)
# Before, each tensor parallel device had Pixtral's tower whole (measured with 0.13; later ones but
# 0.32 were not read).
PIXTRAL_SPLITS: Release = (0, 14)
# On 10.x graphs are captured for 1024 tokens, not 512 (_set_cudagraph_sizes in config/vllm.py).
LARGE_GRAPHS: Release = (0, 27)
