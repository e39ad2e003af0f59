"""What the fake answers over HTTP."""

import http
import http.server
import json
import os
import signal
import socket
import struct
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .card import out_of_memory
from .scheduler import EngineDead
from .vision import NoImage, images_in, tokens_of
from .words import ENGINE_DEAD, raw, say

if TYPE_CHECKING:
    from .api import Api, Server


# So many tokens tell one prompt from another, and so many in turn are a repetition.
HEAD = 8
PATTERN = 4


def count_tokens(body: dict[str, Any], chat: bool, image_tokens: int = 0) -> int:
    """Count the prompt: token ids exactly, text by its words, an image by its size."""
    if chat:
        messages = body.get("messages", [])
        seen = sum(tokens_of(size, image_tokens) for size in images_in(body))
        return 8 + seen + sum(8 + len(text_of(message).split()) for message in messages)
    prompt = body.get("prompt", "")
    return len(prompt) if isinstance(prompt, list) else max(len(prompt.split()), 1)


def text_of(message: dict[str, Any]) -> str:
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return " ".join(part["text"] for part in content if part["type"] == "text")


class Refusal(Exception):
    """An HTTP error in the shape of vLLM's."""

    def __init__(self, status: int, kind: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": status}}


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: "Server"
    disable_nagle_algorithm = True

    @property
    def api(self) -> "Api":
        return self.server.api

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        if "disable-uvicorn-access-log" in self.api.card.args:
            return
        phrase = http.HTTPStatus(int(code)).phrase
        host, port = self.client_address
        raw(f'INFO:     {host}:{port} - "{self.requestline}" {int(code)} {phrase}')

    def reply(self, status: int, body: object = None, kind: str = "application/json") -> None:
        content = b"" if body is None else str(body).encode()
        if isinstance(body, dict | list):
            content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        script = self.api.script
        path = self.path.partition("?")[0]
        if script.is_on("hang_all"):
            self.api.stop.wait()
        if path == "/health":
            lies = script.is_on("health_lies")
            self.reply(503 if self.api.scheduler.dead.is_set() and not lies else 200)
        elif path == "/v1/models":
            if script.is_on("dies_when_listed"):
                os.kill(os.getpid(), signal.SIGKILL)
            self.answer(self.models)
        elif path == "/metrics" and not script.is_on("metrics_missing"):
            card = self.api.card
            names = self.api.models
            text = self.api.scheduler.metrics(names[0], card.utilization, card.block)
            self.reply(200, text, "text/plain; version=1.0.0; charset=utf-8")
        elif path == "/openapi.json":
            self.reply(200, {"paths": {each: {} for each in self.paths}})
        elif path == "/version":
            self.reply(200, {"version": script.version})
        else:
            self.reply(404, {"detail": "Not Found"})

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.partition("?")[0]
        if path not in self.paths:
            self.reply(404, {"detail": "Not Found"})
            return
        if path == "/v1/embeddings":
            self.answer(lambda: self.embed(json.loads(content)))
            return
        chat = path.endswith("chat/completions")
        self.answer(lambda: self.complete(json.loads(content), chat))

    @property
    def paths(self) -> tuple[str, ...]:
        if self.api.script.is_on("pooling"):
            return ("/v1/embeddings",)
        return ("/v1/completions", "/v1/chat/completions")

    def answer(self, work: Any) -> None:
        try:
            if self.api.api_key and self.headers.get("Authorization") != (
                f"Bearer {self.api.api_key}"
            ):
                self.reply(401, {"error": "Unauthorized"})
                return
            work()
        except Refusal as refusal:
            self.reply(refusal.status, refusal.body)
        except EngineDead:
            self.reply(500, Refusal(500, "InternalServerError", ENGINE_DEAD).body)

    def models(self) -> None:
        length = self.api.scheduler.max_model_len
        if self.api.script.is_on("wrong_model_len"):
            length //= 2
        cards = [
            {
                "id": name,
                "object": "model",
                "created": int(time.time()),
                "owned_by": "vllm",
                "root": self.api.card.text("model"),
                "parent": None,
                "max_model_len": length,
            }
            for name in self.api.models
        ]
        parent = {"parent": self.api.models[0], "max_model_len": None}
        cards += [{**cards[0], "id": name, **parent} for name in self.api.adapters]
        self.reply(200, {"object": "list", "data": cards})

    def complete(self, body: dict[str, Any], chat: bool) -> None:
        script, scheduler = self.api.script, self.api.scheduler
        if script.is_on("hang_all"):
            self.api.stop.wait()
        if script.is_on("tells_key"):
            raise Refusal(403, "Forbidden", f"{self.headers.get('Authorization')} may not do this")
        prompt = self.accepted_prompt(body, chat)
        with scheduler.changed:
            scheduler.requests += 1
            request = scheduler.requests
        self.misbehave(request, prompt, body)
        room = max(scheduler.max_model_len - prompt, 1)
        asked = body.get("max_completion_tokens") or body.get("max_tokens")
        wanted = min(asked or (32 if chat else 16), room)
        tokens = scheduler.tokens(prompt, self.delivered(wanted))
        if body.get("stream"):
            self.stream(body, chat, prompt, tokens)
            return
        texts = list(tokens)
        if script.is_on("garbage"):
            self.reply(200, "<html>gateway</html>")
            return
        text = "" if script.is_on("empty_text") else "".join(texts)
        choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": self.ending}
        choice |= {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        if "response_format" in body:
            choice["finish_reason"] = "stop"
            if not script.is_on("ignores_schema"):
                choice["message"] = {"role": "assistant", "content": '"red"'}
            if script.is_on("thinks"):
                choice["message"] = {"role": "assistant", "content": None, "reasoning": text}
        if "tools" in body:
            called = {"type": "function", "function": {"name": "paint", "arguments": "{}"}}
            choice["finish_reason"] = "length" if script.is_on("thinks") else "stop"
            if not (script.is_on("calls_no_tool") or script.is_on("thinks")):
                choice["message"] = {"role": "assistant", "tool_calls": [called]}
        if body.get("logprobs") and not chat:
            value = None if script.is_on("nan_logits") else -1.0
            choice["logprobs"] = {"token_logprobs": [value for _ in texts]}
        if body.get("prompt_logprobs") and not script.is_on("no_logprobs"):
            choice["prompt_logprobs"] = [
                None,
                *({"1": {"logprob": -1.0}} for _ in range(prompt - 1)),
            ]
        document = self.envelope(body, chat, chunk=False)
        usage = self.usage(prompt, len(texts))
        self.reply(200, {**document, "choices": [choice], "usage": usage})

    def embed(self, body: dict[str, Any]) -> None:
        prompt = self.accepted_prompt({**body, "prompt": body["input"], "max_tokens": 0}, False)
        list(self.api.scheduler.tokens(prompt, 0))
        vector = [0.0 if self.api.script.is_on("empty_vector") else 0.5] * 8
        data = [{"index": 0, "object": "embedding", "embedding": vector}]
        usage = {"prompt_tokens": prompt, "total_tokens": prompt, "completion_tokens": 0}
        self.reply(200, {"object": "list", "data": data, "usage": usage})

    def accepted_prompt(self, body: dict[str, Any], chat: bool) -> int:
        """Return the length of the prompt, or refuse the request as vLLM would."""
        script, length = self.api.script, self.api.scheduler.max_model_len
        model = body.get("model")
        if model is not None and model not in [*self.api.models, *self.api.adapters]:
            aliases = ", ".join(self.api.models)
            message = f"The model `{model}` does not exist. Valid aliases: {aliases}."
            raise Refusal(404, "NotFoundError", message, "model")
        if script.is_on("bad_adapter") and model in self.api.adapters:
            raise Refusal(500, "InternalServerError", "Internal server error")
        ids = body.get("prompt")
        if isinstance(ids, list):
            too_high = [n for n in ids if isinstance(n, int) and n >= self.api.vocab_size]
            if too_high:
                message = f"Token id {too_high[0]} is out of vocabulary"
                raise Refusal(400, "BadRequestError", message)
        if script.is_on("keeps_logprobs") and body.get("logprobs"):
            message = "Requested sample logprobs of 1, which is greater than max allowed: 0"
            raise Refusal(400, "BadRequestError", message)
        images = self.accepted_images(body) if chat else 0
        prompt = count_tokens(body, chat, script.image_tokens)
        if images and script.is_on("fails_images_beside_text") and prompt > length // 2:
            status = 400 if prompt >= length else 500
            raise Refusal(status, "InternalServerError", ENGINE_DEAD)
        full = prompt + (body.get("max_tokens") or 16) >= length
        over = prompt >= length + script.is_on("pooling") and not script.is_on("accepts_over_long")
        if over and script.is_on("dies_of_over_long"):
            self.api.engine.perish()
            raise Refusal(500, "InternalServerError", "EngineCore encountered an issue.")
        if over or (script.is_on("rejects_full_length") and full):
            message = (
                f"This model's maximum context length is {length} tokens. However, your prompt "
                f"contains {prompt} input tokens, which exceeds this limit even without any output "
                "tokens. Please reduce the length of the input prompt. "
                f"(parameter=input_tokens, value={prompt})"
            )
            raise Refusal(400, "BadRequestError", message, "input_tokens")
        return prompt

    def accepted_images(self, body: dict[str, Any]) -> int:
        """Return how many images there are, or refuse them as vLLM would."""
        script, args = self.api.script, self.api.card.args
        if script.is_on("text_only") and "image_url" in str(body.get("messages")):
            raise Refusal(400, "BadRequestError", "fake is not a multimodal model")
        try:
            count = len(images_in(body))
        except NoImage as broken:
            status = 500 if script.is_on("fails_broken_images") else 400
            raise Refusal(status, "BadRequestError", f"Failed to load image: {broken}") from broken
        limit = json.loads("".join(args.get("limit-mm-per-prompt", ["{}"]))).get("image", 999)
        limit = 0 if "language-model-only" in args else limit
        if count > limit and not script.is_on("takes_any_number"):
            status = 500 if script.is_on("fails_image_too_many") else 400
            message = f"At most {limit} image(s) may be provided in one prompt."
            raise Refusal(status, "BadRequestError", message)
        return count

    def grew(self, body: dict[str, Any]) -> bool:
        """Tell whether a prompt adds a quarter of the context to one that was sent before."""
        ids, seen = body.get("prompt"), self.api.prompts
        if not isinstance(ids, list) or len(ids) < HEAD:
            return False
        head = tuple(ids[:HEAD])
        before = seen.setdefault(head, len(ids))
        seen[head] = max(before, len(ids))
        return len(ids) - before > self.api.scheduler.max_model_len // 4

    def misbehave(self, request: int, prompt: int, body: dict[str, Any]) -> None:
        """Do what the script wants done before a request runs."""
        api, script, scheduler = self.api, self.api.script, self.api.scheduler
        dying = script.die_at == "serving" or script.is_on("health_lies")
        if dying and request >= script.after:
            api.engine.perish()
            scheduler.pause(10)
        if script.is_on("fails_sessions") and self.grew(body):
            raise Refusal(500, "InternalServerError", ENGINE_DEAD)
        drafted = len(set(body.get("prompt") or ())) == PATTERN < prompt
        if script.is_on("fails_drafts") and drafted and scheduler.running > 1:
            raise Refusal(500, "InternalServerError", ENGINE_DEAD)
        if script.is_on("reset") and request % script.every == 0:
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.close()
            raise ConnectionResetError
        if script.is_on("rate_limit") and scheduler.running >= script.limit:
            raise Refusal(429, "TooManyRequestsError", "Too many requests in the queue")
        long_tokens = script.long_tokens or scheduler.max_model_len // 2
        if script.is_on("error_500_long") and prompt > long_tokens:
            raise Refusal(500, "InternalServerError", "Internal server error")
        if script.is_on("oom_line"):
            say("EngineCore", "core.py:700", out_of_memory(api.card, "serving"), "ERROR")
        if script.is_on("preemption_storm"):
            scheduler.preempt(50, prompt)
        if script.is_on("memory_creep"):
            api.creep.append(b"\1" * 2**20)
        if script.is_on("engine_restart") and request == script.after:
            api.replace_engine()

    def delivered(self, wanted: int) -> int:
        script = self.api.script
        if script.is_on("zero_tokens"):
            return 0
        return wanted // 2 if script.is_on("too_few_tokens") else wanted

    @property
    def ending(self) -> str:
        return "stop" if self.api.script.is_on("wrong_finish") else "length"

    def usage(self, prompt: int, generated: int) -> dict[str, int]:
        if self.api.script.is_on("wrong_usage"):
            prompt += 7
        return {
            "prompt_tokens": prompt,
            "total_tokens": prompt + generated,
            "completion_tokens": generated,
        }

    def envelope(self, body: dict[str, Any], chat: bool, chunk: bool) -> dict[str, Any]:
        kind = "chat.completion" if chat else "text_completion"
        return {
            "id": ("chatcmpl-" if chat else "cmpl-") + os.urandom(8).hex(),
            "object": kind + (".chunk" if chat and chunk else ""),
            "created": int(time.time()),
            "model": body.get("model") or self.api.models[0],
        }

    def stream(self, body: dict[str, Any], chat: bool, prompt: int, tokens: Iterator[str]) -> None:
        script = self.api.script
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        document = self.envelope(body, chat, chunk=True)
        if chat:
            delta = {"role": "assistant", "content": ""}
            first = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
            self.event({**document, "choices": [first]})
        asked = body.get("max_completion_tokens") or body.get("max_tokens") or 16
        if script.is_on("stream_garbage"):
            self.chunk("<html>gateway</html>\n\n")
        count = 0
        try:
            for text in tokens:
                count += 1
                if script.is_on("stream_cut") and count > asked // 2:
                    self.close_connection = True
                    return
                last = count == asked
                shown = "" if script.is_on("empty_text") else text
                piece = {"delta": {"content": shown}} if chat else {"text": shown}
                end = {"index": 0, "logprobs": None, "finish_reason": self.ending if last else None}
                self.event({**document, "choices": [{**end, **piece}]})
        except OSError:
            if script.is_on("leak_blocks"):
                self.api.scheduler.used += prompt
            raise
        except EngineDead:
            self.event(Refusal(500, "InternalServerError", ENGINE_DEAD).body)
        else:
            wants_usage = (body.get("stream_options") or {}).get("include_usage")
            if wants_usage and not script.is_on("stream_no_usage"):
                self.event({**document, "choices": [], "usage": self.usage(prompt, count)})
        if not script.is_on("stream_no_done"):
            self.chunk("data: [DONE]\n\n")
        self.chunk("")

    def event(self, document: dict[str, Any]) -> None:
        self.chunk(f"data: {json.dumps(document)}\n\n")

    def chunk(self, text: str) -> None:
        content = text.encode()
        self.wfile.write(f"{len(content):x}\r\n".encode() + content + b"\r\n")
