"""What a vLLM log says: how far the server got, its numbers, and why it failed."""

from .diagnosis import Diagnosis, Document, FileReader, Server, read_log
from .reader import LogReader
from .signatures import HANGS, LASTING, cures

__all__ = [
    "HANGS",
    "LASTING",
    "Diagnosis",
    "Document",
    "FileReader",
    "LogReader",
    "Server",
    "cures",
    "read_log",
]
