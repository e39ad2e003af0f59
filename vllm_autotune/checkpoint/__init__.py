"""What the model is, from its `config.json` and the headers of its weight files."""

from .checkpoint import Checkpoint, Sibling, read_checkpoint

__all__ = ["Checkpoint", "Sibling", "read_checkpoint"]
