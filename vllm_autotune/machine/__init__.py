"""What we run on: devices (NVIDIA GPUs, the CPU), known cards, limits on the host's memory."""
