"""The files of this machine that a server elsewhere must see."""

import re

from .service import Service

# A path, a LoRA adapter's `name=path`, or one within JSON (a draft model, an adapter).
PATHS = re.compile(r'^(?:[\w.-]+=)?(/.*)|"(?:model|path)": *"(/[^"]+)"', re.DOTALL)
# Arguments whose value looks like a path and is none, or is one that vLLM writes to.
NO_PATHS = re.compile("root-path|served-model-name|.*-dir")


def mounted_paths(service: Service) -> list[str]:
    """Return the paths that a container must see, the model's first."""
    named = [] if service.from_hub else [service.winner.model]
    for name, value in (*service.winner.args.items(), *service.added.items()):
        if not NO_PATHS.fullmatch(name):
            words = value if isinstance(value, tuple) else (str(value),)
            named += [a or b for word in words for a, b in PATHS.findall(word)]
    found: list[str] = []
    for path in map(mounted_path, named):
        if not any(path == seen or path.startswith(f"{seen}/") for seen in found):
            found.append(path)
    return found


def mounted_path(path: str) -> str:
    """Return the folder that a path needs around it."""
    # A snapshot is links to its sister `blobs`; a GGUF file may have other parts beside it.
    if cached := re.match(r"(.*/models--[^/]+)/snapshots(?:/|$)", path):
        return cached[1]
    return path.rpartition("/")[0] or "/" if path.endswith(".gguf") else path.rstrip("/") or "/"
