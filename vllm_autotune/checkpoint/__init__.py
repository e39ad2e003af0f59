"""What the model is, from its `config.json` and the headers of its weight files."""

from .checkpoint import Checkpoint, read_checkpoint

__all__ = ["Checkpoint", "read_checkpoint"]
