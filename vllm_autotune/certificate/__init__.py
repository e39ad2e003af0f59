"""The stability certificate: what a server must survive to be called stable."""

from .certify import certify
from .items import missing_items
from .own_requests import fingerprint, read_requests

__all__ = ["certify", "fingerprint", "missing_items", "read_requests"]
