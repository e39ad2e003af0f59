"""The winner for the machine it was found on: a shell, vLLM's configuration file, systemd."""

import re

from ..command_line import command_line, escaped
from ..errors import BadReport, BadUsage
from ..vllm.config import LaunchConfig, Value
from .service import KEY_VARIABLE, STOP_SECONDS, Service, as_json
from .yaml_text import write_yaml

UNIT = """\
# {proven}.
{notes}# Runs as root: add User= with an account that may read the model.
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


def shell(service: Service) -> str:
    """Write the line to paste into a shell, below what is to be known of it."""
    line = command_line(service.argv, service.environment)
    if name := service.key_variable("shell"):
        line = f'{KEY_VARIABLE}="${{{name}:?}}" {line}'
    return "\n".join((*_comments(service), line))


def _comments(service: Service) -> list[str]:
    return [f"# {note}" for note in service.notes()]


def env(service: Service) -> str:
    """Write the variables, a line each, as `docker run --env-file` and systemd read them alike.

    Docker takes what follows the `=` as it is; systemd's EnvironmentFile= takes away blanks at
    the ends, quotes at the front and backslashes anywhere (systemd.exec(5)). Raises BadReport for
    a value that the two would read differently.
    """
    if service.key is not None:
        hint = "give the server its key beside the file, in a variable VLLM_API_KEY"
        raise BadUsage("--as env: a file of variables cannot name where a key comes from", hint)
    variables = service.environment
    for name, value in variables.items():
        if not value.isprintable() or value != value.strip() or re.search(r"^[\"']|\\", value):
            reason = f"docker and systemd would read {name}={as_json(value)} differently"
            raise BadReport(reason, "use --as docker or --as systemd, which quote it")
    lines = [f"{name}={value}" for name, value in variables.items()]
    nothing = ["# the winner needs no environment variables"]
    return "\n".join((*_comments(service), *(lines or nothing)))


def vllm_config(service: Service) -> str:
    """Write the file for `vllm serve --config FILE.yaml`.

    vLLM reads YAML: `true` as a flag alone, a list as several words, all else as one word
    (`load_config_file` in utils/argparse_utils.py, 0.32; older ones drop what is `false`).
    """
    winner = service.winner
    lines = [f"{name}={as_json(value)}" for name, value in service.environment.items()]
    if name := service.key_variable("vllm-config"):
        lines.append(f"{KEY_VARIABLE}, from {name}")
    if lines:
        lines.insert(0, "This file cannot set environment variables; the server needs these:")
    args = {**LaunchConfig(winner.model, winner.args).args, **service.added}
    settings = dict(_entry(name, value) for name, value in args.items())
    comments = (*service.proof, *service.notes(), *lines)
    return write_yaml({"model": winner.model, **settings}, comments=comments)


def _entry(name: str, value: Value) -> tuple[str, Value | list[str]]:
    if value is False:
        return f"no-{name}", True
    if isinstance(value, tuple):
        return name, list(value) or True
    return name, value


def systemd(service: Service) -> str:
    """Write a unit. A key can come only from the variable that vLLM reads: systemd renames none."""
    winner, vllm = service.winner, service.report.versions.vllm
    program, *words = service.argv
    environment = [
        f"Environment={systemd_word(f'{n}={v}')}" for n, v in service.environment.items()
    ]
    if name := service.key_variable("systemd"):
        if name != KEY_VARIABLE:
            hint = f"use --api-key-from env:{KEY_VARIABLE}"
            raise BadUsage(f"systemd cannot hand {name} on as {KEY_VARIABLE}", hint)
        environment.append(f"PassEnvironment={name}")
    where = f"{winner.valid_for.count} x {winner.valid_for.device}"
    return UNIT.format(
        proven=as_json(f"{winner.model}, proven on {where} with vLLM {vllm}")[1:-1],
        notes="".join(f"{line}\n" for line in _comments(service)),
        name=service.name,
        environment="".join(f"{line}\n" for line in environment),
        command=" ".join(
            [systemd_word(program), *(systemd_word(word, expanded=True) for word in words)]
        ),
        stop=STOP_SECONDS,
    )


def systemd_word(text: str, *, expanded: bool = False) -> str:
    """Quote a word for a unit file, where `%` begins a specifier (systemd.syntax(7)).

    `$` begins a variable only where words are `expanded`: in the arguments of ExecStart=, not in
    Environment= nor in the path of the program (systemd.service(5), systemd.exec(5)).
    """
    text = text.replace("%", "%%").replace("$", "$$" if expanded else "$")
    if re.fullmatch(r"[\w@%+=:,./${}-]+", text, re.ASCII):
        return text
    text = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{"".join(c if c.isprintable() else escaped(c) for c in text)}"'
