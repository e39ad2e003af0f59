"""The winner in a container of vLLM's own image: docker, docker compose, podman's quadlet."""

import csv
import io
from typing import Any

from ..command_line import quoted
from ..errors import BadUsage
from ..machine.device import visible_environment
from .local import systemd_word
from .paths import mounted_paths
from .service import KEY_VARIABLE, STOP_SECONDS, Service
from .yaml_text import write_yaml

# Where this user keeps models from the Hub, and where the image does (it runs as root).
HUB_HOME = "/root/.cache/huggingface"
HUB_CACHE = f"${{HF_HOME:-${{HOME}}/.cache/huggingface}}:{HUB_HOME}"
# A certificate need not be for 127.0.0.1.
HEALTH = (
    "import ssl, urllib.request as r; "
    "r.urlopen('{url}', timeout=9, context=ssl._create_unverified_context())"
)
QUADLET = """\
{comments}
[Unit]
Description=vLLM server {name}
Wants=network-online.target
After=network-online.target

[Container]
ContainerName={name}
Image={image}
PodmanArgs=--entrypoint=vllm --ipc=host
SecurityLabelDisable=true
PublishPort={port}:{port}
{settings}Exec={command}

[Service]
Restart=on-failure
RestartSec=10
TimeoutStartSec={start}
TimeoutStopSec={stop}
{passed}
[Install]
WantedBy=multi-user.target"""


def docker(service: Service) -> str:
    """Write the line that runs the winner; `-e HF_TOKEN` hands on the caller's, if there is one."""
    image, port = service.image, service.port
    words = ["docker", "run", "--rm", "--gpus", f'"device={_gpu_ids(service)}"']
    words += ["--ipc=host", "-p", f"{port}:{port}"]
    for path in mounted_paths(service):
        words += ["--mount", _row("type=bind", f"src={path}", f"dst={path}", "readonly")]
    for variable, value in service.winner.env.items():
        words += ["-e", f"{variable}={value}"]
    line = " ".join(map(quoted, words))
    if name := service.key_variable("docker"):
        line += f' -e {KEY_VARIABLE}="${{{name}:?}}"'
    if service.from_hub:
        line += f' -v "{HUB_CACHE}" -e HF_TOKEN'
    # The image's own entry point was the API server before it was `vllm serve`.
    command = ["--entrypoint", "vllm", image, *service.arguments]
    comments = [f"# {comment}" for comment in service.comments()]
    return "\n".join((*comments, f"{line} {' '.join(map(quoted, command))}"))


def compose(service: Service) -> str:
    """Write the file for `docker compose -f - up`."""
    winner, image, port = service.winner, service.image, service.port
    variables: dict[str, str | None] = {n: escaped_dollars(v) for n, v in winner.env.items()}
    bind = {"create_host_path": False}
    volumes: list[Any] = [
        {"type": "bind", "source": path, "target": path, "read_only": True, "bind": bind}
        for path in map(escaped_dollars, mounted_paths(service))
    ]
    if service.from_hub:
        variables["HF_TOKEN"] = None  # the caller's, if there is one
        volumes.append(HUB_CACHE)
    if name := service.key_variable("compose"):
        variables[KEY_VARIABLE] = f"${{{name}:?}}"
    ids = _gpu_ids(service).split(",")
    gpus = {"driver": "nvidia", "device_ids": ids, "capabilities": ["gpu"]}
    scheme = "https" if service.encrypted else "http"
    test = HEALTH.format(url=f"{scheme}://127.0.0.1:{port}/health")
    container = {
        "image": image,
        "entrypoint": ["vllm"],
        "command": [escaped_dollars(word) for word in service.arguments],
        "environment": variables,
        "ports": [f"{port}:{port}"],
        "ipc": "host",
        "volumes": volumes,
        "deploy": {"resources": {"reservations": {"devices": [gpus]}}},
        "healthcheck": {
            "test": ["CMD", "python3", "-c", test],
            "interval": "10s",
            "timeout": "10s",
            "retries": 3,
            "start_period": f"{service.start_seconds}s",
        },
        "stop_grace_period": f"{STOP_SECONDS}s",
        "restart": "on-failure",
    }
    document = {"name": service.name, "services": {"vllm": container}}
    return write_yaml(document, comments=service.comments())


def quadlet(service: Service) -> str:
    """Write the file NAME.container for podman (4.4 and later), which makes a unit of it.

    Podman splits and quotes the words again and systemd expands them (podman-systemd.unit(5)), so
    `$` and `%` are doubled as in a unit. GPUs are devices of the container device interface, as
    `nvidia-ctk cdi generate` names them: by index, a MIG slice by its UUID.
    """
    image = service.image
    if (name := service.key_variable("quadlet")) and name != KEY_VARIABLE:
        hint = f"use --api-key-from env:{KEY_VARIABLE}"
        raise BadUsage(f"systemd cannot hand {name} on as {KEY_VARIABLE}", hint)
    settings = [("AddDevice", f"nvidia.com/gpu={each}") for each in _gpu_ids(service).split(",")]
    settings += [
        ("Mount", _row("type=bind", f"source={path}", f"destination={path}", "readonly=true"))
        for path in mounted_paths(service)
    ]
    settings += [("Environment", f"{n}={value}") for n, value in service.winner.env.items()]
    if service.from_hub:
        settings.append(("Volume", f"vllm-hub:{HUB_HOME}"))
    words = [f"{name}={systemd_word(value, expanded=True)}\n" for name, value in settings]
    if name:
        words.append(f"PodmanArgs=--env={name}\n")
    return QUADLET.format(
        comments="\n".join(f"# {comment}" for comment in service.comments()),
        name=service.name,
        image=image,
        port=service.port,
        settings="".join(words),
        command=" ".join(systemd_word(word, expanded=True) for word in service.arguments),
        start=service.start_seconds,
        stop=STOP_SECONDS,
        passed=f"PassEnvironment={name}\n" if name else "",
    )


def escaped_dollars(text: str) -> str:
    """Return text in which compose (`$NAME`) and Kubernetes (`$(NAME)`) find no variable."""
    return text.replace("$", "$$")


def _row(*fields: str) -> str:
    """Return a line of CSV, as which docker and podman read a mount."""
    row = io.StringIO()
    csv.writer(row, lineterminator="").writerow(fields)
    return row.getvalue()


def _gpu_ids(service: Service) -> str:
    return visible_environment(service.devices)["CUDA_VISIBLE_DEVICES"]
