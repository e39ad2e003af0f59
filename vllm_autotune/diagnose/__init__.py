"""What a vLLM log says: how far the server got, its numbers, and why it failed."""

from .diagnosis import Diagnosis, read_log
from .reader import LogReader
from .signatures import cures

__all__ = ["Diagnosis", "LogReader", "cures", "read_log"]
