"""What a vLLM log says: how far the server came, its numbers, and what it died of."""

from .diagnosis import Diagnosis, read_log
from .reader import LogReader, cures

__all__ = ["Diagnosis", "LogReader", "cures", "read_log"]
