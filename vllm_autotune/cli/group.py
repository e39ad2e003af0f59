"""The group of all commands, which imports a command only where it runs."""

from importlib import import_module
from pathlib import Path
from typing import Any

import click

from .. import __version__

SETTINGS = Path("autotune.toml")
ENVIRONMENT = {"auto_envvar_prefix": "AUTOTUNE"}
# The module of each command, and its short help.
COMMANDS = {
    "cache": ("cache", "List, look up, pass on and remove the stored answers."),
    "check": ("check", "Start a report's winner again here, and prove it again."),
    "diagnose": ("show", "Say what went wrong in a vLLM log, and what cures it."),
    "plan": ("tune", "Show the ladder and the estimates; launch nothing."),
    "render": ("show", "Print a report's winner as something to deploy."),
    "schema": ("show", "Print the JSON Schema of the report, the plan or a diagnosis."),
    "serve": ("tune", "Recall or tune, then run the winning server in the foreground."),
    "show": ("show", "Show a report, or several as a table."),
    "tune": ("tune", "Find (or recall) the first stable configuration."),
}


class LazyGroup(click.Group):
    """Commands that are imported where they run; where none is named, it is `tune`.

    Help, completion and suggestions see stand-ins, which know the short help alone.
    """

    def load(self, name: str) -> Any:
        return getattr(import_module(f".{COMMANDS[name][0]}", __package__), name)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        name, stand_in, rest = super().resolve_command(ctx, args)
        return name, self.load(name) if name else stand_in, rest

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0].startswith("-") and args[0] not in ("-h", "--help", "--version"):
            args = ["tune", *args]
        return super().parse_args(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        found = super().shell_complete(ctx, incomplete)
        if incomplete.startswith("-"):
            tune = self.load("tune")
            found += tune.shell_complete(click.Context(tune, parent=ctx), incomplete)
        return found


@click.group(
    cls=LazyGroup,
    commands={name: click.Command(name, help=text) for name, (_, text) in COMMANDS.items()},
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="autotune")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Find, prove and record the first stable vLLM launch configuration for the GPU at hand.

    `autotune --model M` is `autotune tune --model M`.

    Exit codes: 0 stable (or recalled), 1 it does not fit, 2 usage, 3 the environment, 4 a
    budget is spent, 130/143 interrupted.

    Every option of tune and plan can also be set as AUTOTUNE_<OPTION>, or in autotune.toml.
    """
    if SETTINGS.exists():
        from .settings import read_settings  # noqa: PLC0415  which brings pydantic

        settings = read_settings(SETTINGS, cli.load("tune").params)
        ctx.default_map = dict.fromkeys(COMMANDS, settings)
