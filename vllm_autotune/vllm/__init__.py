"""What is known of vLLM: launch configurations, flags, versions, what cards it serves on."""
