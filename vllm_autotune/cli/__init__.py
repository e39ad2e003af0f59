"""The command line: the only package that knows click, and the only one that exits."""

import sys
import traceback
from contextlib import suppress
from typing import IO, NoReturn, cast

import click

from ..errors import CannotWrite, Refusal
from ..output import Output, prepare_streams, say, shown
from .group import cli

__all__ = ["cli", "main"]


def main() -> NoReturn:
    """Run the command line; every end has its exit code."""
    prepare_streams()
    asked: dict[str, bool] = {}  # where the command's --json says so
    try:
        # click returns the code of what it ends itself (--help), and None from a command
        sys.exit(cli.main(prog_name="autotune", standalone_mode=False, obj=asked) or 0)
    except Refusal as refusal:
        _refuse(refusal, asked.get("json", False))
    except click.ClickException as error:
        error.show(cast("IO[str]", Output(sys.stderr, needed=False)))
        sys.exit(error.exit_code)
    except click.Abort as abort:  # what click makes of a KeyboardInterrupt, such as Interrupted
        sys.exit(getattr(abort.__cause__, "exit_code", 130))
    except OSError as error:
        reason = f"{error.filename or 'output'}: {error.strerror or error}"
        _refuse(CannotWrite(reason, "check the disk and the permissions"), asked.get("json", False))
    except Exception as error:  # noqa: BLE001  Python's own code of 1 would say: it does not fit
        with suppress(OSError):
            traceback.print_exception(error)
        what = f"{type(error).__name__}: {error}".rstrip(": ")
        hint = "please report it, with the lines above and the command"
        _refuse(Refusal(f"this is a bug in autotune ({what})", hint), asked.get("json", False))


def _refuse(refusal: Refusal, as_json: bool) -> NoReturn:
    from ..console.screen import Screen  # noqa: PLC0415  --help is quick without

    if as_json:
        from ..report.codec import dump  # noqa: PLC0415
        from ..report.report import Refused  # noqa: PLC0415

        refused = Refused(reason=shown(refusal.message), hint=shown(refusal.hint))
        with suppress(OSError):  # it may be what cannot be written to that is refused
            say(dump(refused, indent=2))
    Screen().refuse(refusal)
    Output(sys.stdout, needed=False).flush()  # else Python fails on it, and changes the exit code
    sys.exit(refusal.exit_code)
