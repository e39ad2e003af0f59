"""A model on the Hub is understood from a few kilobytes; without a way there it is refused."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs

import pytest

from tests.support.pace import LATEST
from tests.support.paths import ROOT, SHAPES
from tests.support.small_model import SIZES, SMALL, WEIGHTS, headed, make
from vllm_autotune.checkpoint import read_checkpoint

CODE = "from vllm_autotune.cli import main; main()"
READ = "import sys; from vllm_autotune.checkpoint import *; print(read_checkpoint(*sys.argv[1:]))"
COMMIT = "0123456789abcdef0123456789abcdef01234567"

pytest.importorskip("huggingface_hub")


class Hub(ThreadingHTTPServer):
    """Stands in for huggingface.co: one folder of models, and what was sent of it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.folder = folder
        self.refusals: dict[str, tuple[int, str]] = {}
        self.quantized: dict[str, list[str]] = {}
        self.seconds = 0.0
        self.nonsense: tuple[int, bytes] | None = None
        self.sent = 0

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        path, _, asked = self.path.partition("?")
        parts = path.strip("/").split("/")
        if parts == ["api", "models"]:
            self.listed(parse_qs(asked)["filter"], body=body)
            return
        api = parts[:2] == ["api", "models"]
        model, rest = "/".join(parts[2:4] if api else parts[:2]), parts[4 if api else 2 :]
        if model in self.server.refusals:
            code, why = self.server.refusals[model]
            self.send(code, b"{}", {"X-Error-Code": why}, body=body)
        elif not (self.server.folder / model).is_dir():
            self.send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, body=body)
        elif api and rest[:1] == ["revision"] and rest[1] not in ("main", COMMIT):
            self.send(404, b"{}", {"X-Error-Code": "RevisionNotFound"}, body=body)
        elif api:
            files = sorted(path.name for path in (self.server.folder / model).iterdir())
            info = {"id": model, "sha": COMMIT, "siblings": [{"rfilename": f} for f in files]}
            self.send(200, json.dumps(info).encode(), {}, body=body)
        else:
            self.file(self.server.folder / model / rest[-1], body=body)

    def listed(self, tags: list[str], *, body: bool) -> None:
        """Answer which models have these tags."""
        time.sleep(self.server.seconds)
        if self.server.nonsense is not None:
            code, content = self.server.nonsense
            self.send(code, content, {}, body=body)
            return
        of = next(tag for tag in tags if ":" in tag).removeprefix("base_model:quantized:")
        found = [{"id": name, "modelId": name} for name in self.server.quantized.get(of, ())]
        self.send(200, json.dumps(found).encode(), {}, body=body)

    def file(self, path: Path, *, body: bool) -> None:
        content = path.read_bytes()
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{path.name}"'}
        asked = self.headers.get("range")
        if asked:
            first, last = (int(end) for end in asked.removeprefix("bytes=").split("-"))
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            content = content[first : last + 1]
        self.send(206 if asked else 200, content, headers, body=body)

    def send(self, code: int, content: bytes, headers: dict[str, str], *, body: bool) -> None:
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            with suppress(BrokenPipeError):  # who asked may have lost patience
                self.wfile.write(content)
            self.server.sent += len(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with Hub(tmp_path / "hub") as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def plan(hub_address: str, home: Path, *words: str, **env: str) -> tuple[int, str, str]:
    return run(CODE, hub_address, home, "plan", "--json", "--device", "4090", *words, **env)


def run(code: str, hub_address: str, home: Path, *words: str, **env: str) -> tuple[int, str, str]:
    """Run in a process of its own: the library reads its environment when it is imported."""
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
            "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}",
            "HF_ENDPOINT": hub_address,
            "HF_HOME": str(home),
            **env,
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=LATEST,
    )
    return done.returncode, done.stdout, " ".join(done.stderr.split())


def test_a_model_on_the_hub_is_known_from_its_headers_alone(hub: Hub, tmp_path: Path) -> None:
    folder = make(tmp_path / "hub" / "org" / "Tiny", tensors={**WEIGHTS, "big": ("F32", [9**7])})
    (folder / "adapter_model.safetensors").write_bytes(b"not looked at")
    code, out, err = plan(hub.address, tmp_path / "home", "--model", "org/Tiny")
    assert code == 0, err
    found: dict[str, Any] = json.loads(out)["model"]
    assert found["path"] == "org/Tiny"
    assert found["revision"] == COMMIT
    assert found["weight_bytes"] == read_checkpoint(str(folder)).weight_bytes
    assert found["weight_bytes"] > 19_000_000
    assert hub.sent < 250_000
    # Nothing is left in the cache that would pass for a downloaded model.
    assert not list((tmp_path / "home").rglob("config.json"))


def test_modelopts_own_file_is_read_from_the_hub_too(hub: Hub, tmp_path: Path) -> None:
    folder = make(tmp_path / "hub" / "org" / "Tiny-FP8")
    words = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8"}}
    (folder / "hf_quant_config.json").write_text(json.dumps(words))
    code, out, err = plan(hub.address, tmp_path / "home", "--model", "org/Tiny-FP8")
    assert code == 0, err
    assert json.loads(out)["model"]["quantization"] == "modelopt"


def test_a_model_that_is_only_begun_in_the_cache_is_read_from_the_hub(
    hub: Hub, tmp_path: Path
) -> None:
    make(tmp_path / "hub" / "org" / "Tiny")
    repository = tmp_path / "home" / "hub" / "models--org--Tiny"
    snapshot = repository / "snapshots" / COMMIT
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    snapshot.mkdir(parents=True)
    (snapshot / "tokenizer.json").write_text("{}")
    for lacks in ("has no config.json", "has no weights"):
        offline = {"HF_HUB_OFFLINE": "1"}
        code, _, err = plan(hub.address, tmp_path / "home", "--model", "org/Tiny", **offline)
        assert code == 3
        assert lacks in err
        assert "hf download org/Tiny" in err
        code, out, err = plan(hub.address, tmp_path / "home", "--model", "org/Tiny")
        assert code == 0, err
        assert json.loads(out)["model"]["path"] == "org/Tiny"
        (snapshot / "config.json").write_text(json.dumps(SMALL))


def test_the_modules_of_a_model_are_read_from_the_hub_too(hub: Hub, tmp_path: Path) -> None:
    folder = make(tmp_path / "hub" / "org" / "Embedding")
    modules = [{"type": "sentence_transformers.models.Pooling"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    code, out, err = run(READ, hub.address, tmp_path / "home", "org/Embedding")
    assert code == 0, err
    assert "pooled=True" in out


def test_a_revision_that_is_not_there_is_refused(hub: Hub, tmp_path: Path) -> None:
    make(tmp_path / "hub" / "org" / "Tiny")
    words = ("--model", "org/Tiny", "--revision", "v9")
    code, _, err = plan(hub.address, tmp_path / "home", *words)
    assert code == 3
    assert "org/Tiny at revision v9 is neither on this machine nor on the Hugging Face Hub" in err


def test_what_the_hub_does_not_have_or_show_is_refused(hub: Hub, tmp_path: Path) -> None:
    make(tmp_path / "hub" / "org" / "Secret")
    hub.refusals["org/Secret"] = (403, "GatedRepo")
    code, _, err = plan(hub.address, tmp_path / "home", "--model", "org/Secret")
    assert code == 3
    assert "org/Secret is gated" in err
    assert "hf auth login" in err
    code, _, err = plan(hub.address, tmp_path / "home", "--model", "org/Typo")
    assert code == 3
    assert "org/Typo is neither on this machine nor on the Hugging Face Hub" in err


def test_a_model_without_safetensors_has_no_known_size(hub: Hub, tmp_path: Path) -> None:
    make(tmp_path / "hub" / "org" / "Old", tensors=None)
    code, _, err = plan(hub.address, tmp_path / "home", "--model", "org/Old")
    assert code == 3
    assert "org/Old has no weights" in err
    words = ("--model", "org/Old", "--", "--load-format", "dummy")
    assert plan(hub.address, tmp_path / "home", *words)[0] == 0


def test_without_a_way_to_the_hub_a_download_is_asked_for(hub: Hub, tmp_path: Path) -> None:
    make(tmp_path / "hub" / "org" / "Tiny")
    said = "org/Tiny is neither a local folder nor in the Hugging Face cache"
    offline = plan(hub.address, tmp_path / "home", "--model", "org/Tiny", HF_HUB_OFFLINE="1")
    nobody = plan("http://127.0.0.1:9", tmp_path / "home", "--model", "org/Tiny")
    hub.refusals["org/Tiny"] = (500, "")
    broken = plan(hub.address, tmp_path / "home", "--model", "org/Tiny")
    for code, _, err in (offline, nobody, broken):
        assert code == 3
        assert said in err
        assert "hf download org/Tiny" in err
    assert hub.sent < 100


def test_a_folder_is_never_asked_about(hub: Hub, tmp_path: Path) -> None:
    folder = make(tmp_path / "Tiny", SMALL)
    assert plan(hub.address, tmp_path / "home", "--model", str(folder))[0] == 0
    assert hub.sent == 0


# A 32B model without its weights, as the headers of a file that holds nothing say.
LARGE = json.loads((SHAPES / "qwen2.5-32b.json").read_text())
LAYER = {"q_proj": [5120, 5120], "up_proj": [27648, 5120], "down_proj": [5120, 27648]}


def publish(folder: Path, method: str | None, dtype: str, config: object = LARGE) -> Path:
    """Make a checkpoint of 64 layers whose files have a header and no bytes."""
    assert isinstance(config, dict)
    more = {"quantization_config": {"quant_method": method}} if method else {}
    made = make(folder, {**config, **more}, None)
    header, end = {}, 0
    for name, (kind, dims) in _tensors(dtype).items():
        start, end = end, end + SIZES[kind] * dims[0] * dims[1]
        header[name] = {"dtype": kind, "shape": dims, "data_offsets": [start, end]}
    (made / "model.safetensors").write_bytes(headed(header))
    return made


def _tensors(dtype: str) -> dict[str, tuple[str, list[int]]]:
    ends = {
        f"{name}.weight": ("BF16", [152064, 5120]) for name in ("model.embed_tokens", "lm_head")
    }
    ratio = 8 if dtype == "I32" else 1
    layers = {
        f"model.layers.{number}.{name}.weight": (dtype, [rows, columns // ratio])
        for number in range(64)
        for name, (rows, columns) in LAYER.items()
    }
    return {**ends, **layers}


def helped(hub: Hub, home: Path, *words: str, **env: str) -> dict[str, dict[str, Any]]:
    """Plan a 32B model for a card of 24 GiB, and return what would help."""
    code, out, err = plan(hub.address, home, *words, **env)
    assert code == 0, err
    return {each["name"]: each for each in json.loads(out)["would_help"]}


@pytest.fixture
def large(hub: Hub, tmp_path: Path) -> Hub:
    """The 32B model, and checkpoints that say that they are quantized from it."""
    models = tmp_path / "hub"
    publish(models / "org" / "Large", None, "BF16")
    publish(models / "org" / "Large-AWQ", "awq", "I32")
    publish(models / "RedHatAI" / "Large-FP8-dynamic", "fp8", "F8_E4M3")
    publish(models / "somebody" / "Large-AWQ", "awq", "I32")
    names = ("somebody/Large-AWQ", "org/Large-AWQ", "RedHatAI/Large-FP8-dynamic")
    hub.quantized["org/Large"] = [*names, "org/Large-GGUF", "org/Large-Distill-AWQ"]
    return hub


def test_a_quantized_checkpoint_on_the_hub_would_help(large: Hub, tmp_path: Path) -> None:
    found = helped(large, tmp_path / "home", "--model", "org/Large")["quantized-checkpoint"]
    assert "org/Large-AWQ" in found["what"]
    assert found["weight_bits"] == 4
    assert found["full_length_sequences"]["low"] >= 1


def test_one_that_is_of_another_model_does_not(large: Hub, tmp_path: Path) -> None:
    other = {**LARGE, "num_hidden_layers": 32}
    publish(tmp_path / "hub" / "org" / "Large-AWQ", "awq", "I32", other)
    assert "quantized-checkpoint" not in helped(large, tmp_path / "home", "--model", "org/Large")


def test_who_gives_nothing_up_asks_for_none(large: Hub, tmp_path: Path) -> None:
    words = ("plan", "--json", "--device", "B200", "--model", "org/Large")
    code, out, err = run(CODE, large.address, tmp_path / "home", *words)
    assert code == 0, err
    assert json.loads(out)["would_help"] == []


@pytest.mark.parametrize("nonsense", [(500, b""), (403, b"{}"), (200, b"<html>"), (200, b"[{}]")])
def test_a_hub_that_answers_nonsense_is_not_heard(
    large: Hub, tmp_path: Path, nonsense: tuple[int, bytes]
) -> None:
    large.nonsense = nonsense
    words = ("--model", "org/Large")
    code, out, err = plan(large.address, tmp_path / "home", *words)
    assert (code, err) == (0, "")
    assert "quantized-checkpoint" not in {each["name"] for each in json.loads(out)["would_help"]}


def test_nobody_waits_for_a_hub_that_does_not_answer(large: Hub, tmp_path: Path) -> None:
    large.seconds = 60.0
    began = time.monotonic()
    assert "quantized-checkpoint" not in helped(large, tmp_path / "home", "--model", "org/Large")
    assert time.monotonic() - began < 30


def test_a_folder_does_not_ask_the_hub_for_its_like(large: Hub, tmp_path: Path) -> None:
    folder = make(tmp_path / "Large", LARGE, None)
    words = ("--model", str(folder), "--", "--load-format", "dummy")
    assert "another-gpu" in helped(large, tmp_path / "home", *words)
    assert large.sent == 0
