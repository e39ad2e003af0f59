"""The winner for the machine it was found on: a shell, vLLM's configuration file, systemd."""

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..errors import BadReport
from ..vllm.config import LaunchConfig, Value
from .winner import STOP_SECONDS, environment, server_name, to_yaml, winner_of

if TYPE_CHECKING:
    from ..report.report import Report

UNIT = """\
# {proven}.
# Runs as root: add User= with an account that may read the model.
[Unit]
Description=vLLM server {name}
Wants=network-online.target
After=network-online.target

[Service]
Type=exec
{environment}ExecStart={command}
Restart=on-failure
RestartSec=10
KillMode=mixed
TimeoutStopSec={stop}

[Install]
WantedBy=multi-user.target"""


def command_line(argv: Sequence[str], env: Mapping[str, str]) -> str:
    """Write the line to paste into a shell."""
    variables = [f"{name}={shlex.quote(value)}" for name, value in env.items()]
    return " ".join([*variables, shlex.join(argv)])


def shell(report: "Report") -> str:
    return command_line(winner_of(report).argv, environment(report))


def env(report: "Report") -> str:
    """Write the variables, a line each, as `docker run --env-file` and systemd read them alike.

    Docker takes what follows the `=` as it is; systemd's EnvironmentFile= takes away blanks at
    the ends, quotes at the front and backslashes anywhere (systemd.exec(5)). Raises BadReport for
    a value that the two would read differently.
    """
    variables = environment(report)
    for name, value in variables.items():
        if not value.isprintable() or value != value.strip() or re.search(r"^[\"']|\\", value):
            reason = f"docker and systemd would read {name}={to_yaml(value)} differently"
            raise BadReport(reason, "use --as docker or --as systemd, which quote it")
    lines = [f"{name}={value}" for name, value in variables.items()]
    return "\n".join(lines or ["# the winner needs no environment variables"])


def vllm_config(report: "Report") -> str:
    """Write the file for `vllm serve --config FILE.yaml`.

    vLLM reads YAML: `true` as a flag alone, a list as several words, all else as one word
    (`load_config_file` in utils/argparse_utils.py, 0.32; older ones drop what is `false`).
    """
    winner = winner_of(report)
    lines = [f"# {name}={to_yaml(value)}" for name, value in environment(report).items()]
    if lines:
        lines.insert(0, "# This file cannot set environment variables; the server needs these:")
    settings = {"model": winner.model, **LaunchConfig(winner.model, winner.args).args}
    return "\n".join([*lines, *(_yaml_line(*item) for item in settings.items())])


def _yaml_line(name: str, value: Value) -> str:
    if value is False:
        return f"no-{name}: true"
    return f"{name}: {'true' if value == () else to_yaml(value)}"


def systemd(report: "Report") -> str:
    winner = winner_of(report)
    program, *words = winner.argv
    variables = environment(report).items()
    where = f"{winner.valid_for.count} x {winner.valid_for.device}"
    return UNIT.format(
        proven=to_yaml(f"{winner.model}, proven on {where} with vLLM {report.versions.vllm}")[1:-1],
        name=server_name(report),
        environment="".join(f"Environment={_quoted(f'{n}={v}')}\n" for n, v in variables),
        command=" ".join([_quoted(program), *(_quoted(word.replace("$", "$$")) for word in words)]),
        stop=STOP_SECONDS,
    )


def _quoted(text: str) -> str:
    """Quote a word for a unit file, where `%` begins a specifier (systemd.syntax(7)).

    `$` begins a variable only in the arguments of ExecStart=, not in Environment= nor in the
    path of the program (systemd.service(5), systemd.exec(5)).
    """
    text = text.replace("%", "%%")
    if re.fullmatch(r"[\w@%+=:,./${}-]+", text, re.ASCII):
        return text
    text = text.replace("\\", "\\\\").replace('"', '\\"')
    text = re.sub(r"[\x00-\x1f\x7f]", lambda found: f"\\x{ord(found[0]):02x}", text)
    return f'"{text}"'
