"""What a vLLM log says: how far the server came, its numbers, and what it died of."""

from .diagnosis import Diagnosis, read_log
from .reader import LogReader, cures, diagnose

__all__ = ["Diagnosis", "LogReader", "cures", "diagnose", "read_log"]
