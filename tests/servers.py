"""Real HTTP servers that speak chat completions: one that behaves by a script, one with the embedded model."""

from __future__ import annotations

import base64
import io
import json
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Handle = Callable[[dict[str, Any], int], Any]


def completion(text: str | None, *, finish: str = "stop", read: int = 10, written: int = 5) -> dict[str, Any]:
    """A response as OpenAI's servers write it."""
    return {
        "id": "x", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written},
    }  # fmt: skip


@dataclass(frozen=True)
class Status:
    """A response that is no completion."""

    code: int
    body: str = '{"error": {"message": "no"}}'
    headers: dict[str, str] = field(default_factory=dict)


class Hang:
    """No response until the test ends."""


class Reset:
    """The connection is torn."""


class Torn:
    """Half of a good response, and then the connection is closed."""


class Drip:
    """A good response, a byte at a time and never whole: no single read is slow."""


@dataclass
class Server:
    """Where it listens, and what it was sent: bodies and authorization headers."""

    url: str
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    models: list[dict[str, Any]] | None = None
    """What it lists as its models; None: it has no such list."""


@contextmanager
def scripted(handle: Handle) -> Iterator[Server]:
    """A server whose answer to a request and its number (from 0) is a completion, bytes, a Status, or one of Hang,
    Reset, Torn and Drip."""
    released, lock, server = threading.Event(), threading.Lock(), Server("")

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None: ...

        def do_GET(self) -> None:
            if server.models is None:
                self._send(404, b"{}", {})
            else:
                self._send(200, json.dumps({"object": "list", "data": server.models}).encode(), {})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                number = len(server.requests)
                server.requests.append(body)
                server.keys.append(self.headers["Authorization"])
            match handle(body, number):
                case Hang():
                    released.wait()
                    self.close_connection = True
                case Reset():
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self.connection.close()
                    self.close_connection = True
                case Torn():
                    whole = json.dumps(completion("good")).encode()
                    self._head(200, len(whole), {})
                    self.wfile.write(whole[: len(whole) // 2])
                    self.close_connection = True
                case Drip():
                    self._head(200, 10_000, {})
                    while not released.wait(0.02):
                        self.wfile.write(b" ")
                        self.wfile.flush()
                    self.close_connection = True
                case Status(code, text, headers):
                    self._send(code, text.encode(), headers)
                case bytes() as raw:
                    self._send(200, raw, {})
                case found:
                    self._send(200, json.dumps(found).encode(), {})

        def _head(self, code: int, length: int, headers: dict[str, str]) -> None:
            self.send_response(code)
            for name, value in ({"Content-Type": "application/json", "Content-Length": str(length)} | headers).items():
                self.send_header(name, value)
            self.end_headers()

        def _send(self, code: int, body: bytes, headers: dict[str, str]) -> None:
            self._head(code, len(body), headers)
            self.wfile.write(body)

        def finish(self) -> None:
            try:
                super().finish()
            except OSError:  # torn on purpose
                self.rfile.close()

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, *_: Any) -> None: ...

    with Quiet(("127.0.0.1", 0), Handler) as http:
        server.url = f"http://127.0.0.1:{http.server_port}/v1"
        thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            released.set()
            http.shutdown()
            thread.join()


def faulty(
    good: Callable[[dict[str, Any]], Any], *, seed: int, share: float = 0.3, kinds: Sequence[Any] = ()
) -> Handle:
    """What a scripted server does whose answers to a seeded share of the requests are faults, by their number."""
    rng = random.Random(seed)
    kinds = kinds or [
        Status(429, headers={"Retry-After": "0"}),
        Status(500),
        Status(503),
        Hang(),
        Reset(),
        Torn(),
        Drip(),
    ]
    schedule = [rng.choice(kinds) if rng.random() < share else None for _ in range(5000)]
    return lambda body, number: schedule[number] or good(body)


def prompt_of(body: dict[str, Any]) -> str:
    """The text of a request."""
    content = body["messages"][0]["content"]
    return content if isinstance(content, str) else next(p["text"] for p in content if p["type"] == "text")


def pictures_of(body: dict[str, Any]) -> list[Any]:
    """The pictures of a request, uint8 [H, W, 3] each."""
    import numpy as np
    from PIL import Image

    content = body["messages"][0]["content"]
    urls = [] if isinstance(content, str) else [p["image_url"]["url"] for p in content if p["type"] == "image_url"]
    assert all(url.startswith("data:image/jpeg;base64,") for url in urls)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))) for url in urls]


@contextmanager
def embedded_server() -> Iterator[Server]:
    """The embedded model behind FastAPI: pictures become a clip at 2 frames a second, text alone stays text."""
    import numpy as np
    import uvicorn
    from fastapi import FastAPI

    from rbft.clips.frames import Frames
    from rbft.models.generate import generate, generate_text
    from rbft.models.vlm import VLM
    from rbft.records import FramePlan

    vlm, lock, app, server = VLM.load("embedded"), threading.Lock(), FastAPI(), Server("")

    @app.post("/v1/chat/completions")
    def complete(body: dict[str, Any]) -> dict[str, Any]:
        prompt, pictures = prompt_of(body), pictures_of(body)
        with lock:
            server.requests.append(body)
            if pictures:
                seconds = np.arange(len(pictures), dtype=np.float64) / 2
                height, width = pictures[0].shape[:2]
                plan = FramePlan(
                    times_seconds=tuple(map(float, seconds)), width=width, height=height, frames_per_second=2.0,
                    short_clip_policy="repeat-last",
                )  # fmt: skip
                encoded = vlm.encode(Frames(np.stack(pictures), seconds), plan, prompt)
                told, [made] = len(encoded.input_ids), generate(vlm, [encoded], max_new_tokens=body["max_tokens"])
            else:
                ids = vlm.encode_text(prompt)
                told, [made] = len(ids), generate_text(vlm, [ids], max_new_tokens=body["max_tokens"])
        finish = "stop" if made.finished else "length"
        return completion(made.text, finish=finish, read=told, written=made.num_tokens)

    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_level="error", lifespan="off", ws="none")
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    server.url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    try:
        yield server
    finally:
        running.should_exit = True
        thread.join()
        listening.close()
