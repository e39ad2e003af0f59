"""What the model is, from its `config.json` and the headers of its weight files."""

from .checkpoint import FLOATS, Checkpoint, read_checkpoint

__all__ = ["FLOATS", "Checkpoint", "read_checkpoint"]
