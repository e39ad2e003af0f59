"""What stands in front of each line of a log: known formats, and what can be learned of others."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile

from . import lines
from .layer import Piece

_TIME = r"\d\d:\d\d:\d\d(?:[.,]\d{1,9})?"
_STAMP = rf"\d{{4}}-\d\d-\d\d[T ]{_TIME}(?: ?(?:Z|UTC|[+-]\d\d:?\d\d))?"
_LEVEL = r"(?:TRACE|DEBUG|INFO|WARN|WARNING|ERROR|CRITICAL|FATAL)\b"
_NAME = r"[A-Za-z0-9][\w.-]{0,80}"
# Where a line of vLLM's or of a traceback begins.
_OURS = r"(?:APIServer|EngineCore|Vllm|Worker)"

# Each is what stands in front of a line; `source` says whose line it is.
_FORMATS: tuple[str, ...] = (
    r"(?:> ?)+",  # a quoting mail or issue
    rf"{_STAMP} (?:stdout|stderr) [FP](?: |$)",  # CRI
    rf"(?P<source>(?!{_LEVEL}){_NAME}|\[{_NAME}\]) *\|(?: |$)|"  # compose
    rf"(?=(?P<ended>{_NAME}) exited with code \d)",
    rf"\d+\|(?P<source>{_NAME}) *\|(?: |$)",  # pm2
    rf"{_TIME} (?P<source>{_NAME}) *\|(?: |$)",  # foreman
    rf"\[(?:pod/)?(?P<source>{_NAME}(?:/{_NAME}){{1,2}})\](?: |$)",  # kubectl logs --prefix
    rf"(?:<\d{{1,3}}>)?[A-Z][a-z]{{2}} [ \d]\d {_TIME} (?P<source>[\w.-]+ [^\s:\[]+)"
    r"(?:\[\d+\])?:(?: |$)",  # journald, syslog
    rf"{_STAMP} (?P<source>[\w.-]+ [^\s:\[\]]+)\[\d+\]:(?: |$)",  # journalctl -o short-iso
    rf"<\d{{1,3}}>1 {_STAMP} (?P<source>\S+ \S+) \S+ \S+ (?:-|\[[^\]]*\])(?: |$)",  # RFC 5424
    rf"[^\t\n]{{1,80}}\t[^\t\n]{{1,80}}\t{_STAMP}(?: |$)",  # GitHub Actions
    rf"\ufeff?\[?{_STAMP}\]?(?:[ \t]|$)",  # docker -t, kubectl --timestamps, Buildkite, CloudWatch
    r"\d{13}(?:[ \t]|$)",  # milliseconds since 1970: CloudWatch
    r"\{\w+=\"[^}\n]{0,400}\}(?: |$)",  # Loki
    rf"\((?!{_OURS})[\w.:-]{{1,60}},? pid=\d+(?:, ip=[\w.:]+)?\)(?: |$)",  # Ray, SkyPilot
    rf"(?P<source>{_NAME}-[a-z0-9]+ [a-z0-9][a-z0-9-]*)(?: |$)",  # stern
    rf"\[?{_TIME}\]?(?: *\| ?|[ \t]|$)",
    r" *\d{1,7}(?::(?!\d\d:) ?|[|\t] ?|$)",  # srun --label, grep -n, cat -n
)

_JOINED = re.compile(rf"^({_STAMP} std\w+ )P (.*)\n{_STAMP} std\w+ ([FP]) ?", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Prefix:
    """What stands in front of each line."""

    pattern: re.Pattern[str]

    def share(self, sample: Sequence[str]) -> float:
        return sum(1 for line in sample if self.pattern.match(line)) / len(sample)

    def opened(self, text: str) -> Iterable[Piece]:
        while " P " in text and (joined := _JOINED.sub(r"\1\3 \2", text)) != text:
            text = joined  # CRI cuts long lines into parts
        match, groups = self.pattern.match, self.pattern.groupindex
        if not groups:
            found = ((match(line), line) for line in text.split("\n"))
            yield "", "\n".join(line[m.end() :] if m else line for m, line in found)
            return
        named, ends = groups.get("source"), groups.get("ended")
        level, owner = groups.get("level"), groups.get("owner")
        pieces: dict[str, list[str]] = defaultdict(list)
        source = ""
        for line in text.split("\n"):
            if m := match(line):
                if named:
                    source = m[named] or (ends and m[ends]) or ""
                line = line[m.end() :]  # noqa: PLW2901
                if level and m[level]:
                    line = f"{LEVELS[m[level].upper()]} {line}"  # noqa: PLW2901
                if owner and m[owner]:
                    line = m[owner] + line  # noqa: PLW2901
            pieces[source].append(line)
        for name, inside in pieces.items():
            yield name, "\n".join(inside)


KNOWN = tuple(Prefix(re.compile(pattern)) for pattern in _FORMATS)

LEVELS = {
    **{name: name for name in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")},
    "TRACE": "DEBUG",
    "WARN": "WARNING",
    "FATAL": "CRITICAL",
    "ERR": "ERROR",
}
OWNER = re.compile(rf"\({_OURS}[^()]{{0,60}} pid=\d+[^()]{{0,40}}\) ")
_SERVICE = re.compile(rf"(?<=[\s\]=])(?!\S+\.py )\[?{_NAME}\]? *\| ?$")  # of an inner layer
_WORD = re.compile(r"[^\s:|\[\](){}<>=,;#@\"'~*!?]+")


def learned(sample: Sequence[str]) -> Prefix | None:
    """Learn the prefix that stands before whatever begins with words of vLLM or of Python.

    What is the same in all lines is taken as it is, the rest by its shape.
    """
    sample = [line[owner.end() :] if (owner := OWNER.match(line)) else line for line in sample]
    anchors = [(line, found.start()) for line in sample if (found := lines.BEGINNING.search(line))]
    before = [_SERVICE.sub("", line[:at]) for line, at in anchors if at]
    before = [text for text in before if text]
    if not before or len(before) < 0.6 * len(anchors):
        return None
    shapes = Counter(_WORD.sub("w", text) for text in before)
    patterns = []
    for shape, count in shapes.most_common(4):
        if count < 0.1 * len(before):
            break
        alike = [text for text in before if _WORD.sub("w", text) == shape]
        patterns.append(_pattern_of(shape, [_WORD.findall(text) for text in alike]))
    named = [p for p in patterns if "?P<level>" in p]
    if named:  # a name can be given to one group only
        patterns = [named[0], *(p for p in patterns if "?P<level>" not in p)]
    pattern = re.compile(rf"(?P<owner>{OWNER.pattern})?(?:{'|'.join(patterns)})")
    if named:
        levels = {found["level"] for line in sample if (found := pattern.match(line))}
        if len(levels - {None}) < 2:  # it is the collector's
            pattern = re.compile(pattern.pattern.replace("?P<level>", "?:"))
    return Prefix(pattern)


def indentation(sample: Sequence[str]) -> Prefix | None:
    """Return the blanks that all lines begin with."""
    indent = min(len(line) - len(line.lstrip(" \t")) for line in sample)
    return Prefix(re.compile(rf"[ \t]{{{indent}}}")) if indent else None


def constant(sample: Sequence[str]) -> Prefix | None:
    """Return what all lines begin with, if vLLM does not begin there."""
    first, last = min(sample), max(sample)
    alike = sum(
        1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    )
    same = re.sub(r"\w*$", "", first[:alike]).rstrip()
    if len(sample) < 3 or len(same) < 4 or lines.begins(sample[0]):
        return None
    return Prefix(re.compile(re.escape(same) + "(?: |$)?"))


def _pattern_of(shape: str, words: list[list[str]]) -> str:
    columns = iter(zip(*words, strict=True))
    level_named = False
    parts = []
    *pieces, end = re.split("(w)", shape)
    for part in pieces:
        if part != "w":
            parts.append(re.sub(r"(?:\\ )+", " +", re.escape(part)))
            continue
        column = set(next(columns))
        if not level_named and all(word.upper() in LEVELS for word in column):
            level_named = True
            parts.append(f"(?P<level>{'|'.join(LEVELS)}|{'|'.join(map(str.lower, LEVELS))})")
        elif len(column) == 1 and not re.search(r"\d", "".join(column)):
            parts.append(re.escape(column.pop()))
        else:
            parts.append(_WORD.pattern)
    # What else is blank belongs to the line.
    return "".join((*parts, re.escape(end)))
