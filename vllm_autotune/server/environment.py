"""The environment that a trial's server gets on top of ours, and what it does not get."""

# What every trial's server is started with. The plan cache would replay other trials' memory;
# without its log nobody knows why a server ended. setproctitle in vLLM's engine and workers wipes
# their environment, and the marker with it, unless SPT_NOENV is set.
TRIAL_ENV = {
    "NO_COLOR": "1",
    "SPT_NOENV": "1",
    "PYTHONUNBUFFERED": "1",
    "VLLM_CONFIGURE_LOGGING": "1",
    "VLLM_LOGGING_LEVEL": "INFO",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "VLLM_ENABLE_STARTUP_PLAN": "0",
}
# And without: the caller's key would lock our own probe out.
UNSET_ENV = ("VLLM_API_KEY", "VLLM_PORT", "VLLM_LOGGING_CONFIG_PATH")
