"""How long a test waits, so that a busy or slow machine changes no verdict."""

LATEST = 90.0
"""Seconds in which what must happen has happened; only a broken test waits so long."""

SOON = 15.0
"""Seconds that count as at once, next to what would otherwise take `LATEST` or more."""
