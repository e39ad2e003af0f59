"""The envelope of a log: what a collector, a terminal or a quoting mail put around its lines.

It is recognised for the file as a whole, layer by layer from the outside, and taken off before
anything else looks. Known formats are a table; the shape of an unknown one is learned from the
lines in which something of vLLM or of Python begins.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, takewhile
from typing import Any, Protocol

from . import lines

SAMPLED = 1 << 14  # characters, three times
MAX_LAYERS = 5
MAX_TRIED = 8  # texts without an envelope before a file is taken to have none
MOST = 0.8  # of the lines of a file have a format that is its own
FEW = 0.05  # ... where nothing else looks like it
SOME = 0.6  # ... where what stands before a line of vLLM's tells it
ALL = 0.97  # ... and no line is the rest of one that a terminal wrapped
NARROWEST, WIDEST = 40, 400  # columns of a terminal

Piece = tuple[str, str]  # the source, such as a service of compose, and its text


class Layer(Protocol):
    """One layer of an envelope."""

    def opened(self, text: str) -> Iterable[Piece]:
        """Yield what is inside, by source; `text` is whole lines."""
        ...

    def share(self, sample: Sequence[str]) -> float:
        """Return the share of these lines that this layer is around."""
        ...


# --- prefixes ------------------------------------------------------------------------------------

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
        pieces: dict[str, list[str]] = {}
        source = ""
        for line in text.split("\n"):
            if m := match(line):
                if "source" in groups:
                    source = m["source"] or ("ended" in groups and m["ended"]) or ""
                line = line[m.end() :]  # noqa: PLW2901
                if "level" in groups and m["level"]:
                    line = f"{_LEVELS[m['level'].upper()]} {line}"  # noqa: PLW2901
                if "owner" in groups and m["owner"]:
                    line = m["owner"] + line  # noqa: PLW2901
            pieces.setdefault(source, []).append(line)
        for name, inside in pieces.items():
            yield name, "\n".join(inside)


_KNOWN = tuple(Prefix(re.compile(pattern)) for pattern in _FORMATS)

_LEVELS = {
    **{name: name for name in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")},
    "TRACE": "DEBUG",
    "WARN": "WARNING",
    "FATAL": "CRITICAL",
    "ERR": "ERROR",
}
_OWNER = re.compile(rf"\({_OURS}[^()]{{0,60}} pid=\d+[^()]{{0,40}}\) ")
_SERVICE = re.compile(rf"(?<=[\s\]=])(?!\S+\.py )\[?{_NAME}\]? *\| ?$")  # of an inner layer
_WORD = re.compile(r"[^\s:|\[\](){}<>=,;#@\"'~*!?]+")


def _learned(sample: Sequence[str]) -> Prefix | None:
    """Learn the prefix that stands before whatever begins with words of vLLM or of Python.

    What is the same in all lines is taken as it is, the rest by its shape.
    """
    sample = [line[owner.end() :] if (owner := _OWNER.match(line)) else line for line in sample]
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
    pattern = re.compile(rf"(?P<owner>{_OWNER.pattern})?(?:{'|'.join(patterns)})")
    if named:
        levels = {found["level"] for line in sample if (found := pattern.match(line))}
        if len(levels - {None}) < 2:  # it is the collector's
            pattern = re.compile(pattern.pattern.replace("?P<level>", "?:"))
    return Prefix(pattern)


def _constant(sample: Sequence[str]) -> Prefix | None:
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
        if not level_named and all(word.upper() in _LEVELS for word in column):
            level_named = True
            parts.append(f"(?P<level>{'|'.join(_LEVELS)}|{'|'.join(map(str.lower, _LEVELS))})")
        elif len(column) == 1 and not re.search(r"\d", "".join(column)):
            parts.append(re.escape(column.pop()))
        else:
            parts.append(_WORD.pattern)
    # What else is blank belongs to the line.
    return "".join((*parts, re.escape(end)))


# --- the frame of a window -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Framed:
    """A frame of bars around the lines, padded with blanks."""

    pattern: re.Pattern[str] = re.compile(r"[ \t]*[│┃║|] ?(.*?)[ \t]*[│┃║|][ \t]*")

    def share(self, sample: Sequence[str]) -> float:
        return sum(1 for line in sample if self.pattern.fullmatch(line)) / len(sample)

    def opened(self, text: str) -> Iterable[Piece]:
        found = ((self.pattern.fullmatch(line), line) for line in text.split("\n"))
        yield "", "\n".join(framed[1] if framed else line for framed, line in found)


# --- lines that a terminal wrapped ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wrapped:
    """Lines that a terminal of this many columns cut into several."""

    width: int

    def share(self, sample: Sequence[str]) -> float:
        return float(max(map(len, sample)) <= self.width)

    def opened(self, text: str) -> Iterable[Piece]:
        whole: list[str] = []
        last = 0  # the length of the line above
        for line in text.split("\n"):
            if last in (self.width, self.width - 1) and line and not lines.begins(line):
                whole[-1] += line if last == self.width else f" {line}"
            else:
                whole.append(line)
            last = len(line)
        yield "", "\n".join(whole)


def _wrapped(sample: Sequence[str]) -> Wrapped | None:
    width = max(map(len, sample))
    if not NARROWEST <= width <= WIDEST:
        return None
    below = [after for line, after in pairwise(sample) if len(line) >= width - 1]
    rests = sum(1 for line in below if not lines.begins(line))
    if rests < 2 or rests < 0.7 * len(below) or rests < 0.02 * len(sample):
        return None
    return Wrapped(width)


# --- JSON ----------------------------------------------------------------------------------------

_TEXTS = ("log", "message", "msg", "MESSAGE", "event", "text", "line", "textPayload", "body")
_LEVEL_KEYS = ("levelname", "level", "severity", "lvl", "loglevel")
_TRACES = ("exc_info", "exc_text", "exception", "stack_trace", "traceback", "stacktrace")
_SOURCES = ("container_name", "service", "pod_name", "pod", "container", "_SYSTEMD_UNIT")


@dataclass(frozen=True, slots=True)
class JsonLines:
    """One JSON object a line: of Docker, of a collector, or of vLLM's own logging."""

    def share(self, sample: Sequence[str]) -> float:
        return sum(1 for found in _objects(sample) if _text_in(found) is not None) / len(sample)

    def opened(self, text: str) -> Iterable[Piece]:
        pieces: dict[str, list[str]] = {}
        records = list(filter(None, text.split("\n")))
        for line, found in zip(records, _objects(records), strict=True):
            inside = _text_in(found)
            said = f"{line}\n" if inside is None else _said(found, inside)
            if (owner := line[0] == "(" and _OWNER.match(line)) and found:
                said = f"{owner[0]}{said}"
            pieces.setdefault(_source_of(found), []).append(said)
        for name, said_lines in pieces.items():
            yield name, lines.without_ansi("".join(said_lines)).removesuffix("\n")


def _objects(records: Sequence[str]) -> list[dict[str, Any]]:
    """Return the JSON object in each line, an empty one where there is none."""
    bodies = [_body(line) for line in records]
    told = [body for body in bodies if body]
    try:
        found = json.loads(f"[{','.join(told)}]")  # far faster than each by itself
    except ValueError:
        found = ()
    if len(found) != len(told):
        found = [_object(body) for body in told]
    objects = iter(found)
    return [next(objects) if body else {} for body in bodies]


def _body(line: str) -> str:
    """Return what may be a JSON object in a line, behind the process that wrote it."""
    if not line.endswith("}"):
        return ""
    if line[0] == "(" and (owner := _OWNER.match(line)):
        line = line[owner.end() :]
    return line if line[:1] == "{" else ""


def _object(body: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(body)
    except ValueError:
        return {}
    return found


def _text_in(found: dict[str, Any]) -> str | None:
    for key in _TEXTS:
        if isinstance(text := found.get(key), str):
            return text
    return None


def _source_of(found: dict[str, Any]) -> str:
    pod = found.get("kubernetes")
    if isinstance(pod, dict):
        found = {**found, **pod}
    for key in _SOURCES:
        if isinstance(name := found.get(key), str):
            return name
    return ""


def _said(found: dict[str, Any], inside: str) -> str:
    """Return the text of a record, each line with the level in front."""
    if inside is found.get("log"):  # Docker cuts long lines into several records
        return inside if inside.endswith("\n") or len(inside) >= 1 << 13 else f"{inside}\n"
    names = (found.get(key) for key in _LEVEL_KEYS)
    name = next((name for name in names if isinstance(name, str)), "")
    level = _LEVELS.get(name.upper(), "")
    traces = [found[key] for key in _TRACES if isinstance(found.get(key), str)]
    if not level and not traces:
        return f"{inside.rstrip()}\n"
    said = "\n".join((inside, *traces)).rstrip("\n").split("\n")
    return "".join(f"{line}\n" if lines.begins(line) else f"{level} {line}\n" for line in said)


# --- the envelope --------------------------------------------------------------------------------


@dataclass(slots=True)
class Envelope:
    """What is around the lines of one file: a layer, and what is inside, for each source."""

    depth: int = 0
    layer: Layer | None = None
    inner: dict[str, "Envelope"] = field(default_factory=dict)
    _tried: int = 0  # texts

    def opened(self, text: str) -> Iterator[Piece]:
        """Yield the bare text of each source; `text` is whole lines."""
        if not self.depth:
            text = _without_noise(text)
        sample = _sample(text)
        if sample and not self._fits(sample):
            self.layer, self.inner = _outermost(sample), {}
        if self.layer is None:
            yield "", text
            return
        for source, inside in self.layer.opened(text):
            inner = self.inner.setdefault(source, Envelope(self.depth + 1))
            for name, bare in inner.opened(inside):
                yield f"{source} {name}".strip(), bare

    def _fits(self, sample: Sequence[str]) -> bool:
        """Tell whether what was recognised before is true of this text, too."""
        if self.layer is not None:
            return self.layer.share(sample) > MOST / 2
        self._tried += 1
        return self.depth >= MAX_LAYERS or self._tried > MAX_TRIED


def _outermost(sample: Sequence[str]) -> Layer | None:
    if not sample:
        return None
    indent = min(len(line) - len(line.lstrip(" \t")) for line in sample)
    if indent:
        return Prefix(re.compile(rf"[ \t]{{{indent}}}"))
    if JsonLines().share(sample) >= FEW:
        return JsonLines()
    if Framed().share(sample) >= MOST:
        return Framed()
    best = max(_KNOWN, key=lambda layer: layer.share(sample))
    if best.share(sample) >= ALL:
        return best
    learned = _learned(sample)
    if learned is not None and learned.share(sample) >= ALL:
        return learned
    wrapped = _wrapped(sample)
    if wrapped is not None:
        return wrapped
    if best.share(sample) >= MOST:
        return best
    if learned is not None and learned.share(sample) >= SOME:
        return learned
    return _constant(sample)


def _sample(text: str) -> list[str]:
    """Return lines that are not blank, from the beginning, the middle and the end of a text."""
    if len(text) > 3 * SAMPLED:
        middle = text.find("\n", len(text) // 2) + 1
        text = "\n".join(
            part.rpartition("\n")[0]
            for part in (text[:SAMPLED], text[middle : middle + SAMPLED], text[-SAMPLED:])
        )
    return [line for line in text.split("\n") if line.strip()]


def _without_noise(text: str) -> str:
    if "\r\n" in text:
        text = text.replace("\r\n", "\n")
    return lines.without_ansi(text)
