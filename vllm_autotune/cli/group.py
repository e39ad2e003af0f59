"""The command itself: what it means without a subcommand, and where its settings come from."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .. import __version__
from .options import FOREVER

if TYPE_CHECKING:
    from .settings import Takes


class TuneByDefault(click.Group):
    """`autotune --model M` means `autotune tune --model M`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Insert `tune` where the first word is an option that is not the group's own."""
        if args and args[0].startswith("-") and args[0] not in ("-h", "--help", "--version"):
            args = ["tune", *args]
        return super().parse_args(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        """Complete the options of `tune` as well."""
        found = super().shell_complete(ctx, incomplete)
        if incomplete.startswith("-"):
            tune = self.commands["tune"]
            found += tune.shell_complete(click.Context(tune, parent=ctx), incomplete)
        return found


@click.group(
    cls=TuneByDefault,
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
    from .settings import read_settings  # noqa: PLC0415

    params = cli.commands["tune"].params
    options = {flag.strip("-"): param for param in params for flag in param.opts}
    found = read_settings(Path("autotune.toml"), {n: _takes(p) for n, p in options.items()})
    if isinstance(found.get("wait"), bool):
        found["wait"] = FOREVER if found["wait"] else None
    values = {str(options[name].name): value for name, value in found.items()}
    commands, cache = dict.fromkeys(cli.commands, values), cli.commands["cache"]
    assert isinstance(cache, click.Group)
    ctx.default_map = {**commands, "cache": dict.fromkeys(cache.commands, values)}


def _takes(param: click.Parameter) -> "Takes":
    """Return how many values an option takes."""
    if param.nargs == -1:
        return "words"
    if param.multiple:
        return "several"
    if getattr(param, "is_flag", False):
        return "nothing"
    return "one or nothing" if param.name == "wait" else "one"
