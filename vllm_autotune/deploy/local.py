"""The winner for the machine it was found on: a shell, vLLM's configuration file, systemd."""

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..errors import BadReport
from ..vllm.config import LaunchConfig, Value
from .winner import STOP_SECONDS, environment, name_of, winner_of, written

if TYPE_CHECKING:
    from ..report.report import Report

UNIT = """\
# {proven}.
# It runs as root: add User= for somebody who may read the model.
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
    """Return the line to paste into a shell."""
    variables = [f"{name}={shlex.quote(value)}" for name, value in env.items()]
    return " ".join([*variables, shlex.join(argv)])


def shell(report: "Report") -> str:
    """Return the line that starts the winner."""
    return command_line(winner_of(report).argv, environment(report))


def env(report: "Report") -> str:
    """Return the variables, a line each, as `docker run --env-file` and systemd read them alike.

    Docker takes what follows the `=` as it is; systemd's EnvironmentFile= takes away blanks at
    the ends, quotes at the front and backslashes anywhere (systemd.exec(5)).

    Raises BadReport for a value that the two would read differently.
    """
    variables = environment(report)
    for name, value in variables.items():
        if not value.isprintable() or value != value.strip() or re.search(r"^[\"']|\\", value):
            raise BadReport(
                f"{name}={written(value)}: docker and systemd would not read this line alike",
                "render it with --as docker or --as systemd, which quote it",
            )
    lines = [f"{name}={value}" for name, value in variables.items()]
    return "\n".join(lines or ["# the winner needs no variables"])


def vllm_config(report: "Report") -> str:
    """Return the file for `vllm serve --config FILE.yaml`.

    vLLM reads YAML: `true` as a flag alone, a list as several words, all else as one word
    (`load_config_file` in utils/argparse_utils.py, 0.32; older ones drop what is `false`).
    """
    winner = winner_of(report)
    lines = [f"# {name}={written(value)}" for name, value in environment(report).items()]
    if lines:
        lines.insert(0, "# A file like this sets no variables; the server needs:")
    lines.append(f"model: {written(winner.model)}")
    for name, value in LaunchConfig(winner.model, winner.args).args.items():
        lines.append(_yaml(name, value))
    return "\n".join(lines)


def _yaml(name: str, value: Value) -> str:
    if value is False:
        return f"no-{name}: true"
    return f"{name}: {'true' if value == () else written(value)}"


def systemd(report: "Report") -> str:
    """Return the unit of a service that starts the winner."""
    winner = winner_of(report)
    program, *words = winner.argv
    variables = environment(report).items()
    where = f"{winner.valid_for.count} x {winner.valid_for.device}"
    return UNIT.format(
        proven=written(f"{winner.model}, proven on {where} with vLLM {report.versions.vllm}")[1:-1],
        name=name_of(report),
        environment="".join(f"Environment={_word(f'{n}={v}')}\n" for n, v in variables),
        command=" ".join([_word(program), *(_word(word.replace("$", "$$")) for word in words)]),
        stop=STOP_SECONDS,
    )


def _word(text: str) -> str:
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
