"""One line of a vLLM log: its noise, the process that wrote it, its level and its message."""

import re

MAX_EXCERPT = 600  # characters

_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]_][^\x07\x1b\n]*(?:\x07|\x1b\\)|[@-Z\\^])")
# The same as syslog, `cat -v` and JSON write it, or where only the rest of the code was copied.
_WRITTEN_ANSI = re.compile(
    r"(?:#033|\^\[|\\x1b|\\u001b|\u241b)\[[0-?]*[ -/]*[@-~]|"
    r"\[(?:0|1|3\d|9\d|[01];\d{1,2})(?:;\d{1,3})*m"
)
_RESETS = ("[0m", "[0;0m")  # text in colours has at least one of them
# A tqdm bar begins with `\r` and ends without a newline: `Loading:  50%|##  | 1/2 [00:01<00:01]`.
_BAR = re.compile(r"\d{1,3}%[^|]{0,20}\|[^\[]{0,400}\[[\d:]+[^\]]{0,100}\]")
_OWNER = r"\((?:APIServer|EngineCore|VllmWorker|Worker)\w{0,30}[^()]{0,30} pid=\d+\)"
_TWO_OWNERS = re.compile(r"\([^()]{1,60} pid=\d+\) \([^()]{1,60} pid=\d+\) ")
# Where another process's line begins. Python writes a prefix and its text apart, so it can begin
# inside a line; the rest of that line then follows on the next one.
_INTRUDER = re.compile(
    rf"{_OWNER} |(?:DEBUG|INFO|WARNING|ERROR) \d\d-\d\d \d\d:\d\d:\d\d|INFO:     "
)
_PREFIX = re.compile(
    r"\s*(?:\(?\b[^()]{1,60}\bpid=\d+[^()]{0,40}\)|\[rank\d+\]:?|(?:\^C)+|"
    r"(?:DEBUG|INFO|WARNING|ERROR|CRITICAL)\b(?:: +| +\d\d-\d\d \d\d:\d\d:\d\d| *\|)?|"
    r"\[?[\w./-]+\.(?:py|cpp|cu):\d+\]|\[[\w./-]+:\d+\]|\[[A-Z]\d{3,4} [\d:.]+ [\w.]+:\d+\])"
)
_OTHER_RANK = re.compile(
    r"\((?:Vllm)?Worker\w{0,30}?(?:[TP]P[1-9]|[^()]{0,20}rank=[1-9])|\[rank[1-9]\d*\]"
)
_LEVEL = re.compile(r"\b(?:DEBUG|INFO|WARNING|ERROR|CRITICAL)\b")
_NAME = (
    r"(?:[A-Za-z_]\w*\.)*(?:[A-Z]\w*(?:Error|Exception|Interrupt|Exit|Fault|Timeout)|Exception|"
    r"[a-z]\w+[A-Z]\w*Error)(?::|$|\(['\"])"
)
_EXCEPTION = re.compile(_NAME)
# Where something of vLLM's or of a traceback begins, at the start of a line or behind a prefix.
BEGINNING = re.compile(
    r"(?:^|(?<=[\s|>:=\]~]))(?:"
    r"\((?:APIServer|EngineCore|Vllm|Worker|RayWorker)[^()]{0,60}pid=\d+[^()]{0,40}\)|"
    r"(?:DEBUG|INFO|WARNING|ERROR|CRITICAL) \d\d-\d\d \d\d:\d\d:\d\d|INFO:     |\[rank\d+\]:|"
    r'Traceback \(most recent call last\):|(?:  )?File "[^"]+", line \d|Process \S+:$|'
    + _NAME
    + ")"
)
# These only report that another process failed.
_WRAPPER = re.compile(
    r"Engine core initialization failed|Engine process failed to start|EngineCore failed to start|"
    r"WorkerProc (?:failed to start|hit an exception|initialization failed)|Error in inspecting|"
    r"Worker failed with error|EngineDeadError|EngineCore encountered|Error raised in subprocess|"
    r"^ray\.exceptions\.RayTaskError|ActorDiedError|EOFError|Error in model execution|"
    r"ProcessRaisedException|BrokenPipeError|ConnectionResetError|"
    r"KeyboardInterrupt|SystemExit|CancelledError|RuntimeError: cancelled"
)
# Lines that quote a user's request: an error in it is not the server's.
_QUOTING = re.compile(
    r"Received request|Generated response|prompt: |"
    r'"(?:GET|POST|PUT|DELETE|HEAD|OPTIONS|PATCH) '
)
# The modules that serve one request: what fails there, the server survives.
_OF_REQUEST = re.compile(
    r"[\[ ](?:serving\w*|api_utils|chat_utils|preprocess|protocol|entrypoints/\S+)\.py:\d+\]|"
    r"Exception in ASGI application|Dumping input data for V"
)
# A request was answered, or is being answered.
_LIFE = re.compile(
    r'"(?:GET|POST) (?!/metrics)[^"]*" 200 OK|generation throughput: (?!0\.0 )[\d.]+ '
)
# What compilers, drivers and runtimes print, before or instead of an exception.
_NATIVE = re.compile(
    r"\b(?:fatal|FATAL)\b|\berror *:|\bERROR\b|\bWARN\b.*\bfail|[Aa]ssertion .*failed|"
    r"\bcannot find\b|\bnot supported\b"
)
# An error line of any program, vLLM or not, with any prefix.
_ERROR = re.compile(r"\bERROR\b|(?:\berror|Error|Exception)(?:(?: [^:]{1,60})?:|$)")


def begins(line: str) -> bool:
    """Tell whether something begins with this line, so that it is not the rest of the one above."""
    return BEGINNING.match(line) is not None


def excerpt(line: str) -> str:
    return line[:MAX_EXCERPT].strip()


def without_ansi(text: str) -> str:
    """Remove what a terminal would not show, however its escape character was written."""
    if "\x1b" in text:
        text = _ANSI.sub("", text)
    return _WRITTEN_ANSI.sub("", text) if any(reset in text for reset in _RESETS) else text


def without_progress_bars(line: str) -> str:
    first, *others = line.split("\r")
    return first + "".join(
        part[bar.end() :] if (bar := _BAR.search(part)) else part for part in others
    )


def may_be_torn(line: str) -> bool:
    """Tell cheaply whether another process may have written into this line."""
    last = line.rfind(" pid=")
    if last > 20:
        lead = _TWO_OWNERS.match(line)
        if not lead or lead.end() < last:
            return True
    return line.rfind("INFO:     ") > 26


def split_torn(line: str) -> list[str]:
    """Split a line where other processes' lines begin in it; one part if none does."""
    starts = [0]
    for found in _INTRUDER.finditer(line):
        if message(line[starts[-1] : found.start()]).strip():
            starts.append(found.start())
    return [line[a:b] for a, b in zip(starts, [*starts[1:], len(line)], strict=True)]


def message(line: str) -> str:
    """Return the line without process, level, date and source file in front; indentation stays."""
    end = 0
    while found := _PREFIX.match(line, end):
        end = found.end()
    return line[end + 1 :] if end and line[end : end + 1] == " " else line[end:]


def level(lead: str) -> str | None:
    """Return the last log level named in `lead`, None for a raw line."""
    found = _LEVEL.findall(lead)
    return found[-1] if found else None


def quotes_request(lead: str) -> bool:
    """Tell whether what follows `lead` is text from a user's request."""
    return bool(_QUOTING.search(lead))


def is_of_engine(line: str) -> bool:
    """Tell whether an engine or a worker wrote the line: the configuration was read before."""
    return line.startswith(("(EngineCore", "(Worker", "(VllmWorker"))


def is_other_rank(line: str) -> bool:
    """Tell whether a worker other than the first of its group wrote the line."""
    return bool(_OTHER_RANK.search(line))


def is_of_request(line: str) -> bool:
    return bool(_OF_REQUEST.search(line)) and " INFO " not in line  # api_utils has the banner


def shows_life(text: str) -> bool:
    """Tell whether the server has answered a request, by one of these lines."""
    return bool(_LIFE.search(text))


def is_native_error(text: str) -> bool:
    """Tell whether a message without prefixes is an error, though no exception of Python's."""
    return bool(_NATIVE.search(text)) and not _WRAPPER.search(text)


def is_error(line: str) -> bool:
    return bool(_ERROR.search(line)) and not quotes_request(line)


def is_wrapper(line: str) -> bool:
    """Tell whether the line only reports that another process failed."""
    return bool(_WRAPPER.search(line))


def is_exception(line: str) -> bool:
    """Tell whether the line is an exception of its own, not a wrapper or one vLLM survived."""
    text = message(line)
    return (
        _EXCEPTION.match(text) is not None
        and level(line[: len(line) - len(text)]) in (None, "ERROR", "CRITICAL")
        and not _WRAPPER.search(line)
    )
