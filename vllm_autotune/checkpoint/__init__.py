"""What the model is, from its `config.json` and the headers of its weight files."""

from .checkpoint import DTYPE_BYTES, Checkpoint, read_checkpoint

__all__ = ["DTYPE_BYTES", "Checkpoint", "read_checkpoint"]
