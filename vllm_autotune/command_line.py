"""A command as a line to paste into a shell."""

import shlex
from collections.abc import Mapping, Sequence


def command_line(argv: Sequence[str], env: Mapping[str, str]) -> str:
    """Write the line to paste into a shell."""
    variables = (f"{name}={quoted(value)}" for name, value in env.items())
    return " ".join((*variables, *map(quoted, argv)))


def quoted(word: str) -> str:
    """Quote a word for a shell; what cannot be printed is written as bash reads it in `$'...'`."""
    if word.isprintable():
        return shlex.quote(word)
    word = word.replace("\\", "\\\\").replace("'", "\\'")
    return f"$'{''.join(c if c.isprintable() else escaped(c) for c in word)}'"


def escaped(character: str) -> str:
    """Return a character as bash and systemd read it within quotes (systemd.syntax(7))."""
    number = ord(character)
    if number < 0x80:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
