"""The command line: the only package that knows click, and the only one that exits."""

import sys
from typing import NoReturn

import click

from ..errors import CannotWrite, Refusal
from ..interruption import Interrupted
from ..output import say
from . import reports, tuning  # noqa: F401  which add their commands
from .group import cli

__all__ = ["cli", "main"]


def main() -> NoReturn:
    """Run the command line; every end has its exit code."""
    asked = {"json": False}
    try:
        cli.main(prog_name="autotune", standalone_mode=False, obj=asked)
        sys.exit(0)
    except Refusal as refusal:
        _refuse(refusal, asked["json"])
    except click.exceptions.Exit as ended:
        sys.exit(ended.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (Interrupted, click.Abort) as signal:  # click puts an Abort in the place of the other
        sys.exit(getattr(signal.__cause__ or signal, "exit_code", 130))
    except OSError as error:
        reason = f"{error.filename or 'output'}: {error.strerror or error}"
        _refuse(CannotWrite(reason, "check the disk and the folder's rights"), asked["json"])


def _refuse(refusal: Refusal, as_json: bool) -> NoReturn:
    from ..console import Screen  # noqa: PLC0415

    if as_json:
        from ..report import Refused  # noqa: PLC0415

        say(Refused(reason=refusal.message, hint=refusal.hint).to_json())
    Screen().refuse(refusal)
    sys.exit(refusal.exit_code)
