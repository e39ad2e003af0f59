"""Requests to a running server, and what it shows of itself. The only package that knows HTTP."""
