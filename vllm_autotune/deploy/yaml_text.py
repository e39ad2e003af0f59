"""YAML as people write it: comments on top, plain words where they are safe, quotes elsewhere."""

import re
from collections.abc import Iterable
from typing import Any

import yaml

# Never taken for anything but text: YAML 1.1 (Kubernetes, Helm) and 1.2 differ in the rest.
PLAIN = re.compile(r"(?:--?)?[A-Za-z/](?:[\w./@:+-]*[\w/])?|\d+(?:s|Gi)", re.ASCII)
WORDS = re.compile(r"(?:y|n|yes|no|on|off|true|false|null|nan|inf|infinity)", re.IGNORECASE)


class Block(str):
    """A text of whole lines, to be written as it is where all of it can be printed."""

    __slots__ = ()


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, _: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        del indentless  # the items of a list are indented
        super().increase_indent(flow, False)


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    if PLAIN.fullmatch(text) and not WORDS.fullmatch(text):
        style = None
    elif isinstance(text, Block) and all(
        line.isprintable() and line == line.rstrip() for line in text.split("\n")
    ):
        style = "|"
    else:
        style = '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)
_Dumper.add_representer(Block, _text)


def write_yaml(*documents: Any, comments: Iterable[str] = ()) -> str:
    """Write documents below comments, without a line end after the last line."""
    texts = [
        yaml.dump(
            document,
            Dumper=_Dumper,
            allow_unicode=True,
            sort_keys=False,
            width=2**31,
            default_flow_style=False,
        )
        for document in documents
    ]
    text = "---\n".join(texts).removesuffix("\n")
    # What cannot be printed, and PyYAML leaves as it is, can only be within double quotes.
    printable = (
        c
        if c.isprintable() or c == "\n"
        else f"\\u{ord(c):04x}"
        if c <= "\uffff"
        else f"\\U{ord(c):08x}"
        for c in text
    )
    lines = [f"# {comment}".rstrip() for comment in comments]
    return "\n".join((*lines, "".join(printable)))
