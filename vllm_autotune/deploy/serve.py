"""Replace this process by the server of a winner."""

import os
from collections.abc import Sequence
from typing import NoReturn

from ..errors import NoEngine
from ..machine.device import visible_environment
from ..report.report import Winner
from ..search.facts import Facts
from ..tuning.gather import arguments
from ..vllm.config import LaunchConfig
from ..vllm.credentials import is_credential
from ..vllm.engine import Engine
from ..vllm.flags import SERVING


def serving_flags(fixed: Sequence[str], engine: Engine) -> list[str]:
    """Return the user's arguments that a report leaves out: host, port, keys and the like."""
    args = arguments(fixed, engine)
    kept = {n: v for n, v in args.items() if n in SERVING or is_credential(n, v)}
    return LaunchConfig("", kept).flags()


def start_server(winner: Winner, facts: Facts, flags: Sequence[str]) -> NoReturn:
    """Start the winner's server in the place of this process, or raise NoEngine."""
    devices = facts.used(LaunchConfig(winner.model, winner.args))
    env = {**os.environ, **visible_environment(list(devices)), **winner.env}
    argv = [*winner.argv, *flags]
    try:
        os.execvpe(argv[0], argv, env)
    except OSError as error:
        reason = f"`{argv[0]}` cannot be started: {error.strerror}"
        raise NoEngine(reason, "tune again with --refresh") from error
