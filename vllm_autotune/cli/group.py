"""The group of all commands, which imports a command only where it runs."""

import difflib
import os
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from .. import __version__
from ..errors import BadUsage

SETTINGS = Path("autotune.toml")
PREFIX = "AUTOTUNE"
ENVIRONMENT = {"auto_envvar_prefix": PREFIX}
# Variables that are no options: of the locks, and of the marks on what a trial starts.
OTHERS = {"AUTOTUNE_LOCK_DIR", "AUTOTUNE_OWNER", "AUTOTUNE_TRIAL"}
# So alike are the name of an option and one that is mistyped (1 is the same).
ALIKE = 0.85
# The module of each command, and its short help.
COMMANDS = {
    "cache": ("cache", "List, look up, pass on and remove the stored answers."),
    "check": ("check", "Start a report's winner again here, and prove it again."),
    "diagnose": ("show", "Say what went wrong in a vLLM log, and what cures it."),
    "plan": ("plan", "Show the ladder and the estimates; launch nothing."),
    "render": ("show", "Print a report's winner as something to deploy."),
    "schema": ("show", "Print the JSON Schema of what --json prints."),
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
        if not args and os.environ.get(f"{PREFIX}_MODEL"):
            args = ["tune"]
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
    budget is spent, 5 no valid answer is cached, 130/143 interrupted.

    Every option can also be set as AUTOTUNE_<OPTION>, those of tune and plan in autotune.toml.
    """
    _refuse_unknown_variables(ctx.invoked_subcommand or "tune")
    if SETTINGS.exists():
        from .settings import read_settings  # noqa: PLC0415  which brings pydantic

        settings = read_settings(SETTINGS, cli.load("tune").params)
        ctx.default_map = dict.fromkeys(COMMANDS, settings)


def _refuse_unknown_variables(command: str) -> None:
    """Raise BadUsage for a variable that is nearly the name of an option; note any other."""
    found = {name for name in os.environ if name.startswith(f"{PREFIX}_")} - OTHERS
    known: set[str] = set()
    for name in (command, *COMMANDS):  # loading all of them takes a moment
        if not found - known:
            return
        known |= _variables(cli.load(name))
    names = [name.removeprefix(f"{PREFIX}_") for name in known | OTHERS]
    for name in sorted(found - known):
        written = name.removeprefix(f"{PREFIX}_")
        if close := difflib.get_close_matches(written, names, n=1, cutoff=ALIKE):
            hint = f"did you mean `{PREFIX}_{close[0]}`?"
            raise BadUsage(f"there is no option for the variable {name}", hint)
        click.echo(f"the variable {name} is ignored: no option is set by it", err=True)


def _variables(command: click.Command) -> set[str]:
    """Return the variables that set options of a command or of those below it."""
    found = set().union(*map(_variables, getattr(command, "commands", {}).values()))
    for param in command.params:
        given = [param.envvar] if isinstance(param.envvar, str) else param.envvar or ()
        found |= {*given, f"{PREFIX}_{param.name}".upper()}
    return found
