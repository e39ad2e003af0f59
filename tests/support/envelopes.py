"""What people's logs have around their lines: each wraps a text as its collector would."""

import json
import re
import textwrap
from collections.abc import Callable, Mapping
from functools import partial

_SECONDS = 60


def _each(template: str, text: str) -> str:
    """Put a prefix before every line; `{s}` is a second that goes on, `{n}` the line's number."""
    lines = text.removesuffix("\n").split("\n")
    return "".join(
        template.format(s=f"{number // 7 % _SECONDS:02}", n=number + 1) + line + "\n"
        for number, line in enumerate(lines)
    )


def _ends(end: str, text: str) -> str:
    return text.replace("\r\n", "\n").replace("\n", end)


def _docker_json(text: str) -> str:
    return "".join(
        json.dumps({"log": line, "stream": "stderr", "time": "2026-01-02T03:04:05.000000001Z"})
        + "\n"
        for line in text.splitlines(keepends=True)
    )


def _fluent_json(text: str) -> str:
    pod = {"pod_name": "vllm-0", "container_name": "vllm"}
    return "".join(
        json.dumps({"@timestamp": "2026-01-02T03:04:05Z", "message": line, "kubernetes": pod})
        + "\n"
        for line in text.split("\n")
        if line
    )


def _wrapped(width: int, text: str) -> str:
    rows = []
    for line in text.split("\n"):
        plain = line if "\r" not in line else line.replace("\r", " ")
        rows += [plain[at : at + width] for at in range(0, len(plain), width)] or [""]
    return "\n".join(rows)


_STAMPED = re.compile(
    r"(?P<owner>\([^()\n]{1,60} pid=\d+\) )?(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL) "
    r"\d\d-\d\d \d\d:\d\d:\d\d \[?(?P<file>[\w./-]+):\d+\] ?(?P<message>.*)"
)


def _reformatted(form: Callable[[re.Match[str]], str], text: str) -> str:
    """Write what vLLM's logger wrote in another format; what others wrote stays."""
    found = ((_STAMPED.match(line), line) for line in text.split("\n"))
    return "\n".join(form(stamped) if stamped else line for stamped, line in found)


def _logged_json(line: re.Match[str]) -> str:
    return (line["owner"] or "") + json.dumps(
        {"asctime": "2026-01-02 03:04:05,801", "levelname": line["level"], "name": "vllm.x",
         "message": line["message"]}
    )  # fmt: skip


def _without_indentation(text: str) -> str:
    return "\n".join(line.lstrip(" ") for line in text.split("\n"))


ENVELOPES: Mapping[str, Callable[[str], str]] = {
    **{
        name: partial(_each, template)
        for name, template in {
            "compose": "server-1  | ",
            "compose in colours": "\x1b[36mserver-1  | \x1b[0m",
            "brackets and a bar": "[llm]     | ",
            "foreman": "03:04:{s} web.1  | ",
            "pm2": "0|vllm  | ",
            "docker -t": "2026-01-02T03:04:{s}.123456789Z ",
            "timestamp and offset": "2026-01-02T03:04:{s}.123+02:00 ",
            "Buildkite": "[2026-01-02T03:04:{s}Z] ",
            "CRI": "2026-01-02T03:04:{s}.000000001Z stdout F ",
            "kubectl --prefix": "[pod/vllm-7f6b8c9d4-abcde/vllm] ",
            "kubectl --prefix --timestamps": "[pod/vllm-0/vllm] 2026-01-02T03:04:{s}.1Z ",
            "stern": "vllm-7f6b8c9d4-abcde vllm ",
            "journald": "Jan 02 03:04:{s} node-a vllm[101]: ",
            "journalctl -o short-iso": "2026-01-02T03:04:{s}+0100 node-a vllm[101]: ",
            "syslog": "<30>Jan  2 03:04:{s} node-a vllm[101]: ",
            "RFC 5424": "<30>1 2026-01-02T03:04:{s}.123Z node-a vllm 101 - - ",
            "Ray actor": "(ServeReplica:llm:Deployment pid=101, ip=192.0.2.1) ",
            "srun --label": "0: ",
            "numbered": "{n}: ",
            "quoted": "> ",
            "quoted twice": "> > ",
            "GitHub Actions": "build\tRun vllm\t2026-01-02T03:04:{s}.1234567Z ",
            "CloudWatch": "2026-01-02T03:04:{s}.000Z\t",
            "CloudWatch in milliseconds": "17673218{s}000 ",
            "aws logs tail": "2026-01-02T03:04:{s}.123000+00:00 vllm/vllm/0123456789abcdef ",
            "Loki": '2026-01-02T03:04:{s}Z {{app="vllm", pod="vllm-0"}} ',
            "indented": "    ",
            "tab": "\t",
            "own format": "[2026-01-02 03:04:{s},801] [MainThread] [serve.runner] >>> ",
            "own format, unlike any": "host7 ~ <vllm-main> #{n} ~ ",
            "logfmt": "time=03:04:{s} level=info msg=",
            "fly.io": "2026-01-02T03:04:{s}Z app[148e21] ams [info]",
            "a time and a bar": "03:04:{s}.123 | ",
            "a level that never changes": "2026-01-02 03:04:{s}.123 | info | abc123 | ",
            "SkyPilot": "(worker1, rank=1, pid=2150, ip=192.0.2.1) ",
            "compose around CRI": "server-1  | 2026-01-02T03:04:{s}.000000001Z stderr F ",
        }.items()
    },
    "Windows": partial(_ends, "\r\n"),
    "Docker's JSON": _docker_json,
    "a collector's JSON": _fluent_json,
    "wrapped at 100": partial(_wrapped, 100),
    "wrapped at 132": partial(_wrapped, 132),
    "vLLM's JSON": partial(_reformatted, _logged_json),
    "a format with dashes": partial(
        _reformatted,
        lambda m: (
            f"{m['owner'] or ''}2026-01-02 03:04:05,801 - vllm.x - {m['level']} - {m['message']}"
        ),
    ),
    "a format with bars": partial(
        _reformatted,
        lambda m: f"{m['owner'] or ''}{m['level']:8} | 03:04:05 | {m['file']} | {m['message']}",
    ),
    "no indentation": _without_indentation,
    "in a block": lambda text: textwrap.indent(text, "  "),
    "in a fence": lambda text: f"```\n{text}\n```\n",
}
