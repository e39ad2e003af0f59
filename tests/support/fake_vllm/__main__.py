"""A fake vLLM server: real processes, real HTTP, vLLM 0.32's own words, and scripted misfortune.

    FAKE_VLLM='{"mode": "stream_cut"}' python tests/support/fake_vllm --model M --port 8000

It takes the arguments of `python -m vllm.entrypoints.openai.api_server` and starts an API server,
an engine below it and a worker below that. `FAKE_VLLM` holds one JSON document, or the path of a
file with it; `Script` lists its entries. Memory follows a simple model of the card: flags that save
memory save it here too, and what does not fit is refused as vLLM refuses it.

`die_at` names the phase to die in (spawn config load profile kv_cache graphs warmup serving), `how`
the way: oom, crash, sigkill (the worker), sigkill_engine, segv, exit0, hang, or text, which raises
the script's `text`. In the phase serving it happens at request number `after`.

Modes while serving:

    error_500_long       500 for prompts longer than `long_tokens` (half the context)
    zero_tokens          200 without a token
    too_few_tokens       half the tokens asked for
    empty_text           the right usage, but no text
    wrong_usage          usage that counts wrong
    garbage              200 with a body that is no JSON
    stream_cut           the connection ends in the middle of a stream
    stream_no_usage      a stream without the usage chunk
    stream_no_done       a stream without [DONE]
    stream_garbage       a stream with a line that is no event
    wrong_finish         every answer ends for `stop`
    hang_full_length     a request of the full length waits for ever
    hang                 every generation waits for ever
    hang_all             every endpoint does
    spin                 a generation has no end, but the counters move
    slow                 a generation takes `seconds`, but moves
    spill                after `after` requests a token takes `seconds`
    collapse             decoding slows with the cube of the running requests
    oom_line             an out-of-memory line in the log, but 200
    engine_restart       after `after` requests a new engine takes over, its counters at zero
    preemption_storm     every request adds 50 preemptions, which come back from host memory
                         with --kv-offloading-size
    no_swapping          nothing goes to host memory, whatever the arguments
    stranger             somebody else's server answers on the port
    wrong_model_len      /v1/models promises half the context
    longer_model_len     it serves twice the context it was asked for
    dies_when_listed     SIGKILL at the first question for its models
    metrics_renamed      `rename` maps old names to new ones
    metrics_missing      404 for /metrics
    metrics_frozen       counters that never move
    health_lies          after `after` requests the engine is dead, and /health still 200
    occupied             others hold 13 of 16 parts of the KV cache
    tells_key            its errors repeat the key it was given
    memory_creep         every request keeps a MiB more
    leak_blocks          the blocks of a client that left in a stream stay taken
    rate_limit           429 when more than `limit` requests run
    reset                every `every`-th connection is reset
    accepts_over_long    200 for a prompt longer than the context
    dies_of_over_long    the engine dies of a prompt longer than the context
    rejects_full_length  400 for a request of exactly the context
    pooling              an embedding model: /v1/embeddings, and nothing else
    empty_vector         its vectors hold nothing but zeros
    text_only            400 for an image
    fails_images_beside_text  500 for an image beside more text than half the context
    fails_broken_images  500 for what is no image
    fails_image_too_many 500 for more images than --limit-mm-per-prompt allows
    takes_any_number     of images, whatever --limit-mm-per-prompt says
    no_logprobs          no log probabilities for the prompt
    ignores_schema       its answers keep to no JSON Schema
    calls_no_tool        it talks where it must call a tool
    thinks               its answers end before it has done with thinking
    bad_adapter          500 for its adapters
    nan_logits           the log probability of a token is no number
    keeps_logprobs       400 for log probabilities

Modes of the process:

    never_ready          the engine is up, but the server never listens
    ignores_sigterm      the whole tree does
    setsid_grandchild    the worker leaves the session and outlives everyone
    flood                `flood_mib` MiB of log before it is ready
    stray_child          the server forks a child that leaves the session and outlives everyone
    shared_memory        the worker makes a segment that only its own clean end would remove
    prints_environment   the server prints the variables and arguments it got
"""

import importlib
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[1])
importlib.import_module("fake_vllm.api").main()
