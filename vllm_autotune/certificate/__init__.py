"""The stability certificate: what a server must survive to be called stable."""

from .certify import certify
from .own_requests import fingerprint, read_requests

__all__ = ["certify", "fingerprint", "read_requests"]
