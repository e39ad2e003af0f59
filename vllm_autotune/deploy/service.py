"""A winner as a service: with what belongs to its deployment, which no report has."""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from ..errors import BadReport, BadUsage
from ..machine.device import Device, counted, differ, visible_environment
from ..vllm.config import LaunchConfig, Value, parse_arguments
from ..vllm.credentials import is_credential
from ..vllm.flags import DEPLOYMENT

if TYPE_CHECKING:
    from ..report.report import Report, Winner

# How long a server may take to stop: running requests may finish, then memory is freed.
STOP_SECONDS = 60
PORT = 8000
IMAGE = "vllm/vllm-openai"
# A start takes longer on a busy machine, and a model from the Hub is downloaded first.
LEAST_START_SECONDS = 300
DOWNLOAD_SECONDS = 1800
# What vLLM reads its key from (envs.py, 0.6.6 to 0.33).
KEY_VARIABLE = "VLLM_API_KEY"


@dataclass(frozen=True, slots=True)
class KeySource:
    """Where a deployed server finds its key: a variable, or the key of a Kubernetes secret."""

    kind: Literal["env", "secret"]
    name: str
    key: str = ""

    @classmethod
    def parse(cls, text: str) -> "KeySource":
        """Read `env:NAME` or `secret:NAME/KEY`; a ValueError says what it must be."""
        if found := re.fullmatch(r"env:([A-Za-z_][A-Za-z0-9_]*)", text):
            return cls("env", found[1])
        if found := re.fullmatch(r"secret:([a-z0-9][a-z0-9.-]*)/([A-Za-z0-9._-]+)", text):
            return cls("secret", found[1], found[2])
        raise ValueError("env:NAME or secret:NAME/KEY")


@dataclass(frozen=True, slots=True)
class ModelVolume:
    """The claim of a Kubernetes volume that has the model, and where in it the model lies."""

    claim: str
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> "ModelVolume":
        """Read `pvc:NAME` or `pvc:NAME/PATH`; a ValueError says what it must be."""
        found = re.fullmatch(r"pvc:([a-z0-9](?:[a-z0-9.-]*[a-z0-9])?)(?:/([\w./-]*))?", text)
        if found is None or ".." in (found[2] or "").split("/"):
            raise ValueError("pvc:NAME or pvc:NAME/PATH")
        return cls(found[1], (found[2] or "").strip("/"))


@dataclass(frozen=True, slots=True)
class Service:
    """A report's winner, the arguments `added` for its deployment, and where its key comes from.

    In a cluster the model lies in `volume`, without one on the node or on the Hub. Raises BadReport
    without a winner.
    """

    report: "Report"
    added: Mapping[str, Value] = field(default_factory=dict)
    key: KeySource | None = None
    volume: ModelVolume | None = None

    def __post_init__(self) -> None:
        if self.report.winner is None:
            reason = f"the report has no winner: {self.report.reason}"
            raise BadReport(reason, "there is nothing to deploy from it")

    @property
    def winner(self) -> "Winner":
        assert self.report.winner is not None
        return self.report.winner

    @property
    def added_flags(self) -> list[str]:
        return LaunchConfig("", self.added).flags()

    @property
    def argv(self) -> tuple[str, ...]:
        """The words that start it where it was proven."""
        return (*self.winner.argv, *self.added_flags)

    @property
    def devices(self) -> tuple[Device, ...]:
        return self.report.devices[: self.winner.valid_for.count]

    @property
    def mixed(self) -> bool:
        """Whether its GPUs are of several kinds, so that each has layers of its own."""
        return differ(self.devices)

    @property
    def environment(self) -> dict[str, str]:
        """The winner's variables, and those that select its devices where that is needed."""
        devices = self.devices
        first = [device.index for device in devices] == list(range(len(devices)))
        default = first and not devices[0].mig  # what vLLM takes without being told
        return {**({} if default else visible_environment(devices)), **self.winner.env}

    @property
    def name(self) -> str:
        """A name for the server: a DNS label, as Kubernetes asks for (RFC 1035)."""
        model = self.winner.model
        cached = re.search(r"/models--([^/]+)/snapshots/", model)
        last = cached[1].rpartition("--")[2] if cached else model.rstrip("/").rpartition("/")[2]
        return f"vllm-{re.sub(r'[^a-z0-9]+', '-', last.lower())[:40]}".rstrip("-")

    @property
    def port(self) -> int:
        return LaunchConfig("", self.added).integer("port", PORT)

    @property
    def from_hub(self) -> bool:
        """Whether the model is downloaded; a report has the whole path of a local one."""
        return not self.winner.model.startswith("/")

    @property
    def args(self) -> dict[str, Value]:
        """The arguments of the winner and of its deployment, in the order they are written in."""
        return {**LaunchConfig("", self.winner.args).args, **LaunchConfig("", self.added).args}

    @property
    def arguments(self) -> list[str]:
        """What `vllm` is given to start it."""
        return [
            "serve",
            self.winner.model,
            *LaunchConfig("", self.winner.args).flags(),
            *self.added_flags,
        ]

    @property
    def release(self) -> str:
        """The version of vLLM it was proven with. Raises BadReport for one that has no image."""
        if "uds" in self.added:
            raise BadUsage("a container publishes a port, and --uds opens none", "drop --uds")
        version, reason = self.report.versions.vllm.partition("+")[0], ""
        if self.devices[0].kind == "cpu":
            reason = "the winner was found on a CPU build of vLLM"
        elif not re.fullmatch(r"\d+(\.\d+)+(\.post\d+)?", version):
            reason = f"vLLM {self.report.versions.vllm} is not a release"
        if reason:
            hint = "use --as shell or --as systemd, which start the installed vLLM"
            raise BadReport(f"{reason}: no container image of it is known", hint)
        return version

    @property
    def image(self) -> str:
        return f"{IMAGE}:v{self.release}"

    @property
    def start_seconds(self) -> int:
        """How long a start may take: three times the measured one, and a download."""
        usual = max(LEAST_START_SECONDS, math.ceil(3 * self.winner.startup_seconds))
        return usual + (DOWNLOAD_SECONDS if self.from_hub else 0)

    @property
    def offloaded_gib(self) -> int:
        """How much of the host's memory it takes for weights and KV cache, 0 for none."""
        config, count = LaunchConfig("", self.winner.args), self.winner.valid_for.count
        each = config.cpu_offload_gib + (config.number("swap-space") or 0.0)
        return math.ceil(count * each + (config.number("kv-offloading-size") or 0.0))

    @property
    def proof(self) -> tuple[str, ...]:
        """What was proven, when and on what: lines of text for a person."""
        report, winner = self.report, self.winner
        where = counted(self.devices)
        requests = sum(item.requests for item in winner.certificate.checks)
        served = f"{winner.max_model_len:,} tokens, {winner.max_num_seqs:,} sequences at most"
        lines = (
            f"{winner.model}, proven on {where} with vLLM {report.versions.vllm}",
            f"{served}; {requests:,} requests answered correctly on {report.created_at[:10]}",
        )
        return tuple("".join(c if c.isprintable() else " " for c in line) for line in lines)

    def comments(self) -> tuple[str, ...]:
        """Return what stands on top of a file that opens a port."""
        return (*self.proof, *self.notes(published=True))

    @property
    def encrypted(self) -> bool:
        return "ssl-certfile" in self.added

    @property
    def left_out(self) -> tuple[str, ...]:
        """The names of arguments that it was tuned with and that are still missing."""
        given = {*self.added, *(["api-key"] if self.key else [])}
        return tuple(name for name in self.winner.left_out if name not in given)

    def notes(self, *, published: bool = False) -> Iterator[str]:
        """Yield what whoever deploys it must know; `published` where its port is opened."""
        if self.mixed:
            kinds = ", ".join(device.name for device in self.devices)
            yield f"it must find these GPUs, in the order of the PCI bus: {kinds}"
        if self.left_out:
            names = ", ".join(f"--{name}" for name in self.left_out)
            yield f"left out, since they belong to the deployment: {names}"
        if published and self.key is None:
            yield f"no key protects port {self.port}: add one with --api-key-from"

    def refuse_added(self, names: Iterable[str], reason: str) -> None:
        """Raise BadUsage for an argument whose place in a format is not the user's."""
        for name in names:
            if name in self.added:
                raise BadUsage(f"--{name} cannot be added: {reason}", f"drop --{name}")

    def refuse_mixed(self, target: str) -> None:
        """Raise BadReport where GPUs are of several kinds, and a format asks for one."""
        if self.mixed:
            hint = "use --as docker or --as systemd, or tune on GPUs of one kind: --gpus"
            raise BadReport(f"{target} asks for one kind of GPU, and it runs on several", hint)

    def key_variable(self, form: str) -> str | None:
        """Return the variable that holds the key; raise BadUsage for a secret of Kubernetes."""
        if self.key is None:
            return None
        if self.key.kind == "secret":
            hint = "use --api-key-from env:NAME, or a format of Kubernetes"
            raise BadUsage(f"--as {form} cannot read a secret of Kubernetes", hint)
        return self.key.name


def added_arguments(words: Sequence[str], winner: "Winner") -> dict[str, Value]:
    """Return arguments to add to a winner. Raises BadUsage for those that are not its own to add.

    What was proven must stay as it is, and a key that is written down is none.
    """
    added = parse_arguments(words)
    for name, value in added.items():
        if is_credential(name, value):
            hint = "name where it comes from: --api-key-from env:NAME or secret:NAME/KEY"
            raise BadUsage(f"--{name} would be written down in plain text", hint)
        if name in winner.args:
            raise BadUsage(f"--{name} is part of the winner", "tune again with it after `--`")
        if name not in DEPLOYMENT:
            hint = "tune again with it after `--`"
            raise BadUsage(f"--{name} could change what was proven", hint)
    return added


def as_json(text: str) -> str:
    """Return text in quotes on one line, in which what cannot be printed is escaped."""
    return "".join(
        c if c.isprintable() or c > "\uffff" else f"\\u{ord(c):04x}"
        for c in json.dumps(text, ensure_ascii=False)
    )
