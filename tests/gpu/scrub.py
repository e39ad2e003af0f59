"""Make what a GPU machine left fit for a repository: short, and without its paths and names."""

import re
import socket
from pathlib import Path

# A log's beginning and end hold what a verdict rests on.
HEAD, TAIL = 160, 240


def trimmed(text: str) -> str:
    """Return a log with the first and last state of each progress bar, its middle left out."""
    lines = []
    for line in text.split("\n"):
        states = [state for state in line.split("\r") if state.strip()]
        lines.append("\r".join(dict.fromkeys((states[0], states[-1]))) if states else "")
    if len(lines) > HEAD + TAIL:
        left_out = len(lines) - HEAD - TAIL
        lines = [*lines[:HEAD], f"[... {left_out} lines left out ...]", *lines[-TAIL:]]
    return "\n".join(lines).rstrip() + "\n"


def scrubbed(text: str, models: str) -> str:
    """Return text without paths, names and addresses of the machine; models lie in /models."""
    text = re.sub(rf"{re.escape(models)}/[\w.-]+/", "/models/", text)
    text = re.sub(r"/[\w./-]+/(?:site-packages|dist-packages|site)/", "/site-packages/", text)
    text = re.sub(r"/[\w./-]+/lib/(python3\.\d+)/(?!site-packages)", r"/usr/lib/\1/", text)
    text = re.sub(r"/[\w./-]+/bin/python3?[\d.]*", "/usr/bin/python3", text)
    text = text.replace(f"{Path.home()}/", "/home/user/")
    if re.search(r"\d", host := socket.gethostname()):  # a plain word may mean something else
        text = re.sub(rf"\b{re.escape(host)}\b", "host", text)
    return re.sub(r"\b(?!127\.0\.0\.1\b|0\.0\.0\.0\b)(?:\d{1,3}\.){3}\d{1,3}\b", "10.0.0.1", text)
