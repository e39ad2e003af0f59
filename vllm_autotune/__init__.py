"""Find, prove and record the first stable vLLM launch configuration for the GPU at hand."""

__version__ = "0.1.0"
